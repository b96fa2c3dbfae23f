//go:build e2e

package iptables_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/netnstest"
)

// The kernels of many servers have no SCTP sockets, but netfilter knows the protocol. So both ends speak it here by raw sockets,
// as far as netfilter takes part in it: INIT, and the answer INIT ACK, which brings back who answered and whom it saw.
const (
	sctpHeader    = 12
	sctpInit      = 1
	sctpInitAck   = 2
	sctpCookie    = 7
	sctpInitBytes = 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type sctpPacket struct {
	from, to uint16 // ports
	tag      uint32 // verification tag
	chunk    byte
	initTag  uint32
	cookie   string
}

func (p sctpPacket) bytes() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.from)
	b = binary.BigEndian.AppendUint16(b, p.to)
	b = binary.BigEndian.AppendUint32(b, p.tag)
	b = append(b, 0, 0, 0, 0) // the checksum comes last
	cookie := []byte(p.cookie)
	for len(cookie)%4 != 0 {
		cookie = append(cookie, ' ')
	}
	size := sctpInitBytes
	if len(cookie) > 0 {
		size += 4 + len(cookie)
	}
	b = append(b, p.chunk, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = binary.BigEndian.AppendUint32(b, p.initTag)
	b = append(b, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1) // window, streams out and in, first number
	if len(cookie) > 0 {
		b = binary.BigEndian.AppendUint16(b, sctpCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(cookie)))
		b = append(b, cookie...)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

func parseSCTP(b []byte) (p sctpPacket, err error) {
	if len(b) < sctpHeader+sctpInitBytes {
		return p, fmt.Errorf("%d bytes", len(b))
	}
	sum := binary.LittleEndian.Uint32(b[8:])
	clear(b[8:12])
	if want := crc32.Checksum(b, castagnoli); sum != want {
		return p, fmt.Errorf("checksum %x, should be %x", sum, want)
	}
	p = sctpPacket{
		from: binary.BigEndian.Uint16(b), to: binary.BigEndian.Uint16(b[2:]), tag: binary.BigEndian.Uint32(b[4:]),
		chunk: b[sctpHeader], initTag: binary.BigEndian.Uint32(b[sctpHeader+4:]),
	}
	if rest := b[sctpHeader+sctpInitBytes:]; len(rest) > 4 {
		p.cookie = string(rest[4:])
	}
	return p, nil
}

// serveSCTP answers associations at one port.
func serveSCTP(t *testing.T, ns string, port uint16) {
	t.Helper()
	var pc net.PacketConn
	if err := netnstest.Inside(ns, func() (err error) { pc, err = net.ListenPacket("ip4:sctp", "0.0.0.0"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			p, err := parseSCTP(b[:n])
			if err != nil {
				t.Errorf("%s got from %s: %v", ns, from, err)
			}
			if err != nil || p.to != port || p.chunk != sctpInit || p.tag != 0 {
				continue
			}
			answer := sctpPacket{from: p.to, to: p.from, tag: p.initTag, chunk: sctpInitAck, initTag: 7, cookie: fmt.Sprintf("%s %s", ns, from)}
			_, _ = pc.WriteTo(answer.bytes(), from)
		}
	}()
}

var sctpPorts atomic.Uint32 // of clients: each association is a new one

// askSCTP returns who answered and whom it saw. An answer counts only when it comes from where the question was sent to.
func askSCTP(ns, to string) (pod, seen string, err error) {
	dst := netip.MustParseAddrPort(to)
	var c *net.IPConn
	err = netnstest.Inside(ns, func() (err error) {
		c, err = net.DialIP("ip4:sctp", nil, &net.IPAddr{IP: dst.Addr().AsSlice()})
		return err
	})
	if err != nil {
		return "", "", err
	}
	defer func() { _ = c.Close() }()
	own, end := uint16(20000+sctpPorts.Add(1)), time.Now().Add(answerLimit)
	send := func() error {
		_ = c.SetDeadline(time.Now().Add(silence))
		_, err := c.Write(sctpPacket{from: own, to: dst.Port(), chunk: sctpInit, initTag: uint32(own)}.bytes())
		return err
	}
	if err := send(); err != nil {
		return "", "", err
	}
	for b := make([]byte, 1500); ; {
		n, from, err := c.ReadFromIP(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) { // as SCTP does
			err = send()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return "", "", err
		}
		p, err := parseSCTP(b[:n])
		if err != nil {
			return "", "", err
		}
		if p.chunk != sctpInitAck || p.to != own { // that of another, or the question itself, which is seen where it comes from lo
			continue
		}
		if p.from != dst.Port() || p.tag != uint32(own) || !from.IP.Equal(dst.Addr().AsSlice()) {
			return "", "", fmt.Errorf("answered from %s:%d with tag %d", from, p.from, p.tag)
		}
		_, err = fmt.Sscan(p.cookie, &pod, &seen)
		return pod, seen, err
	}
}

func TestE2ESCTP(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		topology(t, "1")
		const port = 9899
		for ns := range podIPs {
			serveSCTP(t, ns, port)
		}
		r := start(t, b)
		defer r.stop()
		sctp := func(s *corev1.Service) { s.Spec.Ports[0].Protocol, s.Spec.Ports[0].Port = corev1.ProtocolSCTP, 2905 }
		keep := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" }
		sticky := func(s *corev1.Service) { s.Spec.SessionAffinity = "ClientIP" }
		both := []string{podIPs["wpp-p1"], podIPs["wpp-p2"]}
		r.apply(t, func() {
			r.SetService(svc("one", "10.254.0.60", nodePort(30160), balancer("203.0.113.60"), sctp))
			r.SetSlice(eps("one", "SCTP", port, both[0]))
			r.SetService(svc("kept", "10.254.0.61", nodePort(30161), keep, sctp))
			r.SetSlice(eps("kept", "SCTP", port, both[1]))
			r.SetService(svc("two", "10.254.0.62", sctp))
			r.SetSlice(eps("two", "SCTP", port, both...))
			r.SetService(svc("sticky", "10.254.0.63", sticky, sctp))
			r.SetSlice(eps("sticky", "SCTP", port, both...))
			r.SetService(svc("none", "10.254.0.64", nodePort(30164), sctp))
			r.SetHostPorts("default/p2", []proxy.HostPort{{Protocol: corev1.ProtocolSCTP, Port: 2906, Pod: netip.MustParseAddrPort(both[1] + ":9899")}})
			r.Synced()
		})
		for _, c := range []struct{ what, ns, to, pod, seen string }{
			{"pod, ClusterIP", "wpp-p2", "10.254.0.60:2905", "wpp-p1", "10.244.1.6"},
			{"hairpin", "wpp-p1", "10.254.0.60:2905", "wpp-p1", "10.244.1.1"},
			{"node, ClusterIP", nodeNS, "10.254.0.60:2905", "wpp-p1", "10.244.1.1"},
			{"outside, ClusterIP through the node", clientNS, "10.254.0.60:2905", "wpp-p1", "10.244.1.1"},
			{"outside, NodePort", clientNS, nodeIP + ":30160", "wpp-p1", "10.244.1.1"},
			{"outside, load balancer", clientNS, "203.0.113.60:2905", "wpp-p1", "10.244.1.1"},
			{"outside, NodePort Local", clientNS, nodeIP + ":30161", "wpp-p2", "198.51.100.1"},
			{"outside, host port", clientNS, nodeIP + ":2906", "wpp-p2", "198.51.100.1"},
			{"node, NodePort on 127.0.0.1", nodeNS, "127.0.0.1:30160", "wpp-p1", "10.244.1.1"},
		} {
			pod, seen, err := askSCTP(c.ns, c.to)
			if err != nil || pod != c.pod || seen != c.seen {
				t.Errorf("%s: %s answered and saw %s (%v), want %s seeing %s", c.what, pod, seen, err, c.pod, c.seen)
			}
		}
		for _, to := range []string{"10.254.0.64:2905", nodeIP + ":30164"} {
			if _, _, err := askSCTP(clientNS, to); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s must be refused at once, got %v", to, err)
			}
		}
		got := map[string]map[string]int{"10.254.0.62:2905": {}, "10.254.0.63:2905": {}}
		for range 40 {
			for to, pods := range got {
				pod, _, err := askSCTP(clientNS, to)
				if err != nil {
					t.Fatal(to, err)
				}
				pods[pod]++
			}
		}
		if len(got["10.254.0.62:2905"]) != 2 || len(got["10.254.0.63:2905"]) != 1 {
			t.Errorf("40 associations each, the second with affinity, were spread as %v", got)
		}
	})
}
