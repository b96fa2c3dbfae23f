package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/dns"
	"github.com/whalepod/whalepod/node/desired"
)

// At boot the file may be written after the agent has started; the ConfigMap counts without a restart.
func TestNameServersAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		state, err := desired.Open(desired.Config{})
		if err != nil {
			t.Fatal(err)
		}
		a := &Agent{cfg: Config{ResolvConf: file}, desired: state, log: slog.New(slog.DiscardHandler)}
		var got dns.Forwarding
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		feed := a.newForwardingFeed(&cluster{dns: netip.MustParseAddr("10.254.254.1")}, func(f dns.Forwarding) { got = f })
		go func() { done <- feed.run(ctx) }()
		expect := func(what, want string) {
			t.Helper()
			synctest.Wait()
			if text := fmt.Sprint(got.Upstreams, got.Stubs); text != want {
				t.Errorf("%s: %s, want %s", what, text, want)
			}
		}
		for _, step := range []struct{ text, want string }{
			{"", "[] map[]"},
			{"search lan\nnameserver 192.0.2.1\nnameserver 10.254.254.1\n", "[192.0.2.1] map[]"},
			{"nameserver 192.0.2.2\nnameserver 192.0.2.3\n", "[192.0.2.2 192.0.2.3] map[]"},
			{"# being written\n", "[192.0.2.2 192.0.2.3] map[]"},
		} {
			if step.text != "" {
				if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(resolvCheck + time.Second)
			expect(step.text, step.want)
		}
		apply := func(cm *corev1.ConfigMap) {
			t.Helper()
			change := desired.Change{Resource: desired.ConfigMaps, Key: "kube-system/kube-dns"}
			if cm != nil {
				change.Object = cm
			}
			if err := state.Apply([]desired.Change{change}); err != nil {
				t.Fatal(err)
			}
		}
		apply(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns", ResourceVersion: "1"}, Data: map[string]string{
			stubDomains: `{"acme.local": ["198.51.100.7"]}`,
		}})
		expect("stub domains", "[192.0.2.2 192.0.2.3] map[acme.local:[198.51.100.7]]")
		apply(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns", ResourceVersion: "2"}, Data: map[string]string{
			upstreamNameservers: `["198.51.100.8", "198.51.100.9:5353"]`,
		}})
		expect("upstream name servers", "[198.51.100.8 198.51.100.9:5353] map[]")
		apply(nil)
		expect("no ConfigMap", "[192.0.2.2 192.0.2.3] map[]")
		got = dns.Forwarding{}
		if err := os.WriteFile(file, []byte("nameserver 192.0.2.4\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		again := a.newForwardingFeed(&cluster{}, func(f dns.Forwarding) { got = f })
		expect("known before anything runs", "[192.0.2.4] map[]")
		again.sub.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What is wrong is left out and named; the rest counts.
func TestForwardingFromAConfigMap(t *testing.T) {
	for _, c := range []struct {
		upstreams, stubs string
		want             string
		errs             []string
	}{
		{"", "", "[192.0.2.1] map[]", nil},
		{`[]`, `{}`, "[192.0.2.1] map[]", nil},
		{`["8.8.8.8", "dns.google", "[2001:db8::1]:53"]`, "", "[8.8.8.8 [2001:db8::1]:53] map[]", []string{`upstreamNameservers: "dns.google" is not an IP address`}},
		{`"8.8.8.8"`, `["a"]`, "[192.0.2.1] map[]", []string{"upstreamNameservers: json: ", "stubDomains: json: "}},
		{"", `{"Corp.Example.": ["192.0.2.7"], "bad domain": ["192.0.2.8"], "_msdcs.corp": [], "half.example": ["x", "192.0.2.9"]}`,
			"[192.0.2.1] map[_msdcs.corp:[] corp.example:[192.0.2.7] half.example:[192.0.2.9]]", []string{`"bad domain": a lowercase RFC 1123`, `half.example: "x" is not`}},
	} {
		f, err := forwarding([]string{"192.0.2.1"}, &corev1.ConfigMap{Data: map[string]string{upstreamNameservers: c.upstreams, stubDomains: c.stubs}})
		if got := fmt.Sprint(f.Upstreams, f.Stubs); got != c.want || (err == nil) != (c.errs == nil) {
			t.Errorf("%s %s: %s, %v; want %s", c.upstreams, c.stubs, got, err, c.want)
		}
		for _, e := range c.errs {
			if err != nil && !strings.Contains(err.Error(), e) {
				t.Errorf("%q is not in %q", e, err)
			}
		}
	}
}
