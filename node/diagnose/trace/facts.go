// Package trace follows the way to a Service or a pod, name → address → rules → endpoint → container, and says which step is
// broken and what to do. It asks the API server and, through it, the nodes' agents (package diagnose), which really try each
// step. facts.go and ask.go find out; judge*.go are pure.
package trace

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/whalepod/whalepod/node/diagnose"
)

// Options say what is traced and from where.
type Options struct {
	// Kind is "service" or "pod".
	Kind, Namespace, Name string
	// FromNode or FromPod limit from where things are tried; without them, from every ready node.
	FromNode         string
	FromPod          string
	FromPodNamespace string
	// Port limits it to one port of the Service (by number or name), or of the pod.
	Port string
}

// Asker asks the agent of a node.
type Asker func(ctx context.Context, node string, q *diagnose.Question) (*diagnose.Answer, error)

// maxEndpoints are tried one by one; a Service with more is tried at these.
const maxEndpoints = 50

// facts are what the API server says, and then what the agents do.
type facts struct {
	Options
	service  *corev1.Service // nil: not found, or a pod is traced
	pod      *corev1.Pod     // that is traced
	others   []string        // namespaces that have a Service of this name
	similar  []string        // Services here
	pods     []*corev1.Pod   // that the selector matches
	all      []*corev1.Pod   // of the namespace
	slices   []*discoveryv1.EndpointSlice
	nodes    map[string]*corev1.Node
	policies []networkingv1.NetworkPolicy
	events   map[string]string // pod → its last warning
	// namespaces are the labels of those that could be read, where there are policies.
	namespaces map[string]map[string]string
	balancer   []corev1.Event // of a Service that has, or waits for, a load balancer's address; oldest first

	endpoints []endpoint
	cut       int // so many endpoints were left out
	views     []*view
	near      map[string]*view // by node: from the endpoints' own nodes
}

// endpoint is an address behind a Service, or of the traced pod.
type endpoint struct {
	at       netip.AddrPort
	protocol string
	port     string // of the Service: name or number
	pod      *corev1.Pod
	name     string // for people
	node     string
	ready    bool
	last     bool // it ends, and serves as long as nothing else is ready
}

// view is from where things are tried.
type view struct {
	node   string
	pod    *corev1.Pod // nil: from the node itself
	ip     netip.Addr  // of the node
	answer *diagnose.Answer
	err    error
}

func (v *view) String() string {
	if v.pod != nil {
		return "pod " + v.pod.Name
	}
	return v.node
}

// dialed finds how dialing went.
func (v *view) dialed(protocol string, at netip.AddrPort) (diagnose.Dialed, bool) {
	if v == nil || v.answer == nil {
		return diagnose.Dialed{}, false
	}
	for _, d := range v.answer.Dials {
		if d.Protocol == protocol && d.Address == at {
			return d, true
		}
	}
	return diagnose.Dialed{}, false
}

// collect what the API server knows. What is not there is a finding, not an error.
func collect(ctx context.Context, c kubernetes.Interface, o Options) (*facts, error) {
	f := &facts{Options: o, nodes: map[string]*corev1.Node{}, near: map[string]*view{}, events: map[string]string{}}
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range nodes.Items {
		f.nodes[nodes.Items[i].Name] = &nodes.Items[i]
	}
	pods, err := c.CoreV1().Pods(o.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range pods.Items {
		f.all = append(f.all, &pods.Items[i])
	}
	if o.Kind == "pod" {
		i := slices.IndexFunc(f.all, func(p *corev1.Pod) bool { return p.Name == o.Name })
		if i < 0 {
			return nil, apierrors.NewNotFound(corev1.Resource("pods"), o.Name)
		}
		f.pod = f.all[i]
		f.pods = f.all[i : i+1]
		f.podEndpoints()
	} else if err := f.collectService(ctx, c); err != nil {
		return nil, err
	}
	f.collectTroubles(ctx, c)
	f.collectPolicies(ctx, c)
	return f, f.collectViews(ctx, c)
}

func (f *facts) collectService(ctx context.Context, c kubernetes.Interface) error {
	svc, err := c.CoreV1().Services(f.Namespace).Get(ctx, f.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		f.collectSimilar(ctx, c)
		return nil
	}
	if err != nil {
		return err
	}
	f.service = svc
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		f.collectBalancer(ctx, c)
	}
	if len(svc.Spec.Selector) > 0 {
		match := labels.SelectorFromSet(svc.Spec.Selector)
		for _, p := range f.all {
			if match.Matches(labels.Set(p.Labels)) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
				f.pods = append(f.pods, p)
			}
		}
	}
	list, err := c.DiscoveryV1().EndpointSlices(f.Namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + f.Name})
	if err != nil {
		return err
	}
	for i := range list.Items {
		f.slices = append(f.slices, &list.Items[i])
	}
	f.serviceEndpoints()
	return nil
}

