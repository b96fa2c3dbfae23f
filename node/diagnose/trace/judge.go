package trace

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/diagnose/doctor"
	"github.com/whalepod/whalepod/node/diagnose/why"
)

// judge is pure: facts in, report out.
func (f *facts) judge() *Report {
	r := &Report{Target: f.Kind + " " + f.Namespace + "/" + f.Name, From: nodesOf(f.views)}
	switch {
	case f.Kind == "pod":
		r.add(f.judgePods())
		f.judgeViews(r)
	case f.service == nil:
		r.add(f.judgeService())
	case f.service.Spec.Type == corev1.ServiceTypeExternalName:
		r.add(f.judgeService())
		f.judgeViews(r)
		f.addNames(r)
		return r
	default:
		r.add(f.judgeService())
		if len(f.servicePorts()) == 0 {
			if r.Broken == "" {
				f.judgeOnlyName(r)
			}
			return r
		}
		if len(f.service.Spec.Selector) > 0 {
			r.add(f.judgeSelector())
			if len(f.pods) > 0 {
				r.add(f.judgePods())
			}
			if s, c := f.judgeTargetPort(); s.What != "" {
				r.add(s, c)
			}
		}
		s, lagging := f.judgeSlices()
		s.Follows = s.State == doctor.Bad && r.cause != noCause
		r.lagging = lagging
		r.add(s, causeSlices)
		f.judgeViews(r)
		f.addNames(r)
		if !f.headless() {
			s, lagging := f.judgeRules()
			r.add(s, causeRules)
			r.lagging = r.lagging || lagging
		}
	}
	f.judgeEndpoints(r)
	if f.service != nil {
		f.judgeWays(r)
	}
	return r
}

func (f *facts) addNames(r *Report) {
	s, lagging := f.judgeNames()
	r.lagging = r.lagging || lagging
	r.add(s, causeNames)
}

// judgeOnlyName of a headless Service without ports, as those of StatefulSets often are.
func (f *facts) judgeOnlyName(r *Report) {
	if len(f.service.Spec.Selector) > 0 {
		r.add(f.judgeSelector())
		if len(f.pods) > 0 {
			r.add(f.judgePods())
		}
	}
	f.judgeViews(r)
	f.addNames(r)
}

func (f *facts) judgeService() (Step, cause) {
	s := Step{Name: "Service", State: doctor.OK}
	if f.service == nil {
		s.State, s.What = doctor.Bad, fmt.Sprintf("there is none called %q in namespace %s", f.Name, f.Namespace)
		s.Fix = "wpctl get services -A lists all there are"
		if near := nearest(f.Name, f.similar); near != "" {
			s.Fix = fmt.Sprintf("did you mean %s? wpctl trace svc/%s -n %s", near, near, f.Namespace)
		}
		if len(f.others) > 0 {
			s.Details = []string{"there is one in namespace " + strings.Join(f.others, ", ")}
			s.Fix = fmt.Sprintf("from another namespace its name is %s.%s; to trace that one: wpctl trace svc/%[1]s -n %[2]s", f.Name, f.others[0])
		}
		return s, causeService
	}
	svc := f.service
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		s.What = "ExternalName, another name for " + svc.Spec.ExternalName
		return s, causeService
	}
	var ports []string
	for _, p := range svc.Spec.Ports {
		text := fmt.Sprintf("%d/%s → %s", p.Port, protocolOf(p.Protocol), p.TargetPort.String())
		if p.NodePort > 0 {
			text += fmt.Sprintf(", node port %d", p.NodePort)
		}
		if p.Name != "" {
			text = p.Name + " " + text
		}
		ports = append(ports, text)
	}
	kind := string(cmp.Or(svc.Spec.Type, corev1.ServiceTypeClusterIP)) + " " + svc.Spec.ClusterIP
	if f.headless() {
		kind = "headless"
	}
	s.What = kind + ": " + strings.Join(ports, "; ")
	if len(f.servicePorts()) == 0 {
		s.State = doctor.Bad
		s.Fix = fmt.Sprintf("the Service has no port %s: use one of those, or add it to spec.ports", f.Port)
		if f.Port == "" && f.headless() {
			s.State, s.Fix = doctor.OK, ""
			s.What = "headless, without ports: only its name can be tried"
		}
	}
	return s, causeService
}

