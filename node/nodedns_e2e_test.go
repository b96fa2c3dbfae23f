//go:build e2e

package node

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/dns"
)

// serveNames answers for web.default.svc.DOMAIN at an address of the thread's network, until stop.
func serveNames(t *testing.T, domain, addr, ip string) (stop func()) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", net.JoinHostPort(addr, "53"))
	if err != nil {
		t.Fatal(err)
	}
	z := dns.NewZone(dns.ZoneConfig{Domain: domain, ServerIP: netip.MustParseAddr(addr)})
	z.SetService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{ClusterIP: ip}})
	z.Synced()
	s, err := dns.New(dns.Config{Zone: z, PacketConns: []net.PacketConn{conn}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestNodeDNSWithTheCLibrary: what glibc makes of the machine's resolv.conf, with the agent and without it.
func TestNodeDNSWithTheCLibrary(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine, and its network with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	const own = "nameserver 192.0.2.53\n"
	n := &nodeDNS{file: filepath.Join(t.TempDir(), "resolv.conf"), server: netip.MustParseAddr("10.254.254.1"), domains: []string{"cluster.local"}, log: slog.New(slog.DiscardHandler)}
	if err := os.WriteFile(n.file, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", "mount --bind "+n.file+" /etc/resolv.conf && "+script).CombinedOutput()
		return string(out), err
	}
	if out, err := sh("ip link set lo up && ip addr add 10.254.254.1/32 dev lo && ip addr add 192.0.2.53/32 dev lo"); err != nil {
		t.Fatal(out, err)
	}
	defer serveNames(t, "world.example", "192.0.2.53", "203.0.113.7")()
	agent := serveNames(t, "cluster.local", "10.254.254.1", "10.254.0.9")
	resolves := func(when, name, ip string) {
		t.Helper()
		const tries = 5 // at once, unless the machine is too busy just then
		for try := 1; ; try++ {
			began := time.Now()
			out, err := sh("getent ahosts " + name)
			took := time.Since(began)
			if (ip == "") == (err != nil) && strings.HasPrefix(out, ip) && took < 5*time.Second {
				return
			}
			if try == tries {
				t.Errorf("%s: %s after %s: %v: %s, want %q", when, name, took, err, out, ip)
				return
			}
		}
	}
	const inside, outside = "web.default.svc.cluster.local", "web.default.svc.world.example"
	resolves("before", inside, "")
	if _, err := n.ensure(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	resolves("with the agent", inside, "10.254.0.9")
	resolves("with the agent", outside, "203.0.113.7")
	agent()
	resolves("without the agent", outside, "203.0.113.7")
	if err := n.undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(n.file); err != nil || string(text) != own {
		t.Errorf("at the end: %q, %v", text, err)
	}
}
