package doctor

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

const (
	runWithin    = 10 * time.Second
	dockerWithin = 5 * time.Second
	reachWithin  = 3 * time.Second
	pingWithin   = 600 * time.Millisecond
	dnsWithin    = 3 * time.Second
	maxOutput    = 8 << 20
)

// Local is this machine.
func Local() System { return local{} }

type local struct{}

func (local) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }
func (local) Root() bool                           { return os.Geteuid() == 0 }
func (local) Now() time.Time                       { return time.Now() }

func (local) Run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} { // not in everybody's PATH
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, ErrNoProgram)
	}
	ctx, cancel := context.WithTimeout(ctx, runWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := bytes.TrimSpace(stderr.Bytes())
		return stdout.String(), fmt.Errorf("%s: %w: %.300s", name, err, said)
	}
	return stdout.String(), nil
}

func (local) Disk(path string) (Disk, error) {
	var fs unix.Statfs_t
	for {
		err := unix.Statfs(path, &fs)
		if err == nil {
			break
		}
		up := filepath.Dir(path)
		if !errors.Is(err, unix.ENOENT) || up == path {
			return Disk{}, err
		}
		path = up // it will be made there
	}
	unit := uint64(fs.Bsize)
	return Disk{Size: fs.Blocks * unit, Free: fs.Bavail * unit, Inodes: fs.Files, FreeInodes: fs.Ffree}, nil
}

func (local) Docker(ctx context.Context, host, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerWithin)
	defer cancel()
	network, address := "tcp", strings.TrimPrefix(host, "tcp://")
	if socket, ok := strings.CutPrefix(host, "unix://"); ok {
		network, address = "unix", socket
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, errors.Unwrap(err) // without the made-up address
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", res.Status, bytes.TrimSpace(data))
	}
	return data, err
}

func (local) Reach(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: reachWithin}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// The states of /proc/net: a TCP socket that listens, and a UDP socket that is not connected.
const tcpListen, udpClosed = "0A", "07"

func (local) Listeners() ([]Listener, error) {
	var out []Listener
	inodes := map[string][]int{}
	for _, f := range []struct{ file, protocol, state string }{{"tcp", "tcp", tcpListen}, {"tcp6", "tcp", tcpListen}, {"udp", "udp", udpClosed}, {"udp6", "udp", udpClosed}} {
		data, err := os.ReadFile("/proc/self/net/" + f.file)
		if err != nil {
			if strings.HasSuffix(f.file, "6") {
				continue
			}
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			w := strings.Fields(line)
			if len(w) < 10 || w[3] != f.state {
				continue
			}
			at, ok := procAddress(w[1])
			if !ok {
				continue
			}
			inodes[w[9]] = append(inodes[w[9]], len(out))
			out = append(out, Listener{Protocol: f.protocol, Address: at})
		}
	}
	nameListeners(out, inodes)
	return out, nil
}

// procAddress reads 0100007F:0035; the kernel prints words in the machine's order.
func procAddress(text string) (netip.AddrPort, bool) {
	ip, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(ip)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

// nameListeners finds the programs that hold the sockets.
func nameListeners(list []Listener, inodes map[string][]int) {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range fds {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it ended, or is not ours to look at
		}
		for _, e := range entries {
			to, err := os.Readlink(filepath.Join(dir, e.Name()))
			inode, ok := strings.CutPrefix(to, "socket:[")
			if err != nil || !ok {
				continue
			}
			for _, i := range inodes[strings.TrimSuffix(inode, "]")] {
				if name, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "comm")); err == nil {
					list[i].Program = strings.TrimSpace(string(name))
				}
			}
		}
	}
}

func (local) LinkMTU(to netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: to.As4()}); err != nil { // sends nothing
		return 0, err
	}
	return unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
}

const (
	ipHeader, icmpHeader    = 20, 8
	icmpEcho, icmpEchoReply = 8, 0
	pingSlice               = 100 * time.Millisecond
)

// Ping with IP_PMTUDISC_PROBE: the packet may not be fragmented, and what the kernel has learned of the way is not obeyed.
func (local) Ping(ctx context.Context, to netip.Addr, size int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
		return err
	}
	slice := unix.NsecToTimeval(pingSlice.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &slice); err != nil {
		return err
	}
	id := uint16(rand.Uint32())
	if err := unix.Sendto(fd, echo(id, max(size-ipHeader, icmpHeader)), 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		if errors.Is(err, unix.EMSGSIZE) {
			return ErrTooBig
		}
		return err
	}
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(pingWithin); time.Now().Before(end) && ctx.Err() == nil; {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if a, ok := from.(*unix.SockaddrInet4); ok && a.Addr == to.As4() && isReply(buf[:n], id) {
			return nil
		}
	}
	return errors.New("no answer")
}

func echo(id uint16, length int) []byte {
	b := make([]byte, length)
	b[0] = icmpEcho
	binary.BigEndian.PutUint16(b[4:], id)
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

func isReply(packet []byte, id uint16) bool {
	if len(packet) < ipHeader {
		return false
	}
	head := int(packet[0]&0xf) * 4
	return len(packet) >= head+icmpHeader && packet[head] == icmpEchoReply && binary.BigEndian.Uint16(packet[head+4:]) == id
}

func (local) AskDNS(ctx context.Context, server netip.Addr) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsWithin)
	defer cancel()
	id := uint16(rand.Uint32())
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		return 0, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "udp", netip.AddrPortFrom(server, dnsPort).String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(query); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, errors.New("no answer")
		}
		if err != nil {
			return 0, errors.New("refused")
		}
		var p dnsmessage.Parser
		if h, err := p.Start(buf[:n]); err == nil && h.ID == id && h.Response {
			return int(h.RCode), nil
		}
	}
}

func (local) ClockSynced() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t) // with no modes it only reads
	if err != nil {
		return false, err
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}
