package netpolicy

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
	"github.com/whalepod/whalepod/proto/netpolicy"
)

// world is what the store would know.
type world struct {
	namespaces map[string]*corev1.Namespace
	pods       map[key]*corev1.Pod
	policies   map[key]*networkingv1.NetworkPolicy
}

func newWorld() *world {
	return &world{map[string]*corev1.Namespace{}, map[key]*corev1.Pod{}, map[key]*networkingv1.NetworkPolicy{}}
}

func (w *world) Pods(namespace string) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for k, p := range w.pods {
			if k.namespace == namespace && !yield(p) {
				return
			}
		}
	}
}

func (w *world) Namespaces() iter.Seq[*corev1.Namespace] { return maps.Values(w.namespaces) }

var testDNS = netip.MustParseAddr("10.254.254.1")

// fromScratch is what a Resolver that sees the world for the first time knows.
func (w *world) fromScratch() *Resolver {
	r := New(testDNS)
	for _, p := range w.policies {
		r.SetPolicy(p, w)
	}
	return r
}

// naive says by the words of the API what a set has.
func (w *world) naive(s netpolicy.Set) []string {
	var out []string
	add := func(pod *corev1.Pod, nsLabels map[string]string) {
		if s.Namespace != "" && pod.Namespace != s.Namespace || s.Namespace == "" && !netpolicy.Matches(s.Namespaces, nsLabels) {
			return
		}
		if !netpolicy.Matches(s.Pods, pod.Labels) || pod.Status.PodIP == "" || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodFailed {
			return
		}
		if s.Port == "" {
			out = append(out, pod.Status.PodIP)
		}
		for _, p := range netpolicy.PortsNamed(pod, s.Port, s.Protocol) {
			out = append(out, fmt.Sprintf("%s %d/%d", pod.Status.PodIP, netpolicy.Protocols[p.Protocol], p.Number))
		}
	}
	for _, ns := range w.namespaces {
		for p := range w.Pods(ns.Name) {
			add(p, ns.Labels)
		}
		if ns.Name == DNSNamespace {
			add(New(testDNS).dns, ns.Labels)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// members decodes what would travel.
func members(t interface{ Fatal(...any) }, r *Resolver, id string) []string {
	var out []string
	for _, c := range r.Chunks(id) {
		data, rev := r.Encoded(c)
		var s agentv1.PolicySet
		if err := proto.Unmarshal(data, &s); err != nil || rev == 0 || len(s.Addresses) == 0 {
			t.Fatal(err, rev, len(s.Addresses))
		}
		for i, n := range s.Addresses {
			a := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
			if chunkName(a) != c.Name {
				t.Fatal(a, "is in", c.Name)
			}
			text := a.String()
			if len(s.Ports) > 0 {
				text += fmt.Sprintf(" %d/%d", s.Ports[i]>>16, s.Ports[i]&0xffff)
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

func nsOf(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// step changes the world at random and tells the resolver.
func (w *world) step(t *rapid.T, r *Resolver) {
	word := rapid.SampledFrom([]string{"a", "b", "c"})
	labels := func(what string) map[string]string { return rapid.MapOfN(word, word, 0, 2).Draw(t, what) }
	ns := rapid.SampledFrom([]string{"x", "y", DNSNamespace}).Draw(t, "namespace")
	name := word.Draw(t, "name")
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0, 1:
		old, pod := w.pods[key{ns, name}], &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels("labels")}}
		pod.Status.PodIP = rapid.SampledFrom([]string{"", "10.244.1.5", "10.244.1.6", "10.244.2.5"}).Draw(t, "ip")
		pod.Spec.HostNetwork = rapid.IntRange(0, 9).Draw(t, "host") == 0
		if rapid.IntRange(0, 9).Draw(t, "phase") == 0 {
			pod.Status.Phase = corev1.PodFailed
		}
		pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: word.Draw(t, "port"), ContainerPort: rapid.Int32Range(80, 81).Draw(t, "number"), Protocol: "TCP"}}}}
		w.pods[key{ns, name}] = pod
		if w.namespaces[ns] == nil {
			w.namespaces[ns] = nsOf(ns, nil)
			r.SetNamespace(ns, w.namespaces[ns], w)
		}
		r.SetPod(old, pod)
	case 2:
		old := w.pods[key{ns, name}]
		delete(w.pods, key{ns, name})
		r.SetPod(old, nil)
	case 3:
		w.namespaces[ns] = nsOf(ns, labels("labels"))
		r.SetNamespace(ns, w.namespaces[ns], w)
	case 4:
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
		peer := func() (out networkingv1.NetworkPolicyPeer) {
			if rapid.Bool().Draw(t, "by namespace") {
				out.NamespaceSelector = &metav1.LabelSelector{MatchLabels: labels("namespaces")}
			}
			if out.NamespaceSelector == nil || rapid.Bool().Draw(t, "by pod") {
				out.PodSelector = &metav1.LabelSelector{MatchLabels: labels("pods")}
				if rapid.Bool().Draw(t, "expression") {
					out.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: word.Draw(t, "key"), Operator: metav1.LabelSelectorOpNotIn, Values: []string{word.Draw(t, "value")}}}
				}
			}
			return out
		}
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer()}}}
		port := intstr.FromString(word.Draw(t, "port"))
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{peer()}, Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}}
		w.policies[key{ns, name}] = p
		r.SetPolicy(p, w)
	case 5:
		delete(w.policies, key{ns, name})
		r.DeletePolicy(ns, name)
	}
}

