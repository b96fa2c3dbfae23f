package elf

import "encoding/binary"

// System calls of arm64.
const (
	armExitGroup      = 94
	armRtSigprocmask  = 135
	armRtSigtimedwait = 137
	armWait4          = 260

	armEqual, armDifferent, armGreater = 0, 1, 12
	armAlways                          = -1
)

// arm collects instructions of four bytes; branches are filled in when their label is known.
type arm struct {
	code   []uint32
	labels map[string]int
	jumps  map[int]armJump
}

type armJump struct {
	cond int
	to   string
}

func (a *arm) emit(ins ...uint32) { a.code = append(a.code, ins...) }
func (a *arm) label(name string)  { a.labels[name] = len(a.code) }
func (a *arm) jump(cond int, to string) {
	a.jumps[len(a.code)] = armJump{cond, to}
	a.emit(0)
}

// mov xr, #v: movz, and movk for the upper half of a 32-bit value.
func (a *arm) mov(r, v uint32) {
	a.emit(0xd2800000 | (v&0xffff)<<5 | r)
	if v > 0xffff {
		a.emit(0xf2a00000 | (v>>16)<<5 | r)
	}
}

// movSP copies the stack pointer: add xr, sp, #0.
func (a *arm) movSP(r uint32) { a.emit(0x910003e0 | r) }

// compare w0, #v: a signal number is an int.
func (a *arm) compare(v uint32) { a.emit(0x7100001f | v<<10) }

func (a *arm) syscall(n uint32) {
	a.mov(8, n)
	a.emit(0xd4000001) // svc #0
}

func arm64() []byte {
	a := &arm{labels: map[string]int{}, jumps: map[int]armJump{}}
	a.mov(0, mask)
	a.emit(0xf81f0fe0) // str x0, [sp, #-16]!: the mask, at sp from here on
	a.mov(0, 0)        // SIG_BLOCK
	a.movSP(1)
	a.mov(2, 0)
	a.mov(3, sigsetSize)
	a.syscall(armRtSigprocmask)
	a.label("loop")
	a.movSP(0)
	a.mov(1, 0) // no siginfo
	a.mov(2, 0) // no timeout
	a.mov(3, sigsetSize)
	a.syscall(armRtSigtimedwait)
	a.compare(sigCHLD)
	a.jump(armEqual, "reap")
	a.compare(sigTERM)
	a.jump(armEqual, "exit")
	a.compare(sigINT)
	a.jump(armDifferent, "loop") // EINTR and the like
	a.label("exit")
	a.mov(0, 0)
	a.syscall(armExitGroup)
	a.label("reap")
	a.emit(0x92800000) // movn x0, #0: -1, any child
	a.mov(1, 0)        // no status
	a.mov(2, wnohang)
	a.mov(3, 0) // no rusage
	a.syscall(armWait4)
	a.compare(0)
	a.jump(armGreater, "reap") // one was reaped
	a.jump(armAlways, "loop")
	for at, j := range a.jumps {
		distance := uint32(a.labels[j.to] - at)
		if j.cond == armAlways {
			a.code[at] = 0x14000000 | distance&0x03ffffff
		} else {
			a.code[at] = 0x54000000 | distance&0x7ffff<<5 | uint32(j.cond)
		}
	}
	var out []byte
	for _, ins := range a.code {
		out = binary.LittleEndian.AppendUint32(out, ins)
	}
	return out
}
