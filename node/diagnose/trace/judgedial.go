package trace

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

// judgeEndpoints: does somebody listen, and can they be reached?
func (f *facts) judgeEndpoints(r *Report) {
	ready := f.readyEndpoints()
	if len(ready) == 0 {
		if f.pod != nil && len(f.endpoints) == 0 {
			s := Step{Name: "container", State: doctor.Unknown, What: "the pod declares no ports: name one with --port"}
			if f.Port != "" {
				s.State, s.What = doctor.Bad, "the pod has no port called "+f.Port
				s.Fix = "use a number, or one of its names: " + cmp.Or(strings.Join(declaredPorts(f.pod), ", "), "it has none")
			}
			r.add(s, causeContainer)
		}
		return
	}
	deaf := map[string]bool{} // endpoints at which nobody listens
	f.judgeContainers(r, ready, deaf)
	f.judgeReach(r, ready, deaf)
	f.judgeSizes(r, ready)
}

func key(e endpoint) string { return e.protocol + e.at.String() }

// judgeContainers: on the endpoint's node, do the pod's processes listen where the endpoint says?
func (f *facts) judgeContainers(r *Report, ready []endpoint, deaf map[string]bool) {
	s := Step{Name: "container", State: doctor.OK}
	c := causeContainer
	known := 0
	var hang []string
	for _, e := range ready {
		sockets, ok := f.socketsOf(e)
		if !ok {
			continue
		}
		known++
		if n := waiting(e, sockets); n > 0 && !slices.Contains(hang, e.name) {
			hang = append(hang, e.name)
			s.Details = append(s.Details, fmt.Sprintf("%s has not taken %d %s to %d/%s: the program hangs, is paused, or has too much to do", e.name, n, plural("connection", n), e.at.Port(), e.protocol))
			s.State, s.Fix = doctor.Warning, fmt.Sprintf("see what it does: wpctl logs %s -n %s; wpctl top pod %[1]s -n %[2]s; or docker ps on %[3]s, which shows who is paused", podName(e), e.pod.Namespace, e.node)
			continue
		}
		wrong, fix, isTarget := f.listenTrouble(e, sockets)
		if wrong == "" || f.answered(e) { // rules in the pod's own network may lead to another port: sidecars do that
			continue
		}
		deaf[key(e)] = true
		s.Details = append(s.Details, wrong)
		if s.State != doctor.Bad {
			s.State, s.Fix = doctor.Bad, fix
			if isTarget {
				s.Name, c = "targetPort", causeTargetPort
			}
		}
	}
	switch {
	case s.State == doctor.Bad:
		s.What = fmt.Sprintf("nobody listens at %d of %d endpoints", len(deaf), known)
		if len(s.Details) > maxExplained {
			s.Details = append(s.Details[:maxExplained], fmt.Sprintf("and %d more", len(s.Details)-maxExplained))
		}
	case known == 0:
		s.State, s.What = doctor.Unknown, "where the endpoints listen cannot be seen"
		if ready[0].pod == nil {
			s.What = "the endpoints are not pods: where they listen cannot be seen"
		}
	case len(hang) > 0:
		s.What = fmt.Sprintf("listens on %s, and connections wait", strings.Join(f.portsOf(ready), ", "))
	default:
		s.What = fmt.Sprintf("listens on %s", strings.Join(f.portsOf(ready), ", "))
	}
	r.add(s, c)
}

// waiting are the connections that the program behind an endpoint has not taken.
func waiting(e endpoint, sockets []diagnose.Socket) (n int) {
	for _, s := range sockets {
		if s.Covers(e.protocol, e.at) {
			n += s.Waiting
		}
	}
	return n
}

// answered tells whether somebody has connected to an endpoint.
func (f *facts) answered(e endpoint) bool {
	for _, v := range append([]*view{f.near[e.node]}, f.views...) {
		if d, ok := v.dialed(e.protocol, e.at); ok && d.Result == diagnose.Answered {
			return true
		}
	}
	return false
}

