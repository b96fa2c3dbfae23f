package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPart bounds one message of elements: the length of a netlink attribute has 16 bits.
	maxPart = 48 << 10
	// receiveTimeout is for answers, which the kernel gives before sendto returns; a dump's parts come one by one.
	receiveTimeout = 10 * time.Second
	// sendSlack is what the kernel counts of a socket's buffer besides the bytes themselves.
	sendSlack = 64 << 10
)

// batch is a series of changes that take effect together or not at all.
type batch struct {
	buffer
	seq  uint32
	last int // where the last message begins
}

func newBatch() *batch {
	b := &batch{}
	b.control(unix.NFNL_MSG_BATCH_BEGIN)
	return b
}

func (b *batch) control(typ uint16) {
	at := b.begin(typ, 0)
	b.b[at+unix.NLMSG_HDRLEN] = unix.AF_UNSPEC
	binary.BigEndian.PutUint16(b.b[at+unix.NLMSG_HDRLEN+2:], unix.NFNL_SUBSYS_NFTABLES)
	b.end(at)
}

// begin starts a message; end gives it its length.
func (b *batch) begin(typ uint16, flags uint16) (at int) {
	at = len(b.b)
	b.seq++
	b.b = appendHeader(b.b, typ, unix.NLM_F_REQUEST|flags, b.seq)
	return at
}

func (b *batch) end(at int) {
	binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
	b.last = at
}

// message adds one of nf_tables.
func (b *batch) message(typ uint16, flags uint16, fill func(*buffer)) {
	at := b.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags)
	fill(&b.buffer)
	b.end(at)
}

// describe tells what the message with this number was to do: an error without that is hard to understand.
func (b *batch) describe(seq uint32) string {
	for at := 0; at+unix.NLMSG_HDRLEN <= len(b.b); {
		size := int(binary.NativeEndian.Uint32(b.b[at:]))
		if size < unix.NLMSG_HDRLEN {
			break
		}
		if binary.NativeEndian.Uint32(b.b[at+8:]) == seq {
			typ := int(b.b[at+4])
			if typ >= len(actions) || b.b[at+5] != unix.NFNL_SUBSYS_NFTABLES || size <= headers {
				return "the whole batch"
			}
			var names []string
			each(b.b[at+headers:at+size], func(t uint16, v []byte) {
				if t <= 3 && len(v) > 1 && v[len(v)-1] == 0 && v[0] > ' ' {
					names = append(names, text(v))
				}
			})
			return actions[typ] + " " + strings.Join(names, " ")
		}
		at += size
	}
	return fmt.Sprint("message ", seq)
}

const headers = unix.NLMSG_HDRLEN + 4

// actions by the numbers of their messages.
var actions = [...]string{
	unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table", unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_DELCHAIN: "delete chain",
	unix.NFT_MSG_NEWRULE: "add rule", unix.NFT_MSG_DELRULE: "delete rules", unix.NFT_MSG_NEWSET: "add set", unix.NFT_MSG_DELSET: "delete set",
	unix.NFT_MSG_NEWSETELEM: "add element", unix.NFT_MSG_DELSETELEM: "delete element",
}

func appendHeader(to []byte, typ, flags uint16, seq uint32) []byte {
	to = binary.NativeEndian.AppendUint32(to, 0)
	to = binary.NativeEndian.AppendUint16(to, typ)
	to = binary.NativeEndian.AppendUint16(to, flags)
	to = binary.NativeEndian.AppendUint32(to, seq)
	to = binary.NativeEndian.AppendUint32(to, 0)
	return append(to, unix.AF_INET, unix.NFNETLINK_V0, 0, 0)
}

// kernel is nf_tables as a batch and a list see it: a socket, and in tests something that plays it.
type kernel interface {
	commit(*batch) error
	dump(typ uint16, flags uint16, ask func(*buffer), f func(attrs []byte)) error
	close()
}

// socket is a netlink socket in the network namespace where it was opened.
type socket struct {
	mu  sync.Mutex
	fd  int
	in  []byte
	seq uint32
}

