package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"pgregory.net/rapid"
)

func newEnforcer(k *fakeKernel) *Enforcer {
	return New(Config{Tables: k, OpenSets: func() (Sets, error) { return k, nil }})
}

// told is what an enforcer has been told of a world.
type told struct {
	w     *world
	e     *Enforcer
	parts map[string][]Member
}

// sets tells the sets as they are now.
func (x *told) sets() {
	now := x.w.parts()
	for id := range x.parts {
		if _, ok := now[id]; !ok {
			x.e.SetPart(id, "", nil)
		}
	}
	for id, list := range now {
		if !slices.Equal(list, x.parts[id]) {
			x.e.SetPart(id, "", list)
		}
	}
	x.parts = now
}

func (x *told) step(t *rapid.T) {
	ns := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "namespace")
	switch rapid.IntRange(0, 4).Draw(t, "what") {
	case 0, 1:
		n := rapid.IntRange(0, 5).Draw(t, "pod")
		old := x.w.pods[uidOf(n)]
		pod := drawPod(t, uidOf(n), ns, addrs[n])
		if old != nil {
			pod.Namespace, pod.Spec = old.Namespace, old.Spec // a pod's labels change, no more
		}
		x.w.pods[uidOf(n)] = pod
		if pod.Spec.NodeName == thisNode {
			x.e.SetPod(pod)
			x.e.Adopt(string(pod.UID), ip(pod.Status.PodIP))
		}
	case 2:
		uid := uidOf(rapid.IntRange(0, 5).Draw(t, "pod"))
		delete(x.w.pods, uid)
		if rapid.Bool().Draw(t, "detached first") {
			x.e.Detach(uid)
			x.e.DeletePod(uid)
		} else {
			x.e.DeletePod(uid)
			x.e.Detach(uid)
		}
	case 3:
		name := word.Draw(t, "policy")
		np := drawPolicy(t, ns, name)
		x.w.policies[key{ns, name}] = np
		x.e.SetPolicy(np)
	case 4:
		name := word.Draw(t, "policy")
		delete(x.w.policies, key{ns, name})
		x.e.DeletePolicy(ns, name)
	}
	if rapid.IntRange(0, 4).Draw(t, "relabel") == 0 {
		x.w.namespaces[ns] = drawLabels(t)
	}
	x.sets()
}

// fresh is an enforcer that is told of the world for the first time, on a kernel.
func (w *world) fresh(k *fakeKernel) *Enforcer {
	e := newEnforcer(k)
	for _, np := range w.policies {
		e.SetPolicy(np)
	}
	for id, list := range w.parts() {
		e.SetPart(id, "", list)
	}
	for _, pod := range w.pods {
		if pod.Spec.NodeName == thisNode {
			e.SetPod(pod)
			e.Adopt(string(pod.UID), ip(pod.Status.PodIP))
		}
	}
	e.Synced()
	return e
}

// Whatever comes in whatever order: what the rules and sets let through is what the API's words allow, and they are those that an
// enforcer would make that starts now; one that starts on this kernel changes nothing.
func TestRulesDoWhatPoliciesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKernel()
		x := &told{w: newWorld(), e: newEnforcer(k)}
		x.e.Synced()
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			x.step(t)
			if rapid.IntRange(0, 2).Draw(t, "more") == 0 {
				continue // several changes in one turn
			}
			if err := x.e.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 6 {
				hook, p := drawPacket(t)
				if got, want := k.passes(hook, p), x.w.allowed(hook, p); got != want {
					t.Fatalf("%s %+v passes: %v, want %v\n%s%v", hook, p, got, want, dump(k), x.w.policies)
				}
			}
		}
		if err := x.e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		text := maps.Clone(k.chains)
		restores := k.restores
		if err := x.w.fresh(k).sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Groups and chains without pods may be left until something else changes the rules; nothing else may differ.
		for hook, p := range allPackets() {
			if got, want := k.passes(hook, p), x.w.allowed(hook, p); got != want {
				t.Fatalf("after a restart %s %+v passes: %v, want %v\n%s", hook, p, got, want, dump(k))
			}
		}
		if k.restores == restores {
			if d := cmp.Diff(text, k.chains); d != "" {
				t.Fatal(d)
			}
		}
		clean := newKernel()
		if err := x.w.fresh(clean).sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(clean.chains, k.chains); d != "" {
			t.Fatal("what an agent that starts here makes of it differs from what it makes of nothing:\n", d)
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(clean.sets)), slices.Sorted(maps.Keys(k.sets))); d != "" && len(clean.chains) > 3 {
			t.Fatal(d)
		}
		if err := x.e.Remove(t.Context()); err != nil || len(k.sets) > 0 || len(k.chains) != 3 {
			t.Fatal(err, k.sets, k.chains)
		}
	})
}

func allPackets() func(func(string, packet) bool) {
	return func(yield func(string, packet) bool) {
		for _, src := range addrs {
			for _, dst := range addrs {
				for port := uint16(79); port < 85; port++ {
					for _, proto := range []string{"tcp", "udp", "sctp"} {
						hook := "FORWARD"
						if dst == "10.254.254.1" {
							hook = "INPUT"
						}
						if !yield(hook, packet{src: ip(src), dst: ip(dst), proto: proto, port: port}) {
							return
						}
					}
				}
			}
		}
	}
}