func (f *facts) collectSimilar(ctx context.Context, c kubernetes.Interface) {
	if list, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", f.Name).String()}); err == nil {
		for _, s := range list.Items {
			if s.Name == f.Name {
				f.others = append(f.others, s.Namespace)
			}
		}
	}
	if list, err := c.CoreV1().Services(f.Namespace).List(ctx, metav1.ListOptions{}); err == nil {
		for _, s := range list.Items {
			f.similar = append(f.similar, s.Name)
		}
	}
}

// maxExplained pods: what fails for one fails for the others, too.
const maxExplained = 3

// collectTroubles asks for the last warning of pods that are not ready.
func (f *facts) collectTroubles(ctx context.Context, c kubernetes.Interface) {
	for _, p := range f.pods {
		if isReady(p) || len(f.events) >= maxExplained {
			continue
		}
		f.events[p.Name] = ""
		list, err := c.CoreV1().Events(p.Namespace).List(ctx, metav1.ListOptions{
			FieldSelector: fields.Set{"involvedObject.uid": string(p.UID), "type": corev1.EventTypeWarning}.String(),
		})
		if err != nil || len(list.Items) == 0 {
			continue
		}
		last := slices.MaxFunc(list.Items, func(a, b corev1.Event) int { return eventTime(a).Compare(eventTime(b)) })
		f.events[p.Name] = last.Reason + ": " + last.Message
	}
}

// collectBalancer asks for what agents and the master have said of the Service's address.
func (f *facts) collectBalancer(ctx context.Context, c kubernetes.Interface) {
	list, err := c.CoreV1().Events(f.Namespace).List(ctx, metav1.ListOptions{FieldSelector: fields.Set{"involvedObject.kind": "Service", "involvedObject.name": f.Name}.String()})
	if err != nil {
		return // not everybody may read them
	}
	for _, e := range list.Items {
		if e.InvolvedObject.UID == f.service.UID {
			f.balancer = append(f.balancer, e)
		}
	}
	slices.SortStableFunc(f.balancer, func(a, b corev1.Event) int { return eventTime(a).Compare(eventTime(b)) })
}

func eventTime(e corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// collectViews decides from where things are tried.
func (f *facts) collectViews(ctx context.Context, c kubernetes.Interface) error {
	switch {
	case f.FromPod != "":
		ns := cmp.Or(f.FromPodNamespace, f.Namespace)
		pod, err := c.CoreV1().Pods(ns).Get(ctx, f.FromPod, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.Spec.NodeName == "" || pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("pod %s does not run: nothing can be tried from it", pod.Name)
		}
		f.views = []*view{{node: pod.Spec.NodeName, pod: pod}}
	case f.FromNode != "":
		if f.nodes[f.FromNode] == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), f.FromNode)
		}
		f.views = []*view{{node: f.FromNode}}
	default:
		for _, n := range f.nodes {
			if nodeReady(n) {
				f.views = append(f.views, &view{node: n.Name})
			}
		}
		slices.SortFunc(f.views, func(a, b *view) int { return cmp.Compare(a.node, b.node) })
	}
	for _, v := range f.views {
		v.ip = nodeIP(f.nodes[v.node])
	}
	return nil
}

// servicePorts are those that are traced.
func (f *facts) servicePorts() (out []corev1.ServicePort) {
	if f.service == nil {
		return nil
	}
	for _, p := range f.service.Spec.Ports {
		if f.Port == "" || f.Port == p.Name || f.Port == fmt.Sprint(p.Port) || p.NodePort > 0 && f.Port == fmt.Sprint(p.NodePort) {
			out = append(out, p)
		}
	}
	return out
}

func portName(p corev1.ServicePort) string { return cmp.Or(p.Name, fmt.Sprint(p.Port)) }

func protocolOf(p corev1.Protocol) string { return string(cmp.Or(p, corev1.ProtocolTCP)) }