func dial() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("netfilter's netlink socket: %w", err)
	}
	s := &socket{fd: fd}
	tv := unix.NsecToTimeval(receiveTimeout.Nanoseconds())
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)); err != nil {
		s.close()
		return nil, fmt.Errorf("netfilter's netlink socket: %w", err)
	}
	// Short errors, with words where the kernel has them (4.3, 4.12).
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return s, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// commit sends the batch and waits for the verdict on all of it.
func (s *socket) commit(b *batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The answer to the last message comes after everything is in force.
	flags := binary.NativeEndian.Uint16(b.b[b.last+6:])
	binary.NativeEndian.PutUint16(b.b[b.last+6:], flags|unix.NLM_F_ACK)
	asked := binary.NativeEndian.Uint32(b.b[b.last+8:])
	b.control(unix.NFNL_MSG_BATCH_END)
	if err := s.send(b.b); err != nil {
		return err
	}
	var failed error
	for {
		done := false
		err := s.receive(func(typ uint16, flags uint16, seq uint32, body []byte) {
			if typ == unix.NLMSG_ERROR {
				if err := kernelError(flags, body); err != nil && failed == nil {
					failed = fmt.Errorf("%w (%s)", err, b.describe(seq))
				}
				// A batch that fails as a whole is answered as its first message is.
				done = done || seq == asked || seq == 1
			}
		})
		if err != nil {
			return errors.Join(failed, err)
		}
		if done {
			return failed
		}
	}
}

// dump asks for a list; each entry's attributes are given to f.
func (s *socket) dump(typ uint16, flags uint16, ask func(*buffer), f func(attrs []byte)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	q := buffer{appendHeader(nil, unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_REQUEST|flags, s.seq)}
	ask(&q)
	binary.NativeEndian.PutUint32(q.b, uint32(len(q.b)))
	if err := s.send(q.b); err != nil {
		return err
	}
	var failed error
	for {
		done := false
		err := s.receive(func(typ uint16, flags uint16, seq uint32, body []byte) {
			switch {
			case seq != s.seq || done:
			case typ == unix.NLMSG_ERROR || typ == unix.NLMSG_DONE:
				done, failed = true, errors.Join(failed, kernelError(flags, body))
			case len(body) >= 4:
				if flags&unix.NLM_F_DUMP_INTR != 0 {
					failed = errInterrupted
				}
				f(body[4:])
				done = flags&unix.NLM_F_MULTI == 0
			}
		})
		if err != nil || done {
			return errors.Join(failed, err)
		}
	}
}

var errInterrupted = errors.New("the tables changed while they were read")

func (s *socket) send(b []byte) error {
	if size, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF); err != nil || size < len(b)+sendSlack {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, len(b)+sendSlack)
	}
	s.drain()
	if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d bytes to nf_tables: %w", len(b), err)
	}
	return nil
}

// drain forgets what an earlier question that timed out may have left.
func (s *socket) drain() {
	var b [64]byte
	for {
		if _, _, err := unix.Recvfrom(s.fd, b[:], unix.MSG_DONTWAIT|unix.MSG_TRUNC); err != nil {
			return
		}
	}
}

// receive reads one datagram and calls f for each message in it.
func (s *socket) receive(f func(typ, flags uint16, seq uint32, body []byte)) error {
	if s.in == nil {
		s.in = make([]byte, 64<<10) // the kernel's own limit for parts of a dump is half of that
	}
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(s.fd, s.in, 0)
	}
	if err != nil {
		return fmt.Errorf("nf_tables does not answer: %w", err)
	}
	for b := s.in[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return errors.New("nf_tables' answer is cut off")
		}
		f(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint32(b[8:]), b[unix.NLMSG_HDRLEN:size])
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// kernelError reads an answer's number, and the kernel's words if it has any.
func kernelError(flags uint16, body []byte) error {
	if len(body) < 4 {
		return nil
	}
	number := int32(binary.NativeEndian.Uint32(body))
	if number == 0 {
		return nil
	}
	err := error(unix.Errno(-number))
	const extended, message = 0x200, 1 // NLM_F_ACK_TLVS, NLMSGERR_ATTR_MSG
	if skip := 4 + unix.NLMSG_HDRLEN; flags&extended != 0 && len(body) > skip {
		each(body[skip:], func(typ uint16, value []byte) {
			if typ == message {
				err = fmt.Errorf("%w: %s", err, text(value))
			}
		})
	}
	return fmt.Errorf("nf_tables: %w", err)
}
