package trace

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

// wayStep is about the ways from inside the cluster, or those for the outside.
type wayStep struct {
	Step
	tried  []string
	failed map[string][]string
	silent map[string]bool // over UDP: nobody refuses, and nobody says anything
}

func newWayStep(name string) *wayStep {
	return &wayStep{Step: Step{Name: name, State: doctor.OK}, failed: map[string][]string{}, silent: map[string]bool{}}
}

// judgeWays: do the Service's own addresses answer?
func (f *facts) judgeWays(r *Report) {
	inside, outside := newWayStep("address"), newWayStep("outside")
	for i, v := range f.views {
		for _, w := range f.ways(v, i) {
			d, ok := v.dialed(w.protocol, w.at)
			if !ok || d.Result == diagnose.NotAllowed || f.silentByRight(w) || w.kind == clusterAddress && f.nobodyHere(v) {
				continue
			}
			s, name := outside, fmt.Sprintf("%s %s", w.kind, w.at)
			switch w.kind {
			case clusterAddress:
				s, name = inside, w.at.String()
			case nodePort:
				name = fmt.Sprintf("node port %d", w.at.Port())
			}
			if w.protocol != "TCP" {
				name += "/" + w.protocol
			}
			s.tried = append(s.tried, name)
			s.silent[name] = s.silent[name] || d.Result == diagnose.Silent
			if d.OK() {
				continue
			}
			if w.other != "" {
				name += " of " + w.other
			}
			what := name + ": " + resultText(d)
			s.failed[what] = append(s.failed[what], v.String())
		}
	}
	fix := "the endpoints answer, the Service's address does not: look for rules of others that change or drop its packets: wpctl doctor"
	if f.service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		fix += " (with sessionAffinity a client stays with its endpoint)"
	}
	f.judgePolicy(r)
	inside.conclude(r, fix, causeAddress)
	f.judgeBalancer(&outside.Step)
	f.limits(&outside.Step)
	outside.conclude(r, "the cluster's own address works, this one does not: look for rules of others on the node that does not answer: wpctl doctor", causeOutside)
}

// judgeBalancer says who announces the address of a load balancer, or why there is none.
func (f *facts) judgeBalancer(s *Step) {
	if f.service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	last, warning := "", ""
	for _, e := range f.balancer {
		if e.Type == corev1.EventTypeWarning {
			warning = e.Reason + ": " + e.Message
		} else if e.Reason == "NodeAssigned" {
			last = e.Message
		}
	}
	if len(f.service.Status.LoadBalancer.Ingress) == 0 {
		s.State, s.What = doctor.Bad, "there is no EXTERNAL-IP yet"
		s.Fix = fmt.Sprintf("wpctl describe service %s -n %s says why (docs/NETWORK.md: a load balancer without a cloud)", f.Name, f.Namespace)
		last = warning
	}
	if last != "" {
		s.Details = append(s.Details, last)
	}
}

// nobodyHere: with internalTrafficPolicy Local, the ClusterIP leads to endpoints of the own node only.
func (f *facts) nobodyHere(v *view) bool {
	p := f.service.Spec.InternalTrafficPolicy
	ready := f.readyEndpoints()
	return p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal && len(ready) > 0 && f.cut == 0 && !f.headless() &&
		!slices.ContainsFunc(ready, func(e endpoint) bool { return e.node == v.node })
}

// judgePolicy tells who has asked not to be answered.
func (f *facts) judgePolicy(r *Report) {
	var alone []*view
	for _, v := range f.views {
		if f.nobodyHere(v) {
			alone = append(alone, v)
		}
	}
	if len(alone) == 0 {
		return
	}
	s := Step{Name: "policy", State: doctor.Warning, What: "internalTrafficPolicy is Local, and there is no endpoint on the node: no answer at " + strings.Join(nodesOf(alone), ", ")}
	if len(alone) == len(f.views) {
		s.State = doctor.Bad
	}
	s.Fix = fmt.Sprintf("if it is to be reached there, run a pod on each node (a DaemonSet), or: wpctl patch service %s -n %s -p '{\"spec\": {\"internalTrafficPolicy\": \"Cluster\"}}'", f.Name, f.Namespace)
	r.add(s, causePolicy)
}

// limits are what keeps visitors out by right, and cannot be tried from the nodes.
func (f *facts) limits(s *Step) {
	spec := &f.service.Spec
	if spec.Type == corev1.ServiceTypeLoadBalancer && len(spec.LoadBalancerSourceRanges) > 0 {
		s.Details = append(s.Details, "EXTERNAL-IP not tried: loadBalancerSourceRanges lets in only "+strings.Join(spec.LoadBalancerSourceRanges, ", "))
	}
	if spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || f.cut > 0 {
		return
	}
	on := map[string]bool{}
	for _, e := range f.readyEndpoints() {
		on[e.node] = true
	}
	if n := len(on); n > 0 && n < len(f.nodes) {
		s.Details = append(s.Details, "externalTrafficPolicy is Local: visitors get answers only at "+strings.Join(slices.Sorted(maps.Keys(on)), ", "))
	}
}

func (s *wayStep) conclude(r *Report, fix string, c cause) {
	slices.Sort(s.tried)
	s.tried = slices.Compact(s.tried)
	switch {
	case len(s.failed) > 0:
		s.State, s.What, s.Details, s.Fix = doctor.Bad, "does not answer everywhere", append(s.Details, byWhom(s.failed)...), fix
	case s.State == doctor.Bad:
	case len(s.tried) == 0 && len(s.Details) == 0:
		return
	case len(s.tried) == 0:
		s.State, s.What = doctor.Unknown, "nothing could be tried from here"
	default:
		s.State, s.What = s.answers()
	}
	s.Follows = s.State == doctor.Bad && r.cause != noCause
	r.add(s.Step, c)
}

func (s *wayStep) answers() (doctor.State, string) {
	var heard, unheard, parts []string
	for _, t := range s.tried {
		if s.silent[t] {
			unheard = append(unheard, t)
		} else {
			heard = append(heard, t)
		}
	}
	state := doctor.Unknown
	if len(heard) > 0 {
		state = doctor.OK
		parts = append(parts, strings.Join(heard, ", ")+" "+answerWord(len(heard)))
	}
	if len(unheard) > 0 {
		parts = append(parts, strings.Join(unheard, ", ")+": nobody refuses")
	}
	return state, strings.Join(parts, "; ")
}

// silentByRight: nobody has promised an answer there.
func (f *facts) silentByRight(w way) bool {
	if len(f.readyEndpoints()) == 0 && !f.answersItself() {
		return true // refused, and said already
	}
	switch {
	case w.kind == balancerIP && len(f.service.Spec.LoadBalancerSourceRanges) > 0:
		return true // nodes may not be in the ranges
	case w.other != "" && f.service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal:
		return !slices.ContainsFunc(f.readyEndpoints(), func(e endpoint) bool { return e.node == w.other })
	}
	return false
}
