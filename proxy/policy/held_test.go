package policy

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

// The kernel holds sets for a while after their rules are gone: nobody waits for that, and no rule is late for it.
func TestSetsThatTheKernelStillHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.lazy = map[string]bool{}
		var log strings.Builder
		e := New(Config{Tables: k, OpenSets: func() (Sets, error) { return k, nil }, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))})
		running(t, e)
		e.SetPolicy(allowFrom("allow", web, client))
		e.SetPod(onePod(web))
		e.Synced()
		if err := e.Attach(t.Context(), "one", ip(addrs[0])); err != nil {
			t.Fatal(err)
		}
		settled()
		e.DeletePolicy("x", "allow")
		later(2 * settle)
		if len(k.chains) != 3 || len(k.sets) == 0 {
			t.Fatal("the rules are to be gone, and the sets still there:", dump(k))
		}
		// One of them is needed again before it goes, with others in it.
		e.SetPart(netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: client}}.ID(), "10.244.2", []Member{{Addr: toOne.src}})
		e.SetPolicy(allowFrom("again", web, client))
		later(2 * settle)
		other := packet{src: ip(addrs[4]), dst: toOne.dst, proto: "tcp", port: 80}
		if !k.passes("FORWARD", toOne) || k.passes("FORWARD", other) {
			t.Error("needed again:", dump(k))
		}
		e.DeletePolicy("x", "again")
		later(2 * backoffMax)
		if len(k.sets) > 0 || len(k.chains) != 3 {
			t.Error("something is left:", dump(k))
		}
		if log.Len() > 0 {
			t.Error("it is told as if it were trouble:", log.String())
		}
		e.SetPolicy(deny("deny", web))
		settled()
		if err := e.Remove(t.Context()); err != nil || len(k.sets) > 0 || len(k.chains) != 3 {
			t.Error("uninstalled:", err, dump(k))
		}
	})
}

// A set that rules lose and get again before the kernel has heard of it holds what it is to hold now.
func TestSetThatComesBack(t *testing.T) {
	k := newKernel()
	e := newEnforcer(k)
	sync := func() {
		t.Helper()
		if err := e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	part := func(m ...Member) {
		e.SetPart(netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: client}}.ID(), "p", m)
	}
	e.SetPolicy(allowFrom("allow", web, client))
	part(Member{Addr: toOne.src})
	e.SetPod(onePod(web))
	e.Adopt("one", ip(addrs[0]))
	e.Synced()
	sync()
	if !k.passes("FORWARD", toOne) {
		t.Fatal(dump(k))
	}
	e.DeletePolicy("x", "allow")
	e.mu.Lock()
	e.model.flush() // as another pod's Attach does
	e.mu.Unlock()
	part()
	e.SetPolicy(allowFrom("allow", web, client))
	sync()
	if k.passes("FORWARD", toOne) {
		t.Error("who is a client no more is let in:", dump(k))
	}
}

// What a kernel without sets has of an agent before goes as well as everything else.
func TestRemainsWithoutSets(t *testing.T) {
	for name, f := range map[string]func(*Enforcer) error{
		"an agent starts":   func(e *Enforcer) error { e.Synced(); return e.sync(t.Context()) },
		"it is uninstalled": func(e *Enforcer) error { return e.Remove(t.Context()) },
		"a pod is free again": func(e *Enforcer) error {
			e.SetPod(onePod(nil))
			e.Adopt("one", toOne.dst)
			e.Synced()
			return e.sync(t.Context())
		},
	} {
		k := newKernel()
		config := Config{Tables: k, OpenSets: func() (Sets, error) { return nil, errNoSets }}
		e := New(config)
		e.SetPolicy(deny("deny", web))
		e.SetPod(onePod(web))
		e.Adopt("one", toOne.dst)
		e.Synced()
		if err := e.sync(t.Context()); err != nil || k.passes("FORWARD", toOne) {
			t.Fatal(err, dump(k))
		}
		if err := f(New(config)); err != nil || len(k.chains) != 3 || !k.passes("FORWARD", toOne) {
			t.Error(name, err, dump(k))
		}
	}
}
