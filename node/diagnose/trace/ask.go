package trace

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/whalepod/whalepod/node/diagnose"
)

const (
	// askAtOnce nodes at a time.
	askAtOnce = 8
	// askWithin is more than an agent takes.
	askWithin = diagnose.AnswerWithin + 5*time.Second
	// collectWithin is how long the API server may take for all that is asked of it.
	collectWithin = 20 * time.Second
	// again is when rules that are not those of the slices are looked at once more: a change may be on its way.
	again = time.Second
)

// Run traces, and says how every step went.
func Run(ctx context.Context, c kubernetes.Interface, ask Asker, o Options) (*Report, error) {
	f, err := collectInTime(ctx, c, o)
	if err != nil {
		return nil, err
	}
	if f.service == nil && f.pod == nil {
		return f.judge(), nil
	}
	f.askAll(ctx, ask)
	report := f.judge()
	if report.lagging {
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f, err = collectInTime(ctx, c, o); err != nil {
			return nil, err
		}
		f.askAll(ctx, ask)
		report = f.judge()
	}
	return report, ctx.Err()
}

func collectInTime(ctx context.Context, c kubernetes.Interface, o Options) (*facts, error) {
	ctx, cancel := context.WithTimeout(ctx, collectWithin)
	defer cancel()
	return collect(ctx, c, o)
}

// askAll asks every view, and the nodes of the endpoints.
func (f *facts) askAll(ctx context.Context, ask Asker) {
	type job struct {
		v *view
		q *diagnose.Question
	}
	var jobs []job
	for i, v := range f.views {
		jobs = append(jobs, job{v, f.question(v, i)})
	}
	for node, q := range f.nearQuestions() {
		v := &view{node: node}
		f.near[node] = v
		jobs = append(jobs, job{v, q})
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, askAtOnce)
	for _, j := range jobs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			within, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			j.v.answer, j.v.err = ask(within, j.v.node, j.q)
			if j.v.err == nil && j.v.answer == nil {
				j.v.err = errors.New("no answer")
			}
			if j.v.err != nil {
				j.v.answer = nil // an asker may have begun to read one
			}
		})
	}
	wg.Wait()
}

// question for a view, which is the nth.
func (f *facts) question(v *view, nth int) *diagnose.Question {
	q := &diagnose.Question{}
	if v.pod != nil {
		q.From = &diagnose.Pod{Namespace: v.pod.Namespace, Name: v.pod.Name, UID: string(v.pod.UID)}
	}
	for _, e := range f.readyEndpoints() {
		q.Dial = appendTarget(q.Dial, e.protocol, e.at)
		if !slices.Contains(q.Drops, e.at.Addr()) {
			q.Drops = append(q.Drops, e.at.Addr())
		}
		if !slices.Contains(q.Pings, e.at.Addr()) && e.pod != nil && !e.pod.Spec.HostNetwork {
			q.Pings = append(q.Pings, e.at.Addr())
		}
	}
	if f.service == nil {
		return q
	}
	q.Names = []string{f.typed(v)}
	if f.service.Spec.Type == corev1.ServiceTypeExternalName {
		return q
	}
	q.Service, q.Rules = f.Namespace+"/"+f.Name, !f.headless()
	for _, w := range f.ways(v, nth) {
		q.Dial = appendTarget(q.Dial, w.protocol, w.at)
	}
	return q
}

// appendTarget leaves out what cannot be dialed: SCTP has no sockets everywhere.
func appendTarget(list []diagnose.Target, protocol string, at netip.AddrPort) []diagnose.Target {
	t := diagnose.Target{Protocol: protocol, Address: at}
	if protocol != "TCP" && protocol != "UDP" || slices.Contains(list, t) || len(list) >= diagnose.MaxTargets {
		return list
	}
	return append(list, t)
}

// typed is the name as somebody would type it there.
func (f *facts) typed(v *view) string {
	if v.pod != nil && v.pod.Namespace == f.Namespace {
		return f.Name
	}
	return f.Name + "." + f.Namespace
}

// The kinds of addresses that a Service has.
const (
	clusterAddress = "ClusterIP"
	nodePort       = "node port"
	externalIP     = "externalIP"
	balancerIP     = "EXTERNAL-IP"
)

// way to the Service from a view.
type way struct {
	kind, port, protocol string
	at                   netip.AddrPort
	// other: the address is of another node, which decides by externalTrafficPolicy who is let in.
	other string
}

// ways are the addresses of the Service that a view tries: all that it has; of node ports its own node's and the next one's.
func (f *facts) ways(v *view, nth int) (out []way) {
	s := f.service
	for _, p := range f.servicePorts() {
		add := func(kind, text string, number int32, other string) {
			if ip, err := netip.ParseAddr(text); err == nil && ip.Is4() && number > 0 {
				out = append(out, way{kind, portName(p), protocolOf(p.Protocol), netip.AddrPortFrom(ip, uint16(number)), other})
			}
		}
		if !f.headless() {
			add(clusterAddress, s.Spec.ClusterIP, p.Port, "")
		}
		for _, ip := range s.Spec.ExternalIPs {
			add(externalIP, ip, p.Port, "")
		}
		for _, in := range s.Status.LoadBalancer.Ingress {
			if len(s.Spec.LoadBalancerSourceRanges) > 0 {
				continue // nodes may not be in the ranges; see limits
			}
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				add(balancerIP, in.IP, p.Port, "")
			}
		}
		if p.NodePort == 0 {
			continue
		}
		if v.ip.IsValid() {
			add(nodePort, v.ip.String(), p.NodePort, "")
		}
		if len(f.views) > 1 {
			next := f.views[(nth+1)%len(f.views)]
			if next.ip.IsValid() {
				add(nodePort, next.ip.String(), p.NodePort, next.node)
			}
		}
	}
	return out
}

func (f *facts) headless() bool {
	return f.service != nil && (f.service.Spec.ClusterIP == corev1.ClusterIPNone || f.service.Spec.ClusterIP == "")
}

// nearQuestions ask the nodes of the endpoints about their own: sockets, a connection without a way, and rules of others.
func (f *facts) nearQuestions() map[string]*diagnose.Question {
	out := map[string]*diagnose.Question{}
	for _, e := range f.readyEndpoints() {
		if e.pod == nil || e.node == "" {
			continue
		}
		q := out[e.node]
		if q == nil {
			q = &diagnose.Question{}
			if f.service != nil {
				q.Service = f.Namespace + "/" + f.Name
			}
			out[e.node] = q
		}
		q.Dial = appendTarget(q.Dial, e.protocol, e.at)
		if p := podOf(e.pod); !slices.Contains(q.Sockets, p) {
			q.Sockets = append(q.Sockets, p)
			q.Drops = append(q.Drops, e.at.Addr())
		}
	}
	return out
}

func podOf(p *corev1.Pod) diagnose.Pod {
	return diagnose.Pod{Namespace: p.Namespace, Name: p.Name, UID: string(p.UID)}
}

// nodesOf some views, for people.
func nodesOf(list []*view) []string {
	set := map[string]bool{}
	for _, v := range list {
		set[v.String()] = true
	}
	return slices.SortedFunc(maps.Keys(set), cmp.Compare)
}