// serviceEndpoints are read off the slices, as the nodes do.
func (f *facts) serviceEndpoints() {
	for _, port := range f.servicePorts() {
		for _, s := range f.slices {
			for _, sp := range s.Ports {
				name, proto := "", corev1.ProtocolTCP
				if sp.Name != nil {
					name = *sp.Name
				}
				if sp.Protocol != nil {
					proto = *sp.Protocol
				}
				if name != port.Name || string(proto) != protocolOf(port.Protocol) || sp.Port == nil || *sp.Port <= 0 || *sp.Port > 65535 {
					continue
				}
				for i := range s.Endpoints {
					f.addEndpoint(&s.Endpoints[i], uint16(*sp.Port), portName(port), string(proto))
				}
			}
		}
		f.letLastServe(portName(port))
	}
	slices.SortFunc(f.endpoints, func(a, b endpoint) int { return cmp.Or(cmp.Compare(a.port, b.port), a.at.Compare(b.at)) })
	f.endpoints = slices.CompactFunc(f.endpoints, func(a, b endpoint) bool { return a.at == b.at && a.port == b.port })
	if n := len(f.endpoints); n > maxEndpoints {
		f.endpoints, f.cut = f.endpoints[:maxEndpoints], n-maxEndpoints
	}
}

// letLastServe: while nothing else is ready, proxies send to endpoints that end and still serve.
func (f *facts) letLastServe(port string) {
	if slices.ContainsFunc(f.endpoints, func(e endpoint) bool { return e.port == port && e.ready }) {
		return
	}
	for i := range f.endpoints {
		if e := &f.endpoints[i]; e.port == port {
			e.ready = e.last
		}
	}
}

func (f *facts) addEndpoint(e *discoveryv1.Endpoint, port uint16, name, proto string) {
	if len(e.Addresses) == 0 {
		return
	}
	ip, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || !ip.Is4() {
		return
	}
	out := endpoint{at: netip.AddrPortFrom(ip, port), protocol: proto, port: name, ready: e.Conditions.Ready == nil || *e.Conditions.Ready}
	c := e.Conditions
	out.last = c.Terminating != nil && *c.Terminating && c.Serving != nil && *c.Serving
	out.name = out.at.String()
	if e.NodeName != nil {
		out.node = *e.NodeName
	}
	if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
		for _, p := range f.all {
			if p.Name == e.TargetRef.Name {
				out.pod, out.name = p, "pod "+p.Name
			}
		}
	}
	f.endpoints = append(f.endpoints, out)
}

// podEndpoints are the ports that the traced pod declares, or the one that was asked for.
func (f *facts) podEndpoints() {
	ip, err := netip.ParseAddr(f.pod.Status.PodIP)
	if err != nil || !ip.Is4() {
		return
	}
	add := func(n int32, proto string) {
		f.endpoints = append(f.endpoints, endpoint{
			at: netip.AddrPortFrom(ip, uint16(n)), protocol: proto, port: fmt.Sprint(n), pod: f.pod, name: "pod " + f.pod.Name,
			node: f.pod.Spec.NodeName, ready: isReady(f.pod),
		})
	}
	for _, c := range f.pod.Spec.Containers {
		for _, p := range c.Ports {
			if f.Port == "" || f.Port == p.Name || f.Port == fmt.Sprint(p.ContainerPort) {
				add(p.ContainerPort, protocolOf(p.Protocol))
			}
		}
	}
	if n, err := strconv.ParseUint(f.Port, 10, 16); err == nil && n > 0 && len(f.endpoints) == 0 {
		add(int32(n), "TCP")
	}
}

func (f *facts) readyEndpoints() (out []endpoint) {
	for _, e := range f.endpoints {
		if e.ready {
			out = append(out, e)
		}
	}
	return out
}

// readyAddresses are what the name of a headless Service stands for, whatever their ports, and all of them. Some of them may be on
// machines that are not ready, which DNS may leave out.
func (f *facts) readyAddresses() (all, sure []netip.Addr) {
	for _, s := range f.slices {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready && !f.service.Spec.PublishNotReadyAddresses {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !ip.Is4() {
				continue
			}
			all = append(all, ip)
			if e.NodeName == nil || nodeReady(f.nodes[*e.NodeName]) {
				sure = append(sure, ip)
			}
		}
	}
	return all, sure
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func nodeReady(n *corev1.Node) bool {
	return n != nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func nodeIP(n *corev1.Node) netip.Addr {
	if n == nil {
		return netip.Addr{}
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ip, _ := netip.ParseAddr(a.Address)
			return ip
		}
	}
	return netip.Addr{}
}