func (f *facts) portsOf(list []endpoint) (out []string) {
	for _, e := range list {
		out = append(out, fmt.Sprintf("%d/%s", e.at.Port(), e.protocol))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (f *facts) socketsOf(e endpoint) ([]diagnose.Socket, bool) {
	v := f.near[e.node]
	if e.pod == nil || v == nil || v.answer == nil || e.protocol == "SCTP" {
		return nil, false
	}
	for _, p := range v.answer.Sockets {
		if p.Name == e.pod.Name && p.Namespace == e.pod.Namespace {
			return p.Listening, p.Error == ""
		}
	}
	return nil, false
}

// listenTrouble says what is wrong with where a pod listens. isTarget: the Service's targetPort is more likely to be the mistake
// than the program.
func (f *facts) listenTrouble(e endpoint, sockets []diagnose.Socket) (wrong, fix string, isTarget bool) {
	var elsewhere, loopback []string
	var only uint16
	other := "" // the protocol by which somebody listens at this port
	for _, s := range sockets {
		at := s.Address.Addr().Unmap()
		switch {
		case s.Covers(e.protocol, e.at):
			return "", "", false
		case s.Protocol != e.protocol && s.Covers(s.Protocol, e.at):
			other = s.Protocol
		case s.Protocol != e.protocol:
		case s.Address.Port() == e.at.Port():
			loopback = append(loopback, s.Address.String())
		case !at.IsLoopback():
			only = s.Address.Port()
			elsewhere = append(elsewhere, fmt.Sprintf("%d/%s", only, s.Protocol))
		}
	}
	slices.Sort(elsewhere)
	elsewhere = slices.Compact(elsewhere)
	who := e.name
	if len(loopback) > 0 {
		return fmt.Sprintf("%s listens on %s only: nobody else reaches that", who, strings.Join(loopback, ", ")),
			fmt.Sprintf("let the program in %s listen on 0.0.0.0:%d (its option is often called bind, host or listen)", who, e.at.Port()), false
	}
	if other != "" {
		wrong, fix = fmt.Sprintf("%s: no process listens on %d/%s, but on %[2]d/%[4]s", who, e.at.Port(), e.protocol, other), fmt.Sprintf("try %d/%s", e.at.Port(), other)
		if f.service != nil {
			fix = fmt.Sprintf("set protocol: %s in port %s of Service %s (without it, TCP is meant)", other, e.port, f.Name)
		}
		return wrong, fix, f.service != nil
	}
	if len(elsewhere) == 0 {
		return fmt.Sprintf("%s: no process listens on %d/%s, nor on any other %[3]s port", who, e.at.Port(), e.protocol),
			fmt.Sprintf("see why the program does not listen: wpctl logs %s -n %s", podName(e), f.Namespace), false
	}
	wrong = fmt.Sprintf("%s: no process listens on %d/%s, but on %s", who, e.at.Port(), e.protocol, strings.Join(elsewhere, ", "))
	if f.service == nil || len(elsewhere) > 1 {
		return wrong, fmt.Sprintf("use a port that it listens on, or let the program listen on %d", e.at.Port()), f.service != nil
	}
	return wrong, fmt.Sprintf("set targetPort: %d in port %s of Service %s, or let the program listen on %d", only, e.port, f.Name, e.at.Port()), true
}

func podName(e endpoint) string {
	if e.pod == nil {
		return e.name
	}
	return e.pod.Name
}

// judgeReach: who cannot connect to an endpoint directly?
func (f *facts) judgeReach(r *Report, ready []endpoint, deaf map[string]bool) {
	s := Step{Name: "connection", State: doctor.OK}
	tried, answered, failed := 0, 0, map[string][]string{}
	silent := map[string]bool{} // ports of UDP at which nobody refuses, and nobody says anything
	var slowest float64
	var fixes []string
	follows := 0
	for _, e := range ready {
		for _, v := range f.views {
			d, ok := v.dialed(e.protocol, e.at)
			if !ok || d.Result == diagnose.NotAllowed {
				continue
			}
			tried++
			if stopped := f.stopped(v, e, d) != ""; d.Result == diagnose.Silent && !stopped {
				silent[fmt.Sprintf("%d/%s", e.at.Port(), e.protocol)] = true
				continue
			} else if d.OK() && !stopped {
				answered++
				slowest = max(slowest, d.Millis)
				continue
			}
			if deaf[key(e)] {
				failed[e.at.String()+" refuses, as nobody listens"] = append(failed[e.at.String()+" refuses, as nobody listens"], v.String())
				follows++
				continue
			}
			what, fix := f.reachTrouble(v, e, d)
			failed[what] = append(failed[what], v.String())
			if !slices.Contains(fixes, fix) {
				fixes = append(fixes, fix)
			}
		}
	}
	s.Fix = strings.Join(fixes[:min(len(fixes), 2)], "; and ")
	switch {
	case tried == 0:
		s.State, s.What = doctor.Unknown, "no endpoint could be tried"
	case len(failed) > 0:
		s.State, s.What, s.Details = doctor.Bad, "not all endpoints answer", byWhom(failed)
		if len(ready) == 1 {
			s.What = "the endpoint does not answer"
		}
		s.Follows = follows > 0 && s.Fix == ""
	case answered == 0:
		s.State, s.What = doctor.Unknown, nobodyRefuses(silent)
	case len(silent) > 0:
		s.What = fmt.Sprintf("endpoints answer directly, the slowest after %.1f ms; %s", slowest, nobodyRefuses(silent))
	default:
		s.What = fmt.Sprintf("%s %s directly, the slowest after %.1f ms", endpointsWord(len(ready)), answerWord(len(ready)), slowest)
	}
	r.add(s, causeEndpoint)
}

// nobodyRefuses is all that can be told of a server that speaks UDP and does not answer an empty packet.
func nobodyRefuses(at map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(at)), ", ") + ": nobody refuses; that packets arrive cannot be told (UDP)"
}

