package trace

import (
	"context"
	"errors"
	"fmt"
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
			name.CNAME = w.service.Spec.ExternalName + "."
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
			return nil, err
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
	client := fake.NewClientset()
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

func TestHealthy(t *testing.T) {
	want := `service default/web, tried from n1, n2

✓ Service     NodePort 10.254.7.9: http 80/TCP → http, node port 30080
✓ selector    app=web matches 2 pods
✓ pods        2 of 2 ready
✓ endpoints   10.244.1.5:8080 (web-1 on n1), 10.244.2.7:8080 (web-2 on n2)
✓ name        web.default.svc.cluster.local → 10.254.7.9
✓ rules       10.254.7.9 on 2 nodes: to 2 endpoints
✓ container   listens on 8080/TCP
✓ connection  all 2 endpoints answer directly, the slowest after 0.5 ms
✓ address     10.254.7.9:80 answers
✓ outside     node port 30080 answers

Nothing is broken on this way.
`
	w := healthy()
	if got := text(w.run(t, Options{})); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	w = healthy()
	r := w.run(t, Options{FromPod: "web-2", Port: "http"})
	if r.Broken != "" || fmt.Sprint(r.From) != "[pod web-2]" {
		t.Errorf("%+v", r)
	}
	inside := 0
	for _, q := range w.asked {
		if q.From != nil && *q.From == (diagnose.Pod{Namespace: "default", Name: "web-2", UID: "uid-web-2"}) && q.Names[0] == "web" {
			inside++
		}
	}
	if inside != 1 {
		t.Errorf("asked %d times from inside the pod", inside)
	}
}

// Each thing that is broken is the one that is named.
func TestBroken(t *testing.T) {
	at := netip.MustParseAddrPort
	for name, c := range map[string]struct {
		change func(w *world)
		o      Options
		broken string
		words  []string // of the report
	}{
		"no Service":        {func(w *world) { w.service.Name = "web2" }, Options{}, "Service", []string{`there is none called "web" in namespace default`, "did you mean web2?"}},
		"Service elsewhere": {func(w *world) { w.service.Namespace = "prod" }, Options{}, "Service", []string{"there is one in namespace prod", "its name is web.prod"}},
		"no such port":      {func(*world) {}, Options{Port: "443"}, "Service", []string{"the Service has no port 443"}},
		"typo in selector": {func(w *world) { w.service.Spec.Selector["app"] = "wbe"; w.slice.Endpoints = nil }, Options{}, "selector",
			[]string{"app=wbe matches 0 pods", "pod web-1 has app=web", `{"app": "web"}`}},
		"no pods": {func(w *world) { w.pods = nil; w.slice.Endpoints = nil }, Options{}, "selector", []string{"there are no pods in namespace default"}},
		"pods crash": {func(w *world) {
			for _, p := range w.pods {
				notReady(p, corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}},
					LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}})
			}
			w.slice.Endpoints = nil
		}, Options{}, "pods", []string{"0 of 2 ready", "pod web-1 on n1: container web: CrashLoopBackOff, back-off 10s (its last run ended with exit code 3)"}},
		"pods not ready": {func(w *world) {
			w.pods = w.pods[:1]
			notReady(w.pods[0], corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			w.slice.Endpoints = w.slice.Endpoints[:1]
			w.slice.Endpoints[0].Conditions.Ready = ref(false)
			w.events = []*corev1.Event{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, Type: "Warning", Reason: "Unhealthy", Message: "Readiness probe failed: 404"}}
		}, Options{}, "pods", []string{"running, but not ready", "Unhealthy: Readiness probe failed: 404"}},
		"named targetPort": {func(w *world) {
			w.service.Spec.Ports[0].TargetPort = intstr.FromString("web")
			w.slice.Endpoints = nil
		}, Options{}, "targetPort", []string{`no container of pod web-2 has a TCP port called "web"`, "it has http 8080/TCP", "name: web"}},
		"wrong targetPort": {func(w *world) {
			w.service.Spec.Ports[0].TargetPort = intstr.FromInt32(81)
			w.slice.Ports[0].Port = ref(int32(81))
			w.answer = listens("", "0.0.0.0:8080")
		}, Options{}, "targetPort", []string{"pod web-1: no process listens on 81/TCP, but on 8080/TCP", "✗ connection  not all endpoints answer (follows from targetPort)\n", "✗ address     does not answer everywhere (follows from targetPort)\n", "set targetPort: 8080 in port http of Service web"}},
		"slices late":               {func(w *world) { w.slice.Endpoints = w.slice.Endpoints[:1] }, Options{}, "endpoints", []string{"ready, but not among them: web-2"}},
		"no selector, no endpoints": {func(w *world) { w.service.Spec.Selector = nil; w.slice.Endpoints = nil }, Options{}, "endpoints", []string{"nobody has given it endpoints"}},
		"listens on 127.0.0.1": {func(w *world) { w.answer = listens("web-2", "127.0.0.1:8080") }, Options{}, "container",
			[]string{"pod web-2 listens on 127.0.0.1:8080 only", "0.0.0.0:8080"}},
		"listens nowhere": {func(w *world) { w.answer = listens("web-1") }, Options{}, "container", []string{"no process listens on 8080/TCP, nor on any other TCP port", "wpctl logs web-1"}},
		"dns silent": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" && len(a.Names) > 0 {
					a.Names[0] = diagnose.Name{Asked: "web.default", Server: "10.254.254.1", Error: "i/o timeout"}
				}
				return nil
			}
		}, Options{}, "name", []string{"n2: 10.254.254.1 does not answer: i/o timeout", "wpctl doctor --node n2"}},
		"dns knows it not": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].RCode, a.Names[i].Addresses = "NXDOMAIN", nil
				}
				return nil
			}
		}, Options{}, "name", []string{"n1, n2: 10.254.254.1 answers NXDOMAIN"}},
		"dns old address": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].Addresses = []netip.Addr{netip.MustParseAddr("10.254.1.1")}
				}
				return nil
			}
		}, Options{}, "name", []string{"answers 10.254.1.1 for", "not 10.254.7.9"}},
		"pod asks others": {func(w *world) {
			w.pods[0].Spec.DNSPolicy = corev1.DNSDefault
			w.answer = func(_ string, q *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i] = diagnose.Name{Asked: "web", Server: "198.51.100.53", RCode: "NXDOMAIN"}
				}
				return nil
			}
		}, Options{FromPod: "web-1"}, "name", []string{"the pod does not ask the cluster's DNS (dnsPolicy: Default)", "set dnsPolicy: ClusterFirst in pod web-1"}},
		"rules flushed": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" && a.Rules != nil {
					a.Rules.Ways[0].Have = diagnose.Verdict{Action: diagnose.Reject, Missing: "chain WP-SERVICES is empty"}
					dials(a, diagnose.Refused, func(d diagnose.Dialed) bool { return d.Address == at("10.254.7.9:80") })
				}
				return nil
			}
		}, Options{}, "rules", []string{"n2: no rule leads 10.254.7.9:80/TCP to an endpoint: chain WP-SERVICES is empty", "systemctl restart wp-agent on n2"}},
		"rules of old": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					old := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080"), at("10.244.9.9:8080")}}
					a.Rules.Ways[0].Want, a.Rules.Ways[0].Have = old, old
				}
				return nil
			}
		}, Options{}, "rules", []string{"knows other endpoints of 10.254.7.9:80/TCP than the API server: 10.244.2.7:8080 is missing, 10.244.9.9:8080 is too many", "agent has a session"}},
		"kernel lacks one": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					a.Rules.Ways[1].Have = diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
				}
				return nil
			}
		}, Options{}, "rules", []string{"node port 30080/TCP leads to 10.244.2.7:8080 is missing"}},
		"no plane": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if q.Rules && n == "n1" {
					a.Rules, a.Errors["rules"] = nil, "the node's network could not be set up: DNS: address already in use"
				}
				return nil
			}
		}, Options{}, "rules", []string{"n1: the node's network could not be set up", "wpctl doctor --node n1"}},
		"DROP on the endpoint's node": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				}
				if n == "n2" && len(q.Drops) > 0 {
					a.Drops = []string{"-A FORWARD -d 10.244.2.7/32 -j DROP"}
				}
				return nil
			}
		}, Options{}, "connection", []string{"n1: 10.244.2.7:8080 (web-2 on n2): no answer", "a rule on n2 drops it: iptables -A FORWARD -d 10.244.2.7/32 -j DROP"}},
		"policy": {func(w *world) {
			w.policies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "deny"}}}
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				}
				return nil
			}
		}, Options{}, "connection", []string{"NetworkPolicy default/deny isolates pod default/web-2 for ingress, and no rule lets server n1 (198.51.100.11)", "in at 8080/TCP", "ipBlock 198.51.100.11/32"}},
		"tunnel": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					for i, d := range a.Dials {
						if d.Address == at("10.244.2.7:8080") {
							a.Dials[i].Result, a.Dials[i].Via = diagnose.TimedOut, "wpx0"
						}
					}
				}
				return nil
			}
		}, Options{}, "connection", []string{"the way from n1 to n2 is broken (through the tunnel: 8472/udp", "wpctl doctor --node n1"}},
		"own node cannot": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.Forbidden, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				return nil
			}
		}, Options{}, "connection", []string{"its own node cannot reach it either", "wpctl doctor --node n2"}},
		"large packets lost": {func(w *world) {
			w.answer = func(n string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Pings {
					a.Pings[i].Full = n != "n1" || a.Pings[i].Address.String() != "10.244.2.7"
				}
				return nil
			}
		}, Options{}, "size", []string{"n1: 1500 bytes to web-2 on n2", "wpctl doctor --node n1", "✓ connection"}},
		"only the address": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.254.7.9:80") })
				return nil
			}
		}, Options{}, "address", []string{"n1, n2: 10.254.7.9:80: no answer", "rules of others"}},
		"only the node port": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("198.51.100.12:30080") })
				return nil
			}
		}, Options{}, "outside", []string{"n1: node port 30080 of n2: no answer", "n2: node port 30080: no answer"}},
		"agent away": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" {
					return errors.New("error dialing backend: node n2 has no session with the master")
				}
				return nil
			}
		}, Options{}, "nodes", []string{"n2: error dialing backend", "wpctl doctor --node n2"}},
		"no node": {func(w *world) {
			for _, n := range w.nodes {
				n.Status.Conditions[0].Status = corev1.ConditionUnknown
			}
		}, Options{}, "nodes", []string{"no node is ready"}},
		"headless, one address missing": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort = "None", corev1.ServiceTypeClusterIP, 0
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].Addresses = a.Names[i].Addresses[:1]
				}
				return nil
			}
		}, Options{}, "name", []string{"answers 10.244.1.5 for", "not 10.244.1.5, 10.244.2.7"}},
		"no address for a load balancer": {func(w *world) {
			w.service.Spec.Type, w.service.UID = corev1.ServiceTypeLoadBalancer, "uid-svc"
			w.events = []*corev1.Event{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Service", Name: "web", UID: "uid-svc"},
				Type: "Warning", Reason: "AllocationFailed", Message: "port 80 is taken",
			}}
		}, Options{}, "outside", []string{"there is no EXTERNAL-IP yet", "AllocationFailed: port 80 is taken", "wpctl describe service web"}},
		"ExternalName": {func(w *world) {
			w.service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}
			w.slice = nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				a.Names[0].CNAME = "old.example.org."
				return nil
			}
		}, Options{FromNode: "n1"}, "name", []string{"answers \"old.example.org.\""}},
		"pod alone, wrong port": {func(w *world) { w.answer = listens("web-1", "0.0.0.0:9090") }, Options{Kind: "pod", Name: "web-1"}, "container",
			[]string{"no process listens on 8080/TCP, but on 9090/TCP"}},
	} {
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

// What is no fault is not called one.
func TestNoFault(t *testing.T) {
	at := netip.MustParseAddrPort
	for name, c := range map[string]struct {
		change func(w *world)
		o      Options
		word   string
	}{
		"one of two not ready": {func(w *world) {
			notReady(w.pods[1], corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}})
			w.slice.Endpoints[1].Conditions.Ready = ref(false)
		}, Options{}, "! pods        1 of 2 ready"},
		"headless": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort = "None", corev1.ServiceTypeClusterIP, 0
		}, Options{}, "→ 10.244.1.5, 10.244.2.7"},
		"ExternalName": {func(w *world) {
			w.service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}
			w.slice = nil
		}, Options{}, "web.default.svc.cluster.local → www.example.org"},
		"a node is down": {func(w *world) {
			w.nodes = append(w.nodes, node("n3", "198.51.100.13"))
			w.nodes[2].Status.Conditions[0].Status = corev1.ConditionUnknown
		}, Options{}, "not ready, and not tried: n3"},
		"endpoint on a dead node is left out": {func(w *world) {
			w.nodes[1].Status.Conditions[0].Status = corev1.ConditionUnknown
			w.answer = func(_ string, q *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					v := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
					for i := range a.Rules.Ways {
						a.Rules.Ways[i].Want, a.Rules.Ways[i].Have = v, v
					}
				}
				return nil
			}
		}, Options{}, "✓ rules"},
		"hints": {func(w *world) {
			w.service.Spec.TrafficDistribution = ref("PreferClose")
			w.answer = func(_ string, q *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					v := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
					a.Rules.Ways[0].Want, a.Rules.Ways[0].Have = v, v
				}
				return nil
			}
		}, Options{}, "✓ rules"},
		"externalTrafficPolicy Local": {func(w *world) {
			w.service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			w.pods, w.slice.Endpoints = w.pods[:1], w.slice.Endpoints[:1]
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("198.51.100.12:30080") })
				}
				return nil
			}
		}, Options{}, "node port 30080 answers"},
		"the agent is of old": {func(w *world) {
			w.answer = func(string, *diagnose.Question, *diagnose.Answer) error { return errors.New("404 page not found") }
		}, Options{}, "update wp-agent on"},
		"a load balancer's address": {func(w *world) {
			w.service.Spec.Type, w.service.UID = corev1.ServiceTypeLoadBalancer, "uid-svc"
			w.service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.5"}}
			for i, node := range []string{"n2", "n1"} {
				w.events = append(w.events, &corev1.Event{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("e", i)}, InvolvedObject: corev1.ObjectReference{Kind: "Service", Name: "web", UID: "uid-svc"},
					Type: "Normal", Reason: "NodeAssigned", Message: "announced from " + node, LastTimestamp: metav1.Unix(int64(100-i), 0),
				})
			}
		}, Options{}, "✓ outside     EXTERNAL-IP 203.0.113.5:80, node port 30080 answer\n              announced from n2\n"},
		"the cluster's DNS": {func(w *world) {
			w.service.Spec.Selector, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort, w.slice.Endpoints = nil, corev1.ServiceTypeClusterIP, 0, nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					a.Rules.Ways = nil
				}
				return nil
			}
		}, Options{}, "✓ endpoints   every node answers by itself\n✓ name        web.default.svc.cluster.local → 10.254.7.9\n✓ rules       10.254.7.9 on 2 nodes: left to the node itself\n✓ address     10.254.7.9:80 answers\n"},
		"redirected inside the pod": {func(w *world) {
			inner := listens("web-1", "127.0.0.1:15001")
			w.answer = func(node string, q *diagnose.Question, a *diagnose.Answer) error {
				err := inner(node, q, a)
				dials(a, diagnose.Answered, func(diagnose.Dialed) bool { return true })
				return err
			}
		}, Options{}, "✓ container"},
		"pings are dropped": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Pings {
					a.Pings[i] = diagnose.Pinged{Address: a.Pings[i].Address, Size: 1500}
				}
				return nil
			}
		}, Options{}, "Nothing is broken on this way."},
		"another proxy": {func(w *world) { w.service.Labels = map[string]string{otherProxyLabel: "cilium"} }, Options{}, "– rules       left to another proxy"},
		"a pod":         {func(*world) {}, Options{Kind: "pod", Name: "web-1"}, "web-1 is ready, 10.244.1.5 on node n1"},
		"rules that were only late": {func(w *world) {
			first := true
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if a.Rules != nil && n == "n1" && first {
					first, a.Rules.Known = false, false
				}
				return nil
			}
		}, Options{}, "✓ rules"},
	} {
		t.Run(name, func(t *testing.T) {
			w := healthy()
			c.change(w)
			r := w.run(t, c.o)
			if got := text(r); !strings.Contains(got, c.word) || r.Broken != "" && name != "endpoint on a dead node is left out" {
				t.Errorf("%q is broken, or no %q in\n%s", r.Broken, c.word, got)
			}
		})
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	w := healthy()
	client := fake.NewClientset(w.nodes[0], w.pods[0])
	for want, o := range map[string]Options{
		`nodes "n9" not found`:    {Kind: "pod", Name: "web-1", FromNode: "n9"},
		`pods "nobody" not found`: {Kind: "pod", Name: "nobody"},
		`pods "gone" not found`:   {Kind: "pod", Name: "web-1", FromPod: "gone"},
	} {
		o.Namespace = "default"
		if _, err := Run(t.Context(), client, w.ask, o); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	if nearest("wbe", []string{"mysql", "web"}) != "web" || nearest("x", []string{"mysql"}) != "" || levenshtein("", "abc") != 3 || levenshtein("kitten", "sitting") != 3 {
		t.Error("names are not told apart")
	}
}
