//go:build e2e

package iptables_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/proxy/netnstest"
)

// These tests need root. Every namespace is made by the test and has no uplink:
//
//	wpp-cli 198.51.100.1 ─── 198.51.100.11 wpp-node: wp0 10.244.1.1 ─┬─ wpp-p1 10.244.1.5
//	                                       docker0 172.17.0.1         └─ wpp-p2 10.244.1.6
const (
	nodeNS, clientNS = "wpp-node", "wpp-cli"
	nodeIP           = "198.51.100.11"
)

var podIPs = map[string]string{"wpp-p1": "10.244.1.5", "wpp-p2": "10.244.1.6"}

func topology(t testing.TB, bridgeNF string) {
	t.Helper()
	netnstest.Make(t, nodeNS)
	netnstest.Make(t, clientNS)
	sh := func(ns, script string) { t.Helper(); netnstest.RunIn(t, ns, "sh", "-ec", script) }
	sh(nodeNS, `ip link add eth0 type veth peer name eth0 netns `+clientNS+`; ip addr add `+nodeIP+`/24 dev eth0; ip link set eth0 up
		ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
		ip link add wp0 type bridge; ip link set wp0 address 0a:57:0a:f4:01:01; ip addr add 10.244.1.1/24 dev wp0; ip addr add 10.254.254.1/32 dev wp0; ip link set wp0 up
		ip route add 10.254.0.0/16 dev wp0 src 10.244.1.1
		sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.wp0.send_redirects=0 net.ipv4.conf.wp0.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
		if [ -e /proc/sys/net/bridge ]; then sysctl -qw net.bridge.bridge-nf-call-iptables=`+bridgeNF+`; fi`)
	sh(clientNS, `ip addr add 198.51.100.1/24 dev eth0; ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up; ip route add default via `+nodeIP)
	for ns, ip := range podIPs {
		netnstest.Make(t, ns)
		sh(nodeNS, fmt.Sprintf(`ip link add v%s type veth peer name eth0 netns %s; ip link set v%s master wp0 up; bridge link set dev v%s hairpin on`, ns, ns, ns, ns))
		sh(ns, fmt.Sprintf(`ip addr add %s/32 dev eth0; ip link set eth0 up; ip route add 10.244.1.1 dev eth0; ip route add default via 10.244.1.1`, ip))
	}
}

// serve answers every TCP connection with the pod's name and the client's address, then echoes.
func serve(t testing.TB, ns, addr string) {
	t.Helper()
	var ln net.Listener
	if err := netnstest.Inside(ns, func() (err error) { ln, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				from := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
				_, _ = fmt.Fprintf(c, "%s %s\n", ns, from)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func serveUDP(t *testing.T, ns, addr string) {
	t.Helper()
	var pc net.PacketConn
	if err := netnstest.Inside(ns, func() (err error) { pc, err = net.ListenPacket("udp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			_, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(ns+"\n"), from)
		}
	}()
}

const (
	// answerLimit is for what is to be answered, on machines that are busy.
	answerLimit = 30 * time.Second
	// silence is what counts as no answer where none is to come, and when datagrams are sent again.
	silence = 2 * time.Second
)

func dial(ns, network, from, to string, limit time.Duration) (c net.Conn, err error) {
	d := net.Dialer{Timeout: limit}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	err = netnstest.Inside(ns, func() error { c, err = d.Dial(network, to); return err })
	return c, err
}

// ask returns who answered and whom it saw.
func ask(ns, from, to string) (pod, seen string, err error) {
	return askWithin(answerLimit, ns, from, to)
}

func askWithin(limit time.Duration, ns, from, to string) (pod, seen string, err error) {
	c, err := dial(ns, "tcp4", from, to, limit)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(limit))
	_, err = fmt.Fscanln(c, &pod, &seen)
	return pod, seen, err
}

func askUDP(ns, to string) (pod string, err error) {
	c, err := dial(ns, "udp4", "", to, silence)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	for end := time.Now().Add(answerLimit); ; {
		_ = c.SetDeadline(time.Now().Add(silence))
		if _, err = c.Write([]byte("x")); err != nil {
			return "", err
		}
		b := make([]byte, 100)
		n, err := c.Read(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(end) {
			return strings.TrimSpace(string(b[:n])), err
		}
	}
}