// judgeSizes: who can connect may still wait for ever for a large answer. When all is well there is nothing to tell.
func (f *facts) judgeSizes(r *Report, ready []endpoint) {
	s := Step{Name: "size", State: doctor.OK, What: "large packets do not arrive, small ones do: what is larger than a packet hangs"}
	lost := map[string][]string{}
	for _, e := range ready {
		for _, v := range f.views {
			if v.answer == nil {
				continue
			}
			for _, p := range v.answer.Pings {
				if p.Address == e.at.Addr() && p.Small && !p.Full {
					text := fmt.Sprintf("%d bytes to %s on %s", p.Size, podName(e), cmp.Or(e.node, "no node"))
					lost[text] = append(lost[text], v.String())
					s.State = doctor.Bad
					s.Fix = fmt.Sprintf("the link between the nodes carries less than it says: wpctl doctor --node %s finds out how much, and which --mtu to give to wp-agent", v.node)
				}
			}
		}
	}
	if s.State == doctor.Bad {
		s.Details = byWhom(lost)
		r.add(s, causeSize)
	}
}

func endpointsWord(n int) string {
	if n == 1 {
		return "the endpoint"
	}
	return fmt.Sprintf("all %d endpoints", n)
}

func answerWord(n int) string {
	if n == 1 {
		return "answers"
	}
	return "answer"
}

// reachTrouble: somebody listens, and a view cannot connect. Who is in the way?
func (f *facts) reachTrouble(v *view, e endpoint, d diagnose.Dialed) (what, fix string) {
	what = fmt.Sprintf("%s (%s on %s): %s", e.at, podName(e), cmp.Or(e.node, "no node"), resultText(d))
	if why := f.stopped(v, e, d); why != "" {
		return what, why
	}
	near, tried := f.near[e.node].dialed(e.protocol, e.at)
	if f.near[e.node] == nil || !tried {
		return what, fmt.Sprintf("see whether %s can be reached from %s at all", e.at.Addr(), v.node)
	}
	if sockets, ok := f.socketsOf(e); ok && waiting(e, sockets) > 0 && !near.OK() {
		return what, fmt.Sprintf("the program in %s does not take its connections, and no more can wait: it hangs, is paused, or has too much to do: wpctl logs %s -n %s", e.name, podName(e), f.Namespace)
	}
	if fix := f.dropped(v, e); fix != "" {
		return what, fix
	}
	if v.pod == nil && v.node == e.node || !near.OK() {
		return what, fmt.Sprintf("its own node cannot reach it either, though it listens: look for rules of others there: wpctl doctor --node %s", e.node)
	}
	if v.node == e.node {
		return what, fmt.Sprintf("the node itself reaches it, pods on it do not: look for rules of others: wpctl doctor --node %s", e.node)
	}
	through := ""
	if d.Via == tunnel {
		through = " (through the tunnel: 8472/udp must be open between them)"
	}
	return what, fmt.Sprintf("%s itself reaches it, so the way from %s to %[1]s is broken%[3]s: wpctl doctor --node %[2]s, and look for rules that drop forwarded packets on both", e.node, v.node, through)
}

// dropped names the rule of somebody else, on the endpoint's node or on the one that asks, that drops what a view sends to an endpoint.
func (f *facts) dropped(v *view, e endpoint) string {
	p := doctor.Packet{Protocol: strings.ToLower(e.protocol), Port: int(e.at.Port()), From: v.ip, To: e.at.Addr()}
	if v.pod != nil && !v.pod.Spec.HostNetwork {
		p.From, _ = netip.ParseAddr(v.pod.Status.PodIP)
	}
	for _, there := range []*view{f.near[e.node], v} {
		if there == nil || there.answer == nil {
			continue
		}
		// What a node sends itself passes its OUTPUT, and nothing else does; what is forwarded passes FORWARD.
		own := there == v && (v.pod == nil || v.pod.Spec.HostNetwork)
		for _, rule := range there.answer.Drops {
			program, words, ok := strings.Cut(rule, " -A ") // agents of before say no program
			if !ok {
				program, words = "iptables", strings.TrimPrefix(rule, "-A ")
			}
			chain, _, _ := strings.Cut(words, " ")
			if !doctor.Drops(rule, p) || chain == "OUTPUT" && !own || chain == "FORWARD" && own {
				continue
			}
			return fmt.Sprintf("a rule on %s drops it: %s -A %s; if nobody needs it, remove it there: %[2]s -D %[3]s", there.node, program, words)
		}
	}
	return ""
}

func resultText(d diagnose.Dialed) string {
	switch d.Result {
	case diagnose.TimedOut, diagnose.Silent:
		return "no answer"
	case diagnose.Refused:
		return "refused"
	case diagnose.Unreachable:
		return "unreachable"
	case diagnose.Forbidden:
		return "the node's own rules do not let it out"
	}
	return cmp.Or(d.Error, d.Result)
}
