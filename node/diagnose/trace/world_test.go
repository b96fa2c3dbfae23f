package trace

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/whalepod/whalepod/node/diagnose"
)

func ref[T any](v T) *T { return &v }

// world is a small cluster: two nodes, a pod on each, a Service that has both, and agents that answer as if all was well.
type world struct {
	service  *corev1.Service
	pods     []*corev1.Pod
	slice    *discoveryv1.EndpointSlice
	nodes    []*corev1.Node
	policies []*networkingv1.NetworkPolicy
	others   []*corev1.Service
	events   []*corev1.Event
	// answer changes what an agent says.
	answer func(node string, q *diagnose.Question, a *diagnose.Answer) error

	mu    sync.Mutex
	asked []*diagnose.Question
}

func node(name, ip string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
}

func pod(name, on, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: on, DNSPolicy: corev1.DNSClusterFirst, Containers: []corev1.Container{
			{Name: "web", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}},
		}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func notReady(p *corev1.Pod, s corev1.ContainerStatus) {
	p.Status.Conditions[0].Status = corev1.ConditionFalse
	p.Status.ContainerStatuses = []corev1.ContainerStatus{s}
}

func healthy() *world {
	w := &world{
		service: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.254.7.9", Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromString("http"), NodePort: 30080}},
		}},
		pods:  []*corev1.Pod{pod("web-1", "n1", "10.244.1.5"), pod("web-2", "n2", "10.244.2.7")},
		nodes: []*corev1.Node{node("n1", "198.51.100.11"), node("n2", "198.51.100.12")},
		slice: &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ref("http"), Protocol: ref(corev1.ProtocolTCP), Port: ref(int32(8080))}},
		},
	}
	for _, p := range w.pods {
		w.slice.Endpoints = append(w.slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, NodeName: ref(p.Spec.NodeName), TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: p.Name, Namespace: "default"},
			Conditions: discoveryv1.EndpointConditions{Ready: ref(true)},
		})
	}
	return w
}

// endpoints of the slice, as a node knows them.
func (w *world) endpoints() (out []netip.AddrPort) {
	for _, e := range w.slice.Endpoints {
		if *e.Conditions.Ready && len(w.slice.Ports) > 0 {
			out = append(out, netip.AddrPortFrom(netip.MustParseAddr(e.Addresses[0]), uint16(*w.slice.Ports[0].Port)))
		}
	}
	return out
}

// ask is an agent to which nothing is wrong, and then what the test says.
func (w *world) ask(_ context.Context, node string, q *diagnose.Question) (*diagnose.Answer, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.asked = append(w.asked, q)
	w.mu.Unlock()
	a := &diagnose.Answer{Node: node, Errors: map[string]string{}}
	for _, n := range q.Names {
		name := diagnose.Name{Asked: n, Full: "web.default.svc.cluster.local.", Server: "10.254.254.1", RCode: "NOERROR"}
		switch {
		case w.service.Spec.Type == corev1.ServiceTypeExternalName:
			name.CNAME, name.Addresses = w.service.Spec.ExternalName+".", []netip.Addr{netip.MustParseAddr("192.0.2.80")}
		case w.service.Spec.ClusterIP == "None":
			for _, e := range w.endpoints() {
				name.Addresses = append(name.Addresses, e.Addr())
			}
		default:
			name.Addresses = []netip.Addr{netip.MustParseAddr(w.service.Spec.ClusterIP)}
		}
		a.Names = append(a.Names, name)
	}
	for _, t := range q.Dial {
		a.Dials = append(a.Dials, diagnose.Dialed{Target: t, Result: diagnose.Answered, Millis: 0.5, Via: "eth0"})
	}
	for _, to := range q.Pings {
		a.Pings = append(a.Pings, diagnose.Pinged{Address: to, Small: true, Full: true, Size: 1500})
	}
	if q.Rules {
		v := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: w.endpoints()}
		if len(v.Endpoints) == 0 {
			v = diagnose.Verdict{Action: diagnose.Reject}
		}
		a.Rules = &diagnose.Rules{Known: true, Applied: true, Ways: []diagnose.Way{
			{Port: "http", Protocol: "TCP", Address: netip.MustParseAddrPort("10.254.7.9:80"), Want: v, Have: v},
			{Port: "http", Protocol: "TCP", Address: netip.MustParseAddrPort("0.0.0.0:30080"), Want: v, Have: v},
		}}
	}
	for _, p := range q.Sockets {
		a.Sockets = append(a.Sockets, diagnose.PodSockets{Pod: p, Listening: []diagnose.Socket{{Protocol: "TCP", Address: netip.MustParseAddrPort("[::]:8080")}}})
	}
	if w.answer != nil {
		if err := w.answer(node, q, a); err != nil {
			return &diagnose.Answer{}, err
		}
	}
	return a, nil
}

