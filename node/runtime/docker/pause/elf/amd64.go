package elf

import "encoding/binary"

// System calls of x86-64.
const (
	x86RtSigprocmask   = 14
	x86Wait4           = 61
	x86RtSigtimedwait  = 128
	x86ExitGroup       = 231
	x86JumpIfEqual     = 0x74
	x86JumpIfDifferent = 0x75
	x86JumpIfGreater   = 0x7f
	x86Jump            = 0xeb
)

// x86 collects code; jumps are two bytes with a signed 8-bit distance, filled in when their label is known.
type x86 struct {
	code   []byte
	labels map[string]int
	jumps  map[int]string
}

func (a *x86) emit(b ...byte)    { a.code = append(a.code, b...) }
func (a *x86) label(name string) { a.labels[name] = len(a.code) }
func (a *x86) jump(op byte, to string) {
	a.emit(op, 0)
	a.jumps[len(a.code)] = to
}

// syscall loads eax and enters the kernel.
func (a *x86) syscall(n uint32) {
	a.emit(0xb8) // mov eax, imm32
	a.code = binary.LittleEndian.AppendUint32(a.code, n)
	a.emit(0x0f, 0x05) // syscall
}

func amd64() []byte {
	a := &x86{labels: map[string]int{}, jumps: map[int]string{}}
	a.emit(0x68) // push imm32: the mask, at rsp from here on
	a.code = binary.LittleEndian.AppendUint32(a.code, mask)
	a.emit(0x48, 0x89, 0xe6)             // mov rsi, rsp
	a.emit(0x31, 0xff)                   // xor edi, edi: SIG_BLOCK
	a.emit(0x31, 0xd2)                   // xor edx, edx
	a.emit(0x6a, sigsetSize, 0x41, 0x5a) // push 8; pop r10
	a.syscall(x86RtSigprocmask)          //
	a.label("loop")                      //
	a.emit(0x48, 0x89, 0xe7)             // mov rdi, rsp
	a.emit(0x31, 0xf6)                   // xor esi, esi: no siginfo
	a.emit(0x31, 0xd2)                   // xor edx, edx: no timeout
	a.emit(0x6a, sigsetSize, 0x41, 0x5a) // push 8; pop r10
	a.syscall(x86RtSigtimedwait)         //
	a.emit(0x83, 0xf8, sigCHLD)          // cmp eax, SIGCHLD
	a.jump(x86JumpIfEqual, "reap")       //
	a.emit(0x83, 0xf8, sigTERM)          // cmp eax, SIGTERM
	a.jump(x86JumpIfEqual, "exit")       //
	a.emit(0x83, 0xf8, sigINT)           // cmp eax, SIGINT
	a.jump(x86JumpIfDifferent, "loop")   // EINTR and the like
	a.label("exit")                      //
	a.emit(0x31, 0xff)                   // xor edi, edi
	a.syscall(x86ExitGroup)              //
	a.label("reap")                      //
	a.emit(0x48, 0x83, 0xcf, 0xff)       // or rdi, -1: any child
	a.emit(0x31, 0xf6)                   // xor esi, esi: no status
	a.emit(0x6a, wnohang, 0x5a)          // push WNOHANG; pop rdx
	a.emit(0x4d, 0x31, 0xd2)             // xor r10, r10: no rusage
	a.syscall(x86Wait4)                  //
	a.emit(0x85, 0xc0)                   // test eax, eax
	a.jump(x86JumpIfGreater, "reap")     // one was reaped
	a.jump(x86Jump, "loop")              //
	for at, name := range a.jumps {      //
		a.code[at-1] = byte(a.labels[name] - at) // distance from the end of the jump
	}
	return a.code
}
