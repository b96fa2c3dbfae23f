package netpolicy

import (
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// A master and an agent of different versions must find the same names.
func TestIDsAreTheProtocols(t *testing.T) {
	app := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	for _, c := range []struct {
		set  Set
		want string
	}{
		{Set{Namespace: "shop"}, "5v4zonf7j44rwr7732t327pt"},
		{Set{Namespace: "shop", Pods: app}, "nxitdovqr7ciar57cvx2cd4u"},
		{Set{Namespaces: app, Pods: app}, "ofofuexycfvou4makqtgypsr"},
		{Everywhere.WithPort(&networkingv1.NetworkPolicyPort{Port: &intstr.IntOrString{Type: intstr.String, StrVal: "http"}}), "psmkk5bx6npewh4bomsg4kq6"},
	} {
		if got := c.set.ID(); got != c.want {
			t.Errorf("%+v is %s, was %s", c.set, got, c.want)
		}
	}
}

func TestIDsTellSetsApart(t *testing.T) {
	in := func(key string, values ...string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values}}}
	}
	if a, b := (Set{Namespace: "x", Pods: in("a", "1", "2")}), (Set{Namespace: "x", Pods: in("a", "2", "1", "1")}); a.ID() != b.ID() {
		t.Error("the order of values matters")
	}
	if (Set{Namespace: "x"}).ID() != (Set{Namespace: "x", Pods: &metav1.LabelSelector{}}).ID() {
		t.Error("an empty selector is not as none")
	}
	seen := map[string]int{}
	for i, s := range []Set{
		{Namespace: "x"}, {Namespace: "y"}, {Namespaces: &metav1.LabelSelector{}}, {Namespace: "x", Pods: in("a", "1")}, {Namespace: "x", Pods: in("a", "1", "2")},
		{Namespaces: in("a", "1")}, {Namespaces: in("a", "1"), Pods: in("a", "1")}, {Namespace: "x", Port: "http", Protocol: "TCP"}, {Namespace: "x", Port: "http", Protocol: "UDP"},
	} {
		if was, ok := seen[s.ID()]; ok {
			t.Errorf("%d and %d have one ID", was, i)
		}
		seen[s.ID()] = i
	}
}

// Kubernetes' own selectors say what matches.
func TestMatches(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", "c"})
	rapid.Check(t, func(t *rapid.T) {
		sel := &metav1.LabelSelector{MatchLabels: rapid.MapOfN(word, word, 0, 2).Draw(t, "match")}
		for range rapid.IntRange(0, 2).Draw(t, "expressions") {
			e := metav1.LabelSelectorRequirement{Key: word.Draw(t, "key"), Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{
				metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist,
			}).Draw(t, "operator")}
			if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
				e.Values = rapid.SliceOfN(word, 1, 2).Draw(t, "values")
			}
			sel.MatchExpressions = append(sel.MatchExpressions, e)
		}
		theirs, err := metav1.LabelSelectorAsSelector(sel)
		if err != nil {
			t.Fatal(err)
		}
		l := rapid.MapOfN(word, word, 0, 3).Draw(t, "labels")
		if got, want := Matches(sel, l), theirs.Matches(labels.Set(l)); got != want {
			t.Errorf("%v on %v: %v, want %v", sel, l, got, want)
		}
	})
}

func TestTypes(t *testing.T) {
	in, out := networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress
	for _, c := range []struct {
		types           []networkingv1.PolicyType
		egress          int
		ingress, egresp bool
	}{
		{nil, 0, true, false},
		{nil, 1, true, true},
		{[]networkingv1.PolicyType{in}, 1, true, false},
		{[]networkingv1.PolicyType{out}, 0, false, true},
		{[]networkingv1.PolicyType{out, in}, 0, true, true},
	} {
		p := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: c.types, Egress: make([]networkingv1.NetworkPolicyEgressRule, c.egress)}}
		if i, e := Types(p); i != c.ingress || e != c.egresp {
			t.Errorf("%v with %d egress rules: %v %v", c.types, c.egress, i, e)
		}
	}
}

func TestOf(t *testing.T) {
	pods := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	name := intstr.FromString("pg")
	number := intstr.FromInt32(53)
	udp := corev1.ProtocolUDP
	p := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: pods}, {IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8"}}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: &name}}, // of the pods selected: no set
			}},
			Egress: []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: pods}}, Ports: []networkingv1.NetworkPolicyPort{{Port: &name}, {Port: &number, Protocol: &udp}}},
				{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: pods}}, Ports: []networkingv1.NetworkPolicyPort{{Port: &name}}},
				{Ports: []networkingv1.NetworkPolicyPort{{Port: &name, Protocol: &udp}}},
				{},
			},
		},
	}
	pg := &p.Spec.Egress[0].Ports[0]
	want := []string{
		Set{Namespace: "shop", Pods: pods}.ID(),
		Set{Namespaces: &metav1.LabelSelector{}, Pods: pods}.ID(), Set{Namespaces: &metav1.LabelSelector{}, Pods: pods}.WithPort(pg).ID(),
		Set{Namespaces: pods}.WithPort(pg).ID(),
		Everywhere.WithPort(&p.Spec.Egress[2].Ports[0]).ID(),
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(Of(p))); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	p.Spec.PolicyTypes = p.Spec.PolicyTypes[:1]
	if got := Of(p); len(got) != 1 {
		t.Errorf("egress rules of a policy that does not isolate egress count: %v", got)
	}
}

func TestPortsNamed(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, n int32, p corev1.Protocol) corev1.Container {
		return corev1.Container{Ports: []corev1.ContainerPort{{Name: name, ContainerPort: n, Protocol: p}}}
	}
	side := port("web", 81, "TCP")
	side.RestartPolicy = &always
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{port("web", 79, "TCP"), side},
		Containers:     []corev1.Container{port("web", 82, ""), port("web", 80, "TCP"), port("web", 80, "TCP"), port("web", 53, "UDP"), port("db", 5, "TCP"), port("web", 0, "TCP")},
	}}
	want := []Port{{"TCP", 80}, {"TCP", 81}, {"TCP", 82}}
	if got := PortsNamed(pod, "web", "TCP"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