// listens changes where the processes of a pod listen.
func listens(name string, at ...string) func(string, *diagnose.Question, *diagnose.Answer) error {
	return func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
		for i := range a.Sockets {
			if a.Sockets[i].Name == name || name == "" {
				a.Sockets[i].Listening = nil
				for _, s := range at {
					a.Sockets[i].Listening = append(a.Sockets[i].Listening, diagnose.Socket{Protocol: "TCP", Address: netip.MustParseAddrPort(s)})
				}
			}
		}
		// Nobody connects to its address, and not to the Service.
		ip := map[string]string{"web-1": "10.244.1.5", "web-2": "10.244.2.7"}[name]
		dials(a, diagnose.Refused, func(d diagnose.Dialed) bool {
			return name == "" || d.Address.Addr().String() == ip || d.Address.Addr().String() == "10.254.7.9"
		})
		return nil
	}
}

func dials(a *diagnose.Answer, result string, which func(diagnose.Dialed) bool) {
	for i := range a.Dials {
		if which(a.Dials[i]) {
			a.Dials[i].Result = result
		}
	}
}

func (w *world) run(t *testing.T, o Options) *Report {
	t.Helper()
	client := fake.NewSimpleClientset() // the newer one builds a schema each time, which is slow, and for server-side apply only
	add := func(obj interface {
		metav1.Object
	}) {
		t.Helper()
		var err error
		switch v := obj.(type) {
		case *corev1.Service:
			_, err = client.CoreV1().Services(v.Namespace).Create(t.Context(), v, metav1.CreateOptions{})
		case *corev1.Pod:
			_, err = client.CoreV1().Pods(v.Namespace).Create(t.Context(), v, metav1.CreateOptions{})
		case *corev1.Node:
			_, err = client.CoreV1().Nodes().Create(t.Context(), v, metav1.CreateOptions{})
		case *corev1.Event:
			_, err = client.CoreV1().Events(v.Namespace).Create(t.Context(), v, metav1.CreateOptions{})
		case *discoveryv1.EndpointSlice:
			_, err = client.DiscoveryV1().EndpointSlices(v.Namespace).Create(t.Context(), v, metav1.CreateOptions{})
		case *networkingv1.NetworkPolicy:
			_, err = client.NetworkingV1().NetworkPolicies(v.Namespace).Create(t.Context(), v, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if w.service != nil {
		add(w.service)
	}
	for _, s := range w.others {
		add(s)
	}
	for _, p := range w.pods {
		add(p)
	}
	for _, n := range w.nodes {
		add(n)
	}
	for _, p := range w.policies {
		add(p)
	}
	for _, e := range w.events {
		add(e)
	}
	if w.slice != nil {
		add(w.slice)
	}
	if o.Kind == "" {
		o.Kind, o.Name = "service", "web"
	}
	o.Namespace = "default"
	var r *Report
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = Run(t.Context(), client, w.ask, o); err != nil {
			t.Fatal(err)
		}
	})
	return r
}

func text(r *Report) string {
	var b strings.Builder
	r.Print(&b)
	return b.String()
}

// fault is what is done to a healthy world, and what is to be said of it.
type fault struct {
	change func(w *world)
	o      Options
	broken string
	words  []string // of the report
}

// isBroken: each thing that is broken is the one that is named.
func isBroken(t *testing.T, cases map[string]fault) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := healthy()
			c.change(w)
			r := w.run(t, c.o)
			got := text(r)
			if r.Broken != c.broken || r.Fix == "" {
				t.Errorf("%q is broken, want %q:\n%s", r.Broken, c.broken, got)
			}
			for _, word := range c.words {
				if !strings.Contains(got, word) {
					t.Errorf("no %q in\n%s", word, got)
				}
			}
		})
	}
}

type noFault struct {
	change func(w *world)
	o      Options
	word   string // of the report
}

// isNoFault: what is no fault is not called one.
func isNoFault(t *testing.T, cases map[string]noFault) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := healthy()
			c.change(w)
			r := w.run(t, c.o)
			if got := text(r); !strings.Contains(got, c.word) || r.Broken != "" {
				t.Errorf("%q is broken, or no %q in\n%s", r.Broken, c.word, got)
			}
		})
	}
}