// However it came about: what the resolver knows is what the API's words say, and what one would know that starts now; and
// every change of a chunk is told.
func TestResolverIsAsFromScratch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, r := newWorld(), New(testDNS)
		w.namespaces[DNSNamespace] = nsOf(DNSNamespace, nil)
		sent := map[Chunk][]byte{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.step(t, r)
			for c := range r.Changed() {
				if data, _ := r.Encoded(c); data != nil {
					sent[c] = data
				} else {
					delete(sent, c)
				}
			}
			fresh := w.fromScratch()
			if d := cmp.Diff(slices.Sorted(maps.Keys(fresh.sets)), slices.Sorted(maps.Keys(r.sets))); d != "" {
				t.Fatal("sets (- from scratch):\n", d)
			}
			all := map[Chunk][]byte{}
			for id, s := range r.sets {
				got := members(t, r, id)
				if d := cmp.Diff(w.naive(s.spec), got); d != "" && len(got)+len(w.naive(s.spec)) > 0 {
					t.Fatalf("set %+v (- by the words):\n%s", s.spec, d)
				}
				if d := cmp.Diff(members(t, fresh, id), got); d != "" {
					t.Fatal("members (- from scratch):\n", d)
				}
				for _, c := range r.Chunks(id) {
					all[c], _ = r.Encoded(c)
				}
			}
			if d := cmp.Diff(all, sent); d != "" {
				t.Fatal("not every change was told (- is):\n", d)
			}
		}
		for k := range w.policies {
			r.DeletePolicy(k.namespace, k.name)
		}
		if len(r.sets)+len(r.cover)+len(r.wide)+len(r.policies) > 0 {
			t.Fatal("without policies something is left", r.sets, r.cover)
		}
	})
}

// A source that is ahead of the events, as the store is, leads to the same in the end.
func TestResolverConvergesWhenTheSourceIsAhead(t *testing.T) {
	w, r := newWorld(), New(netip.Addr{})
	pod := func(ip string, labels map[string]string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "p", Labels: labels}, Status: corev1.PodStatus{PodIP: ip}}
	}
	a, b := map[string]string{"app": "a"}, map[string]string{"app": "b"}
	v1, v2, v3 := pod("10.244.1.5", a), pod("10.244.1.6", b), pod("10.244.1.7", a)
	w.namespaces["x"], w.pods[key{"x", "p"}] = nsOf("x", nil), v3
	policy := func(name string, l map[string]string) *networkingv1.NetworkPolicy {
		return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}, Spec: networkingv1.NetworkPolicySpec{
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: l}}}}},
		}}
	}
	r.SetPolicy(policy("a", a), w)
	r.SetPolicy(policy("b", b), w)
	r.SetPod(nil, v1)
	r.SetPod(v1, v2)
	r.SetPod(v2, v3)
	setA, setB := netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: a}}, netpolicy.Set{Namespace: "x", Pods: &metav1.LabelSelector{MatchLabels: b}}
	if got := members(t, r, setA.ID()); !slices.Equal(got, []string{"10.244.1.7"}) {
		t.Error(got)
	}
	if got := members(t, r, setB.ID()); len(got) > 0 {
		t.Error(got)
	}
	r.SetPod(v3, nil)
	if got := members(t, r, setA.ID()); len(got) > 0 {
		t.Error(got)
	}
}

// BenchmarkPodComes into a namespace of a cluster with 1,000 policies, each of which allows other pods.
func BenchmarkPodComes(b *testing.B) {
	w, r := newWorld(), New(testDNS)
	for i := range 10 {
		ns := fmt.Sprint("ns", i)
		w.namespaces[ns] = nsOf(ns, map[string]string{"kubernetes.io/metadata.name": ns})
	}
	for i := range 1000 {
		ns, app := fmt.Sprint("ns", i%10), map[string]string{"app": fmt.Sprint("a", i)}
		w.pods[key{ns, fmt.Sprint("p", i)}] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("p", i), Labels: app}, Status: corev1.PodStatus{PodIP: fmt.Sprintf("10.244.%d.%d", i/250, i%250+2)},
		}
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("p", i)}}
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: app}}}}}
		w.policies[key{ns, p.Name}] = p
		r.SetPolicy(p, w)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns0", Name: "new", Labels: map[string]string{"app": "a0"}}, Status: corev1.PodStatus{PodIP: "10.244.9.9"}}
	for b.Loop() {
		r.SetPod(nil, pod)
		for c := range r.Changed() {
			r.Encoded(c)
		}
		r.SetPod(pod, nil)
		r.Changed()
	}
}
