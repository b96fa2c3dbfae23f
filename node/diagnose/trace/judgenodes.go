package trace

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

// judgeViews says from where nothing could be tried.
func (f *facts) judgeViews(r *Report) {
	s := Step{Name: "nodes", State: doctor.OK}
	asked := map[string]bool{}
	for _, v := range slices.Concat(f.views, slices.SortedFunc(maps.Values(f.near), func(a, b *view) int { return strings.Compare(a.node, b.node) })) {
		if v.err != nil && !asked[v.node] {
			asked[v.node] = true
			s.State = doctor.Bad
			s.Details = append(s.Details, v.node+": "+v.err.Error())
			s.Fix = fmt.Sprintf("see whether wp-agent runs on %s and reaches the master (journalctl -u wp-agent): wpctl doctor --node %[1]s, or there: wpctl doctor --local", v.node)
			if apierrors.IsForbidden(v.err) {
				s.State, s.Fix = doctor.Bad, "trace asks the nodes' agents: your user needs the right to create nodes/proxy"
			}
			if strings.Contains(v.err.Error(), "404 page not found") { // the words of an agent's own handler for a path that it does not know
				s.State = doctor.Unknown
				s.Fix = "update wp-agent on " + v.node
			}
		}
	}
	var down []string
	for _, name := range slices.Sorted(maps.Keys(f.nodes)) {
		if !nodeReady(f.nodes[name]) {
			down = append(down, name)
		}
	}
	if len(down) > 0 && f.FromNode == "" && f.FromPod == "" {
		s.Details = append(s.Details, "not ready, and not tried: "+strings.Join(down, ", "))
		if s.State == doctor.OK {
			s.State = doctor.Warning
		}
	}
	if len(f.views) == 0 {
		s.State, s.What, s.Fix = doctor.Bad, "no node is ready", "wpctl get nodes; wpctl doctor"
	}
	if s.State == doctor.OK {
		return // that nodes answer is nothing to tell of
	}
	if s.What == "" {
		s.What = "not all nodes could be asked"
	}
	r.add(s, causeAgent)
}

// judgeNames compares what DNS answers with the Service.
func (f *facts) judgeNames() (s Step, lagging bool) {
	s = Step{Name: "name", State: doctor.OK}
	var want, sure []netip.Addr
	switch {
	case f.service.Spec.Type == corev1.ServiceTypeExternalName:
	case f.headless():
		want, sure = f.readyAddresses()
	default:
		ip, _ := netip.ParseAddr(f.service.Spec.ClusterIP)
		want = append(want, ip)
		sure = want
	}
	said, full := map[string][]string{}, ""
	for _, v := range f.views {
		if v.answer == nil {
			continue
		}
		if why := v.answer.Errors["names"]; why != "" {
			said[why] = append(said[why], v.String())
			s.Fix = "wpctl doctor --node " + v.node
			continue
		}
		for _, n := range v.answer.Names {
			wrong, fix := f.nameTrouble(v, n, want, sure)
			if wrong == "" {
				full = n.Full
				continue
			}
			said[wrong] = append(said[wrong], v.String())
			s.Fix, lagging = fix, lagging || n.RCode != ""
		}
	}
	s.What = fmt.Sprintf("%s → %s", strings.TrimSuffix(full, "."), addrsText(want))
	if f.service.Spec.Type == corev1.ServiceTypeExternalName {
		s.What = fmt.Sprintf("%s → %s", strings.TrimSuffix(full, "."), f.service.Spec.ExternalName)
	}
	if len(said) > 0 {
		s.State, s.What = doctor.Bad, "the cluster's DNS does not answer as it should"
		s.Details = byWhom(said)
	} else if full == "" {
		s.State, s.What = doctor.Unknown, "could not be asked"
	}
	return s, lagging
}