func selectorText(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

func (f *facts) judgeSelector() (Step, cause) {
	sel := f.service.Spec.Selector
	s := Step{Name: "selector", State: doctor.OK, What: fmt.Sprintf("%s matches %d %s", selectorText(sel), len(f.pods), plural("pod", len(f.pods)))}
	if len(f.pods) > 0 {
		return s, causeSelector
	}
	s.State = doctor.Bad
	s.Fix = "make pods with these labels, or correct spec.selector; wpctl get pods -n " + f.Namespace + " --show-labels shows what there is"
	best, wrong := nearestLabels(sel, f.all)
	switch {
	case len(f.all) == 0:
		s.Details = []string{"there are no pods in namespace " + f.Namespace}
		s.Fix = "make the pods (a Deployment, for instance) in namespace " + f.Namespace + ": a Service only finds pods of its own namespace"
	case best != nil:
		var have, want []string
		for _, k := range wrong {
			if v, ok := best.Labels[k]; ok {
				have, want = append(have, k+"="+v), append(want, fmt.Sprintf("%q: %q", k, v))
			}
		}
		if len(have) == 0 {
			break
		}
		s.Details = []string{fmt.Sprintf("pod %s has %s", best.Name, strings.Join(have, ","))}
		s.Fix = fmt.Sprintf("if those are the pods, correct the selector: wpctl patch service %s -n %s -p '{\"spec\": {\"selector\": {%s}}}'", f.Name, f.Namespace, strings.Join(want, ", "))
	}
	return s, causeSelector
}

// nearestLabels is the pod whose labels are nearest to a selector that matches none, and the keys by which it does not.
func nearestLabels(sel map[string]string, pods []*corev1.Pod) (best *corev1.Pod, wrong []string) {
	least := 1 << 30
	for _, p := range pods {
		distance := 0
		var keys []string
		for _, k := range slices.Sorted(maps.Keys(sel)) {
			v, ok := p.Labels[k]
			switch {
			case !ok:
				distance += 100
				keys = append(keys, k)
			case v != sel[k]:
				distance += min(levenshtein(v, sel[k]), 50)
				keys = append(keys, k)
			}
		}
		if distance < least {
			best, wrong, least = p, keys, distance
		}
	}
	return best, wrong
}

// nearest of some names, if one is near enough to be what was meant.
func nearest(name string, list []string) string {
	best, least := "", 3
	for _, s := range list {
		if d := levenshtein(name, s); d < least {
			best, least = s, d
		}
	}
	return best
}

func levenshtein(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// judgePods: which are not ready, and why.
func (f *facts) judgePods() (Step, cause) {
	s := Step{Name: "pods", State: doctor.OK}
	ready := 0
	for _, p := range f.pods {
		if isReady(p) {
			ready++
			continue
		}
		if len(s.Details) < maxExplained {
			s.Details = append(s.Details, f.explain(p))
		}
	}
	s.What = fmt.Sprintf("%d of %d ready", ready, len(f.pods))
	if f.pod != nil && ready == 1 {
		s.What = fmt.Sprintf("%s is ready, %s on node %s", f.pod.Name, f.pod.Status.PodIP, f.pod.Spec.NodeName)
	}
	if ready == len(f.pods) {
		return s, causePods
	}
	s.State = doctor.Warning
	s.Fix = f.tellMore() + "; pods that are not ready get no connections"
	if ready == 0 && (f.service == nil || !f.service.Spec.PublishNotReadyAddresses) {
		s.State = doctor.Bad
	}
	return s, causePods
}

// tellMore are the commands that tell more of the first pod that is not ready.
func (f *facts) tellMore() string {
	i := slices.IndexFunc(f.pods, func(p *corev1.Pod) bool { return !isReady(p) })
	p := f.pods[i]
	text := fmt.Sprintf("wpctl describe pod %s -n %s", p.Name, p.Namespace)
	for _, t := range why.Of(p, true) {
		if !t.Logs {
			continue
		}
		text += fmt.Sprintf("; wpctl logs %s -n %s -c %s", p.Name, p.Namespace, t.Container)
		if t.Previous {
			text += " --previous"
		}
		break
	}
	return text
}

// explain one pod that is not ready, in one line.
func (f *facts) explain(p *corev1.Pod) string {
	text := "pod " + p.Name
	if p.Spec.NodeName != "" {
		text += " on " + p.Spec.NodeName
	}
	if p.DeletionTimestamp != nil {
		return text + ": is being deleted"
	}
	var parts []string
	for _, t := range why.Of(p, true) {
		part := t.Reason
		if t.Container != "" {
			part = "container " + t.Container + ": " + part
		}
		if t.Message != "" {
			first, _, _ := strings.Cut(strings.TrimSpace(t.Message), "\n")
			part += ", " + first
		}
		if t.Ended != "" {
			part += " (its last run ended with " + t.Ended + ")"
		}
		parts = append(parts, part)
	}
	// A back-off is in the status, too.
	if event := f.events[p.Name]; event != "" && !strings.HasPrefix(event, "BackOff: ") && !strings.Contains(strings.Join(parts, " "), event) {
		first, _, _ := strings.Cut(event, "\n")
		parts = append(parts, first)
	}
	if n := f.nodes[p.Spec.NodeName]; p.Spec.NodeName != "" && !nodeReady(n) {
		parts = append(parts, "its node is not ready")
	}
	if len(parts) == 0 {
		parts = append(parts, cmp.Or(p.Status.Reason, string(p.Status.Phase)))
	}
	return text + ": " + strings.Join(parts, "; ")
}

// judgeTargetPort finds names that no container has. A number that no container declares is nothing by itself: containers may
// listen where they like; see judgeContainer.
func (f *facts) judgeTargetPort() (Step, cause) {
	s := Step{Name: "targetPort"}
	for _, port := range f.servicePorts() {
		name := port.TargetPort.StrVal
		if name == "" {
			continue
		}
		var without *corev1.Pod
		for _, p := range f.pods {
			if !hasPort(p, name, protocolOf(port.Protocol)) {
				without = p
			}
		}
		if without == nil {
			continue
		}
		s.State = doctor.Bad
		s.What = fmt.Sprintf("no container of pod %s has a %s port called %q", without.Name, protocolOf(port.Protocol), name)
		declared := declaredPorts(without)
		s.Details = []string{"it has " + cmp.Or(strings.Join(declared, ", "), "no ports")}
		s.Fix = fmt.Sprintf("give the container's port that name (ports: [{name: %s, containerPort: …}]), or write a number as targetPort", name)
	}
	return s, causeTargetPort
}

func hasPort(p *corev1.Pod, name, protocol string) bool {
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		for _, cp := range c.Ports {
			if cp.Name == name && protocolOf(cp.Protocol) == protocol {
				return true
			}
		}
	}
	return false
}

func declaredPorts(p *corev1.Pod) (out []string) {
	for _, c := range p.Spec.Containers {
		for _, cp := range c.Ports {
			text := fmt.Sprintf("%d/%s", cp.ContainerPort, protocolOf(cp.Protocol))
			if cp.Name != "" {
				text = cp.Name + " " + text
			}
			out = append(out, text)
		}
	}
	return out
}

// answersItself: the Service is one that every node serves without endpoints, as the cluster's DNS.
func (f *facts) answersItself() bool {
	if len(f.service.Spec.Selector) > 0 || len(f.endpoints) > 0 || f.otherProxy() {
		return false
	}
	return slices.ContainsFunc(f.views, func(v *view) bool {
		return v.answer != nil && v.answer.Rules != nil && v.answer.Rules.Known && len(v.answer.Rules.Ways) == 0
	})
}

// otherProxy tells whether the Service is left to another proxy.
func (f *facts) otherProxy() bool { return f.service.Labels[otherProxyLabel] != "" }

// otherProxyLabel is Kubernetes' own.
const otherProxyLabel = "service.kubernetes.io/service-proxy-name"

// judgeSlices: are there endpoints, and are they the ready pods?
func (f *facts) judgeSlices() (s Step, lagging bool) {
	s = Step{Name: "endpoints", State: doctor.OK}
	ready := f.readyEndpoints()
	var list []string
	for i, e := range ready {
		if i == 4 && len(ready) > 5 {
			list = append(list, fmt.Sprintf("and %d more", len(ready)-i+f.cut))
			break
		}
		text := e.at.String()
		if e.pod != nil {
			text += " (" + e.pod.Name + " on " + cmp.Or(e.node, "no node") + ")"
		}
		if e.last {
			text += ", which is ending"
		}
		list = append(list, text)
	}
	s.What = strings.Join(list, ", ")
	if f.answersItself() {
		s.What = "every node answers by itself"
		return s, false
	}
	if len(f.service.Spec.Selector) == 0 && len(ready) == 0 {
		s.State, s.What = doctor.Bad, "the Service has no selector, and nobody has given it endpoints"
		s.Fix = "add a selector, or make an EndpointSlice with the label kubernetes.io/service-name: " + f.Name
		return s, true
	}
	var missing []string
	for _, p := range f.pods {
		if isReady(p) && p.DeletionTimestamp == nil && !slices.ContainsFunc(ready, func(e endpoint) bool { return e.pod == p }) {
			missing = append(missing, p.Name)
		}
	}
	switch {
	case f.cut > 0:
	case len(missing) > 0:
		s.State = doctor.Bad
		s.What = strings.TrimPrefix(s.What+"; ready, but not among them: "+strings.Join(missing, ", "), "; ")
		s.Fix = "look at targetPort above; if that is right, at the master's log: its controller \"endpoints\" writes EndpointSlices"
		return s, true
	case len(ready) == 0:
		s.State, s.What, s.Fix = doctor.Bad, "none: there is nobody to answer", "see to it that a pod becomes ready"
	}
	return s, false
}
