package clustertest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/proto/netpolicy"
)

// policies are those that an agent knows.
func (a *agent) policies() string {
	var names []string
	for _, p := range a.state.Policies() {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

// members of a set, as an agent knows them; "-" if it knows nothing of it.
func (a *agent) members(s netpolicy.Set) string {
	out := []string{}
	known := false
	a.state.PolicySets(func(set, part string, m *desired.PolicySet) {
		if set != s.ID() {
			return
		}
		known = true
		for _, n := range m.Addresses {
			addr := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
			if !strings.HasPrefix(addr.String(), part+".") {
				a.c.Errorf("%s is in the part %s", addr, part)
			}
			out = append(out, addr.String())
		}
	})
	if !known {
		return "-"
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (a *agent) sets() int {
	n := map[string]bool{}
	a.state.PolicySets(func(set, _ string, _ *desired.PolicySet) { n[set] = true })
	return len(n)
}

// A node hears of the policies that select its pods, before it starts them, and of the addresses of their peers, while these change;
// and of no others.
func TestNodesHearOfTheirPolicies(t *testing.T) {
	run(t, 3, func(c *cluster) {
		np := c.kube.NetworkingV1().NetworkPolicies("default")
		label := func(kv ...string) map[string]string { return map[string]string{kv[0]: kv[1]} }
		policy := func(name string, selector, from map[string]string) *networkingv1.NetworkPolicy {
			p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
			p.Spec.PodSelector.MatchLabels = selector
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: from}}}}}
			return p
		}
		pod := func(name, node string, labels map[string]string) {
			c.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "nginx:1"}}}})
		}
		if _, err := np.Create(c.ctx, policy("web", label("app", "web"), label("role", "client")), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		n1, n2, n3 := c.agents["n1"], c.agents["n2"], c.agents["n3"]
		clients := netpolicy.Set{Namespace: "default", Pods: &metav1.LabelSelector{MatchLabels: label("role", "client")}}
		known := map[string]string{} // what a node knew of policies when it attached a pod
		for _, a := range c.agents {
			a.net.attaching = func(pod string) { known[pod] = a.policies() }
		}
		pod("client", "n2", label("role", "client"))
		c.eventually(10*time.Second, "the client runs", func() bool { return c.running("client") })
		pod("web", "n1", label("app", "web"))
		c.eventually(10*time.Second, "web runs", func() bool { return c.running("web") })
		if want := map[string]string{"client": "", "web": "web"}; !maps.Equal(known, want) {
			t.Errorf("known when pods were attached: %v, want %v", known, want)
		}
		told := func(what string, a *agent, policies, members string) {
			t.Helper()
			c.eventually(2*time.Second, fmt.Sprintf("%s: %s knows %q and %q, has %q and %q", what, a.name, policies, members, a.policies(), a.members(clients)), func() bool {
				return a.policies() == policies && a.members(clients) == members
			})
		}
		told("a pod", n1, "web", "10.244.2.2")
		told("a client's node", n2, "", "-")
		// A second client, elsewhere, and one that ends.
		pod("client2", "n3", label("role", "client"))
		told("another client", n1, "web", "10.244.2.2 10.244.3.2")
		told("no pod of it", n3, "", "-")
		c.deletePod("client", 0)
		told("a client went", n1, "web", "10.244.3.2")
		// Labels.
		patch := func(pod, labels string) {
			t.Helper()
			if _, err := c.kube.CoreV1().Pods("default").Patch(c.ctx, pod, types.MergePatchType, []byte(`{"metadata":{"labels":`+labels+`}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		patch("client2", `{"role":null}`)
		told("a client lost its label", n1, "web", "-")
		patch("client2", `{"role":"client","app":"web"}`)
		told("a pod is selected now", n3, "web", "10.244.3.2")
		told("it is a client again", n1, "web", "10.244.3.2")
		// An agent that starts again knows it without the master; a master that starts again changes nothing.
		n1.stop()
		c.start(n1)
		if n1.policies() != "web" || n1.members(clients) != "10.244.3.2" {
			t.Error("after a restart the agent knows", n1.policies(), n1.members(clients))
		}
		c.restartMaster(time.Second)
		if _, err := c.kube.CoreV1().Services("default").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(time.Minute, "all agents are back", func() bool {
			if n1.policies() != "web" || n1.members(clients) != "10.244.3.2" {
				t.Error("meanwhile it knows", n1.policies(), n1.members(clients))
			}
			return !slices.ContainsFunc([]*agent{n1, n2, n3}, func(a *agent) bool { _, ok := a.state.Service("default", "new"); return !ok })
		})
		// The policy is another.
		p, err := np.Get(c.ctx, "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Spec.PodSelector.MatchLabels = label("app", "other")
		if _, err := np.Update(c.ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		told("it selects others", n1, "", "-")
		told("it selects others", n3, "", "-")
		patch("web", `{"app":"other"}`)
		told("it selects the pod again", n1, "web", "10.244.3.2")
		if err := np.Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		told("it is deleted", n1, "", "-")
		if n1.sets()+n2.sets()+n3.sets() > 0 {
			t.Error("sets are left")
		}
	})
}

// By a namespace's labels, and what counts as the cluster's name server.
func TestNamespacesOfPolicies(t *testing.T) {
	run(t, 1, func(c *cluster) {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
		system := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}}
		dns := &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}}
		friends := &metav1.LabelSelector{MatchLabels: map[string]string{"friend": "yes"}}
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: system, PodSelector: dns}, {NamespaceSelector: friends}}}}
		if _, err := c.kube.NetworkingV1().NetworkPolicies("default").Create(c.ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx:1"}}}})
		n1 := c.agents["n1"]
		c.eventually(10*time.Second, "the name server's address is told", func() bool {
			return n1.members(netpolicy.Set{Namespaces: system, Pods: dns}) == "10.254.254.1"
		})
		ip := ""
		c.eventually(10*time.Second, "the pod has an address", func() bool { ip = c.pod("web").Status.PodIP; return ip != "" })
		for _, step := range [][2]string{{`{"friend":"yes"}`, ip}, {`{"friend":null}`, "-"}} {
			labels, want := step[0], step[1]
			if _, err := c.kube.CoreV1().Namespaces().Patch(c.ctx, "default", types.MergePatchType, []byte(`{"metadata":{"labels":`+labels+`}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			c.eventually(2*time.Second, "the namespace's pods "+labels, func() bool { return n1.members(netpolicy.Set{Namespaces: friends}) == want })
		}
	})
}