// nameTrouble says what is wrong with an answer; empty when nothing is.
func (f *facts) nameTrouble(v *view, n diagnose.Name, want, sure []netip.Addr) (wrong, fix string) {
	doc := "wpctl doctor --node " + v.node
	switch {
	case n.RCode == "":
		return fmt.Sprintf("%s does not answer: %s", cmp.Or(n.Server, "nobody is asked, or the server"), n.Error), cmp.Or(f.stoppedDNS(v, n.Server), doc)
	case f.service.Spec.Type == corev1.ServiceTypeExternalName && sameName(n.CNAME, f.service.Spec.ExternalName):
		if n.RCode == "NOERROR" && len(n.Addresses) > 0 {
			return "", ""
		}
		return fmt.Sprintf("it leads to %s, and that has no IPv4 address: %s answers %s", f.service.Spec.ExternalName, n.Server, n.RCode),
			fmt.Sprintf("see whether spec.externalName is right, and whether %s reaches name servers for names outside the cluster: %s", v.node, doc)
	case f.service.Spec.Type != corev1.ServiceTypeExternalName && f.headless() && len(want) == 0 && len(n.Addresses) == 0 && (n.RCode == "NXDOMAIN" || n.RCode == "NOERROR"):
		return "", "" // there is nobody to name
	case n.RCode == "NXDOMAIN" && v.pod != nil && v.pod.Spec.DNSPolicy != corev1.DNSClusterFirst && v.pod.Spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet:
		return fmt.Sprintf("%s knows no %s: the pod does not ask the cluster's DNS (dnsPolicy: %s)", n.Server, n.Asked, v.pod.Spec.DNSPolicy),
			fmt.Sprintf("set dnsPolicy: ClusterFirst in pod %s (ClusterFirstWithHostNet with hostNetwork)", v.pod.Name)
	case n.RCode == "NXDOMAIN" && v.pod != nil && v.pod.Spec.HostNetwork && v.pod.Spec.DNSPolicy == corev1.DNSClusterFirst:
		return fmt.Sprintf("%s knows no %s: with hostNetwork, dnsPolicy ClusterFirst asks the node's servers", n.Server, n.Asked),
			fmt.Sprintf("set dnsPolicy: ClusterFirstWithHostNet in pod %s", v.pod.Name)
	case f.service.Spec.Type == corev1.ServiceTypeExternalName && n.RCode == "SERVFAIL":
		return fmt.Sprintf("%s cannot follow it to %s: no name server for names outside the cluster helps (%s)", n.Server, f.service.Spec.ExternalName, n.RCode), doc + " looks at the name servers"
	case n.RCode != "NOERROR":
		return fmt.Sprintf("%s answers %s for %s", n.Server, n.RCode, n.Full), "the node may not have heard of the Service: see whether its agent has a session (wpctl get nodes), then " + doc
	case f.service.Spec.Type == corev1.ServiceTypeExternalName:
		return fmt.Sprintf("%s answers %q for %s", n.Server, n.CNAME, n.Full), doc
	}
	lacks := func(list []netip.Addr) func(netip.Addr) bool {
		return func(a netip.Addr) bool { return !slices.Contains(list, a) }
	}
	if slices.ContainsFunc(n.Addresses, lacks(want)) || slices.ContainsFunc(sure, lacks(n.Addresses)) {
		return fmt.Sprintf("%s answers %s for %s, not %s", n.Server, addrsText(n.Addresses), n.Full, addrsText(want)), "if it stays so: the node does not hear of changes; see whether its agent has a session, then " + doc
	}
	return "", ""
}

func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

