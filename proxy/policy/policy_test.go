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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
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

// A pod leaves a policy and another comes under it while what the policy says changes: for no moment is the first one under the new
// words, nor the second under the old ones.
func TestPodMovesWhileItsPolicyChanges(t *testing.T) {
	k := newKernel()
	x := &told{w: newWorld(), e: newEnforcer(k)}
	x.e.Synced()
	leaves, comes := "10.244.1.5", "10.244.1.6"
	for addr, label := range map[string]string{leaves: "old", comes: "new"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: label, UID: types.UID(label), Labels: map[string]string{label: "yes"}}}
		pod.Spec.NodeName, pod.Status.PodIP = thisNode, addr
		x.w.pods[label] = pod
		x.e.SetPod(pod)
		x.e.Adopt(label, ip(addr))
	}
	policy := func(name, selects string, port int32) {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		if selects != "" {
			np.Spec.PodSelector.MatchLabels = map[string]string{selects: "yes"}
		}
		if to := intstr.FromInt32(port); port != 0 {
			np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &to}}}}
		}
		x.w.policies[key{"x", name}] = np
		x.e.SetPolicy(np)
	}
	outside := ip("203.0.113.200")
	open := func(from string) (ports []uint16) {
		for port := uint16(80); port < 83; port++ {
			if k.through("FORWARD", packet{src: ip(from), dst: outside, proto: "tcp", port: port}) {
				ports = append(ports, port)
			}
		}
		return ports
	}
	policy("z", "", 0) // nothing; its group comes after that of both
	policy("moves", "old", 80)
	if err := x.e.sync(t.Context()); err != nil || !slices.Equal(open(leaves), []uint16{80}) || open(comes) != nil {
		t.Fatal(err, open(leaves), open(comes))
	}
	policy("moves", "new", 81)
	steps := 0
	k.between = func() {
		steps++
		if slices.Contains(open(leaves), 81) || slices.Contains(open(comes), 80) {
			t.Errorf("step %d: who leaves reaches %v, who comes %v\n%s", steps, open(leaves), open(comes), dump(k))
		}
	}
	if err := x.e.sync(t.Context()); err != nil || open(leaves) != nil || !slices.Equal(open(comes), []uint16{81}) {
		t.Fatal(err, open(leaves), open(comes))
	}
	if steps < 3 {
		t.Errorf("%d steps seen", steps)
	}
}
