// Package elf writes the pause program as a static ELF file, instruction by instruction, so that the bytes the agent
// carries can be made again on any machine without a C compiler or an assembler.
//
// The program, the same on each architecture:
//
//	block SIGTERM, SIGINT, SIGCHLD        (a blocked signal is queued even for PID 1, where an unhandled one is dropped)
//	loop:  wait for one of them
//	       SIGTERM, SIGINT: exit(0)
//	       SIGCHLD: reap until no ended child is left
//
// Numbers of system calls: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
package elf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

const (
	sigINT, sigTERM, sigCHLD = 2, 15, 17

	// mask is the sigset_t of the three signals: bit n-1 for signal n.
	mask = 1<<(sigINT-1) | 1<<(sigTERM-1) | 1<<(sigCHLD-1)
	// sigsetSize is sizeof(sigset_t) in the kernel's eyes.
	sigsetSize = 8
	// wnohang as in waitpid(2).
	wnohang = 1

	loadAddress = 0x400000
	// pageAlign suits arm64 kernels with 64 KiB pages too.
	pageAlign  = 0x10000
	headerSize = 64
	progSize   = 56
)

// Program returns the whole executable for an architecture in Go's words (amd64, arm64).
func Program(arch string) ([]byte, error) {
	switch arch {
	case "amd64":
		return wrap(elf.EM_X86_64, amd64())
	case "arm64":
		return wrap(elf.EM_AARCH64, arm64())
	}
	return nil, fmt.Errorf("no pause program for %s", arch)
}

// wrap puts code behind an ELF header, one loadable segment (read and execute) and the mark of a stack without execute.
func wrap(machine elf.Machine, code []byte) ([]byte, error) {
	const codeOffset = headerSize + 2*progSize
	size := uint64(codeOffset + len(code))
	head := elf.Header64{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(machine),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     loadAddress + codeOffset,
		Phoff:     headerSize,
		Ehsize:    headerSize,
		Phentsize: progSize,
		Phnum:     2,
	}
	progs := []elf.Prog64{
		{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
			Vaddr: loadAddress, Paddr: loadAddress, Filesz: size, Memsz: size, Align: pageAlign,
		},
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16},
	}
	var b bytes.Buffer
	for _, part := range []any{head, progs, code} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
