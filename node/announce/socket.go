package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Conn sends and receives the ARP packets of one link.
type Conn interface {
	// Send sends a packet to a machine on the link, or to all.
	Send(p Packet, to MAC) error
	// Receive waits for the next packet that concerns one of the addresses of Only.
	Receive() (Packet, error)
	// Only says which addresses matter: the kernel lets go by packets that neither ask for one of them nor come from one.
	Only(addrs []netip.Addr) error
	Close() error
}

// socket is a Conn by AF_PACKET. It is cooked (SOCK_DGRAM): the kernel puts the frame's header before what is sent.
type socket struct {
	file  *os.File // makes reading wait in Go's poller, and Close end it
	index int
}

// arpProtocol is ETH_P_ARP as the kernel wants it, in network byte order.
var arpProtocol = binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))

// Open listens on a link of the network namespace of the calling thread. Nothing is received before Only is called.
func Open(l Link) (Conn, error) {
	// Protocol 0 receives nothing until bind says otherwise.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	s := &socket{file: os.NewFile(uintptr(fd), "arp on "+l.Name), index: l.Index}
	if err := s.attach(filterFor(nil)); err != nil {
		s.file.Close()
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arpProtocol, Ifindex: l.Index}); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("bind to %s: %w", l.Name, err)
	}
	return s, nil
}

func (s *socket) Close() error { return s.file.Close() }

func (s *socket) Send(p Packet, to MAC) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	at := &unix.SockaddrLinklayer{Protocol: arpProtocol, Ifindex: s.index, Halen: uint8(len(to))}
	copy(at.Addr[:], to[:])
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), p.bytes(), 0, at)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

func (s *socket) Receive() (Packet, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return Packet{}, err
	}
	var b [64]byte
	for {
		var n int
		var from unix.Sockaddr
		var received error
		err := raw.Read(func(fd uintptr) bool {
			n, from, received = unix.Recvfrom(int(fd), b[:], 0)
			return !errors.Is(received, unix.EAGAIN)
		})
		if err := errors.Join(err, received); err != nil {
			return Packet{}, err
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if p, ok := parsePacket(b[:n]); ok {
			return p, nil
		}
	}
}

// maxFiltered is for how many addresses there is a filter: its program must not be larger than what kernels let a socket have
// (net.core.optmem_max, 20 KiB until Linux 6.7). With more of them every ARP packet of the link is looked at.
const maxFiltered = 500

func (s *socket) Only(addrs []netip.Addr) error { return s.attach(filterFor(addrs)) }

// filterFor is a program for ARP packets that concern one of the addresses, without what this machine sends itself.
func filterFor(addrs []netip.Addr) []bpf.Instruction {
	pass, drop := bpf.RetConstant{Val: 64}, bpf.RetConstant{Val: 0}
	out := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipFalse: 1},
		drop,
	}
	if len(addrs) > maxFiltered {
		return append(out, pass)
	}
	for _, offset := range []uint32{offsetTargetIP, offsetSenderIP} {
		if len(addrs) == 0 {
			break
		}
		out = append(out, bpf.LoadAbsolute{Off: offset, Size: 4})
		for _, a := range addrs {
			ip := a.As4()
			out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(ip[:]), SkipFalse: 1}, pass)
		}
	}
	return append(out, drop)
}

func (s *socket) attach(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	c, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = c.Control(func(fd uintptr) {
		set = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]})
	})
	if err := errors.Join(err, set); err != nil {
		return fmt.Errorf("packet filter: %w", err)
	}
	return nil
}