func addrsText(list []netip.Addr) string {
	if len(list) == 0 {
		return "no address"
	}
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	var out []string
	for i, a := range list {
		if i == 5 {
			out = append(out, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// byWhom lists what was said with those who said it.
func byWhom(said map[string][]string) (out []string) {
	for _, text := range slices.Sorted(maps.Keys(said)) {
		who := said[text]
		slices.Sort(who)
		out = append(out, strings.Join(slices.Compact(who), ", ")+": "+text)
	}
	return out
}

// judgeRules compares the rules in every node's kernel with what the node wants, and that with the slices.
func (f *facts) judgeRules() (s Step, lagging bool) {
	s = Step{Name: "rules", State: doctor.OK}
	if f.otherProxy() {
		s.State, s.What = doctor.Unknown, "left to another proxy by the label "+otherProxyLabel
		return s, false
	}
	said := map[string][]string{}
	asked := 0
	for _, v := range f.views {
		if v.answer == nil {
			continue
		}
		asked++
		if why := v.answer.Errors["rules"]; why != "" {
			said[why] = append(said[why], v.node)
			s.Fix = "wpctl doctor --node " + v.node
			continue
		}
		for _, t := range f.rulesTrouble(v.node, v.answer.Rules) {
			said[t.what] = append(said[t.what], v.node)
			s.Fix = t.fix
			lagging = lagging || t.late
		}
	}
	if asked == 0 {
		s.State, s.What = doctor.Unknown, "could not be read"
		return s, false
	}
	to := leadTo(len(f.readyEndpoints()) + f.cut)
	if f.answersItself() {
		to = "left to the node itself"
	}
	s.What = fmt.Sprintf("%s on %d %s: %s", f.service.Spec.ClusterIP, asked, plural("node", asked), to)
	if len(said) > 0 {
		s.State, s.What = doctor.Bad, "not what they should be"
		s.Details = byWhom(said)
	}
	return s, lagging
}

func leadTo(n int) string {
	if n == 0 {
		return "refused, as there is no endpoint"
	}
	return fmt.Sprintf("to %d %s", n, plural("endpoint", n))
}

type ruleTrouble struct {
	what, fix string
	late      bool
}

// repair is how an agent puts right what others did to its rules.
func repair(node string) string {
	return fmt.Sprintf("somebody flushed or changed them (a firewall that was restarted?): wp-agent puts them right within a minute, or at once with: systemctl restart wp-agent on %s", node)
}

func (f *facts) rulesTrouble(node string, r *diagnose.Rules) (out []ruleTrouble) {
	session := "the node does not hear of changes: see whether its agent has a session (wpctl get nodes), then wpctl doctor --node " + node
	switch {
	case r == nil:
		return []ruleTrouble{{"nothing is known of them", "wpctl doctor --node " + node, false}}
	case !r.Known:
		return []ruleTrouble{{"the node has not heard of the Service", session, true}}
	case !r.Applied:
		return []ruleTrouble{{"the agent has not written any rules yet", "journalctl -u wp-agent on " + node + " says why", true}}
	}
	for _, w := range r.Ways {
		if f.Port != "" && !slices.ContainsFunc(f.servicePorts(), func(p corev1.ServicePort) bool { return portName(p) == w.Port }) {
			continue
		}
		at := w.Address.String()
		if w.Address.Addr().IsUnspecified() {
			at = fmt.Sprintf("node port %d", w.Address.Port())
		}
		switch {
		case w.Have.Action != w.Want.Action && w.Want.Action == diagnose.ToEndpoints:
			text := "no rule leads " + at + "/" + w.Protocol + " to an endpoint"
			if w.Have.Missing != "" {
				text += ": " + w.Have.Missing
			}
			out = append(out, ruleTrouble{text, repair(node), true})
		case w.Want.Action == diagnose.ToEndpoints && !slices.Equal(w.Have.Endpoints, w.Want.Endpoints):
			out = append(out, ruleTrouble{at + "/" + w.Protocol + " leads to " + difference(w.Have.Endpoints, w.Want.Endpoints), repair(node), true})
		case w.Want.Action != diagnose.ToEndpoints && w.Have.Action == diagnose.ToEndpoints:
			out = append(out, ruleTrouble{at + "/" + w.Protocol + " leads to endpoints that are gone: " + difference(w.Have.Endpoints, nil), repair(node), true})
		case f.late(w):
			out = append(out, ruleTrouble{"the node knows other endpoints of " + at + "/" + w.Protocol + " than the API server: " + difference(w.Want.Endpoints, f.wanted(w)), session, true})
		}
	}
	return out
}

// wanted are the endpoints that the slices have for a way.
func (f *facts) wanted(w diagnose.Way) (out []netip.AddrPort) {
	for _, e := range f.readyEndpoints() {
		if e.port == w.Port && e.protocol == w.Protocol {
			out = append(out, e.at)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// late tells whether a node wants endpoints that the slices do not have, or lacks some without a reason.
func (f *facts) late(w diagnose.Way) bool {
	want := f.wanted(w)
	if f.cut > 0 || len(want) == 0 {
		return false // terminating endpoints may serve while nothing else is ready
	}
	for _, e := range w.Want.Endpoints {
		if !slices.Contains(want, e) {
			return true
		}
	}
	if f.picky() {
		return false
	}
	for _, e := range f.readyEndpoints() {
		// Endpoints on a machine that is dead are left out before the API server knows.
		if e.port == w.Port && e.protocol == w.Protocol && !slices.Contains(w.Want.Endpoints, e.at) && (e.node == "" || nodeReady(f.nodes[e.node])) {
			return true
		}
	}
	return false
}

// picky Services give each node endpoints of its own choice.
func (f *facts) picky() bool {
	p := f.service.Spec.InternalTrafficPolicy
	local := p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal || f.service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if local || f.service.Spec.TrafficDistribution != nil {
		return true
	}
	for _, s := range f.slices {
		for i := range s.Endpoints {
			if s.Endpoints[i].Hints != nil {
				return true
			}
		}
	}
	return false
}

// difference of what is there from what should be.
func difference(have, want []netip.AddrPort) string {
	var parts []string
	for _, e := range want {
		if !slices.Contains(have, e) {
			parts = append(parts, e.String()+" is missing")
		}
	}
	for _, e := range have {
		if !slices.Contains(want, e) {
			parts = append(parts, e.String()+" is too many")
		}
	}
	const most = 4
	if len(parts) > most {
		parts = append(parts[:most], fmt.Sprintf("and %d more", len(parts)-most))
	}
	return strings.Join(parts, ", ")
}