func dump(k *fakeKernel) string {
	var b strings.Builder
	for _, c := range slices.Sorted(maps.Keys(k.chains)) {
		b.WriteString(k.chains[c])
	}
	for _, s := range slices.Sorted(maps.Keys(k.sets)) {
		fmt.Fprintln(&b, s, k.sets[s])
	}
	return b.String()
}

// each says what the two directions allow by themselves.
func (w *world) each(hook string, p packet) (out [directions]bool) {
	out = [directions]bool{true, true}
	if from := w.at(p.src); from != nil && from.Spec.NodeName == thisNode && p.src != p.dst {
		out[egress] = w.permits(from, p, egress)
	}
	if to := w.at(p.dst); to != nil && to.Spec.NodeName == thisNode && p.src != p.dst && hook == "FORWARD" {
		out[ingress] = w.permits(to, p, ingress)
	}
	return out
}

// While a change is made, step by step, no direction lets through what it allows neither before nor after, and nothing is stopped
// that passes before and after.
func TestNoGapWhileRulesChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKernel()
		x := &told{w: newWorld(), e: newEnforcer(k)}
		x.e.Synced()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			x.step(t)
		}
		if err := x.e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		old := map[packet][directions]bool{}
		for hook, p := range allPackets() {
			old[p] = x.w.each(hook, p)
		}
		// One change: a policy comes or is another, or a pod's labels change.
		if rapid.Bool().Draw(t, "a policy") {
			k := key{"x", rapid.SampledFrom([]string{"a", "z"}).Draw(t, "policy")}
			x.w.policies[k] = drawPolicy(t, k.namespace, k.name)
			x.e.SetPolicy(x.w.policies[k])
		} else if pod := x.w.pods[uidOf(0)]; pod != nil {
			pod = pod.DeepCopy()
			pod.Labels = drawLabels(t)
			x.w.pods[uidOf(0)] = pod
			x.e.SetPod(pod)
		}
		x.sets()
		next := map[packet][directions]bool{}
		for hook, p := range allPackets() {
			next[p] = x.w.each(hook, p)
		}
		k.between = func() {
			for hook, p := range allPackets() {
				a, b := old[p], next[p]
				may, must := true, true
				for d := range directions {
					may, must = may && (a[d] || b[d]), must && a[d] && b[d]
				}
				if passes := k.through(hook, p); passes && !may || !passes && must {
					t.Fatalf("%+v passes: %v, for a moment\n%s", p, passes, dump(k))
				}
			}
		}
		if err := x.e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBlocks(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) string {
		b := rapid.SliceOfN(rapid.Uint8Range(0, 3), 4, 4).Draw(t, "address")
		b[0] <<= 6
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), rapid.IntRange(0, 32).Draw(t, "bits")).Masked().String()
	})
	rapid.Check(t, func(t *rapid.T) {
		var list []*networkingv1.IPBlock
		for range rapid.IntRange(0, 3).Draw(t, "blocks") {
			list = append(list, &networkingv1.IPBlock{CIDR: prefix.Draw(t, "cidr"), Except: rapid.SliceOfN(prefix, 0, 3).Draw(t, "except")})
		}
		got := addresses(list)
		for i := range got {
			for j := range i {
				if got[i].Overlaps(got[j]) {
					t.Fatal(got[i], "and", got[j], "overlap")
				}
			}
		}
		for range 50 {
			b := rapid.SliceOfN(rapid.Uint8Range(0, 4), 4, 4).Draw(t, "address")
			b[0] <<= 6
			a := netip.AddrFrom4([4]byte(b))
			want := slices.ContainsFunc(list, func(b *networkingv1.IPBlock) bool {
				in := func(c string) bool { return netip.MustParsePrefix(c).Contains(a) }
				return in(b.CIDR) && !slices.ContainsFunc(b.Except, in)
			})
			if is := slices.ContainsFunc(got, func(p netip.Prefix) bool { return p.Contains(a) }); is != want {
				t.Fatalf("%s in %v: %v, want %v", a, got, is, want)
			}
		}
	})
	for _, c := range []struct {
		blocks []networkingv1.IPBlock
		want   string
	}{
		{[]networkingv1.IPBlock{{CIDR: "0.0.0.0/0", Except: []string{"128.0.0.0/1"}}}, "[0.0.0.0/1]"},
		{[]networkingv1.IPBlock{{CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16"}}, {CIDR: "10.1.0.0/16"}}, "[10.0.0.0/8]"},
		{[]networkingv1.IPBlock{{CIDR: "10.0.0.0/30", Except: []string{"10.0.0.1/32"}}}, "[10.0.0.0/32 10.0.0.2/31]"},
		{[]networkingv1.IPBlock{{CIDR: "010.000.0.0/8"}, {CIDR: "2001:db8::/32"}, {CIDR: "nonsense"}}, "[10.0.0.0/8]"},
		{[]networkingv1.IPBlock{{CIDR: "0.0.0.0/1"}, {CIDR: "128.0.0.0/1"}}, "[0.0.0.0/0]"},
	} {
		var list []*networkingv1.IPBlock
		for i := range c.blocks {
			list = append(list, &c.blocks[i])
		}
		if got := fmt.Sprint(addresses(list)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.blocks, got, c.want)
		}
	}
}

var errNoSets = errors.New("this kernel has no sets: the module ip_set is missing")

func onePod(labels map[string]string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID, p.Labels, p.Spec.NodeName, p.Status.PodIP = "x", "one", "one", labels, thisNode, addrs[0]
	return p
}
