package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
	}
}

func label(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func notReady(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }
func required(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
	}
}

func expression(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func hostPortPod(ip string, port int32, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, HostIP: ip, Protocol: protocol, ContainerPort: port}}
	}
}

func toleration(t corev1.Toleration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t) }
}

func TestFilters(t *testing.T) {
	const noHelp = " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	const noVictims = " preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	tests := map[string]struct {
		node    *corev1.Node
		running []*corev1.Pod
		pod     *corev1.Pod
		message string // empty: it fits
	}{
		"room":                    {node: testNode("n", "1", "1Gi"), pod: testPod("1", "1Gi")},
		"too little cpu":          {node: testNode("n", "1", "1Gi"), pod: testPod("1001m", ""), message: "0/1 nodes are available: 1 Insufficient cpu." + noHelp},
		"cpu and memory":          {node: testNode("n", "1", "1Gi"), pod: testPod("2", "2Gi"), message: "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory." + noHelp},
		"memory taken":            {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("", "600Mi")}, pod: testPod("", "600Mi"), message: "0/1 nodes are available: 1 Insufficient memory." + noVictims},
		"no request always fits":  {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("1", "1Gi")}, pod: testPod("", "")},
		"ended pods hold nothing": {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("1", "", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, pod: testPod("1", "")},
		"too many pods":           {node: testNode("n", "1", "1Gi", func(n *corev1.Node) { n.Status.Allocatable["pods"] = resource.MustParse("1") }), running: []*corev1.Pod{testPod("", "")}, pod: testPod("", ""), message: "0/1 nodes are available: 1 Too many pods." + noVictims},
		"extended resource": {node: testNode("n", "1", "1Gi"), pod: testPod("", "", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}), message: "0/1 nodes are available: 1 Insufficient example.com/gpu." + noHelp},
		"init container counts": {node: testNode("n", "1", "1Gi"), pod: testPod("100m", "", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: list("2", "", "")}}}
		}), message: "0/1 nodes are available: 1 Insufficient cpu." + noHelp},
		"init beside containers": {node: testNode("n", "1", "1Gi"), pod: testPod("1", "", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: list("1", "", "")}}}
		})},
		"overhead counts":          {node: testNode("n", "1", "1Gi"), pod: testPod("1", "", func(p *corev1.Pod) { p.Spec.Overhead = list("1m", "", "") }), message: "0/1 nodes are available: 1 Insufficient cpu." + noHelp},
		"taint":                    {node: testNode("n", "1", "1Gi", taint("k", corev1.TaintEffectNoSchedule)), pod: testPod("", ""), message: "0/1 nodes are available: 1 node(s) had untolerated taint(s)." + noHelp},
		"taint tolerated":          {node: testNode("n", "1", "1Gi", taint("k", corev1.TaintEffectNoSchedule)), pod: testPod("", "", toleration(corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists}))},
		"taint, other value":       {node: testNode("n", "1", "1Gi", taint("k", corev1.TaintEffectNoSchedule)), pod: testPod("", "", toleration(corev1.Toleration{Key: "k", Value: "v"})), message: "0/1 nodes are available: 1 node(s) had untolerated taint(s)." + noHelp},
		"taint, other effect":      {node: testNode("n", "1", "1Gi", taint("k", corev1.TaintEffectNoExecute)), pod: testPod("", "", toleration(corev1.Toleration{Key: "k", Effect: corev1.TaintEffectNoSchedule})), message: "0/1 nodes are available: 1 node(s) had untolerated taint(s)." + noHelp},
		"soft taint":               {node: testNode("n", "1", "1Gi", taint("k", corev1.TaintEffectPreferNoSchedule)), pod: testPod("", "")},
		"not ready":                {node: testNode("n", "1", "1Gi", notReady), pod: testPod("", ""), message: "0/1 nodes are available: 1 node(s) had untolerated taint(s)." + noHelp},
		"not ready, tolerated":     {node: testNode("n", "1", "1Gi", notReady), pod: testPod("", "", toleration(corev1.Toleration{Operator: corev1.TolerationOpExists}))},
		"cordoned":                 {node: testNode("n", "1", "1Gi", cordoned), pod: testPod("", ""), message: "0/1 nodes are available: 1 node(s) were unschedulable." + noHelp},
		"cordoned, tolerated":      {node: testNode("n", "1", "1Gi", cordoned), pod: testPod("", "", toleration(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}))},
		"node selector":            {node: testNode("n", "1", "1Gi", label("disk", "ssd")), pod: testPod("", "", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })},
		"node selector, other":     {node: testNode("n", "1", "1Gi"), pod: testPod("", "", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), message: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + noHelp},
		"affinity In":              {node: testNode("n", "1", "1Gi", label("z", "a")), pod: testPod("", "", required(expression("z", corev1.NodeSelectorOpIn, "a", "b")))},
		"affinity NotIn":           {node: testNode("n", "1", "1Gi", label("z", "a")), pod: testPod("", "", required(expression("z", corev1.NodeSelectorOpNotIn, "a"))), message: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + noHelp},
		"affinity Exists":          {node: testNode("n", "1", "1Gi", label("z", "a")), pod: testPod("", "", required(expression("z", corev1.NodeSelectorOpExists)))},
		"affinity DoesNotExist":    {node: testNode("n", "1", "1Gi"), pod: testPod("", "", required(expression("z", corev1.NodeSelectorOpDoesNotExist)))},
		"affinity Gt":              {node: testNode("n", "1", "1Gi", label("n", "5")), pod: testPod("", "", required(expression("n", corev1.NodeSelectorOpGt, "4")))},
		"affinity Lt":              {node: testNode("n", "1", "1Gi", label("n", "5")), pod: testPod("", "", required(expression("n", corev1.NodeSelectorOpLt, "4"))), message: "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector." + noHelp},
		"affinity, terms are ORed": {node: testNode("n", "1", "1Gi", label("z", "a")), pod: testPod("", "", required(expression("z", corev1.NodeSelectorOpIn, "x"), expression("z", corev1.NodeSelectorOpIn, "a")))},
		"affinity by node name": {node: testNode("n", "1", "1Gi"), pod: testPod("", "", required(corev1.NodeSelectorTerm{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}}}))},
		"affinity by another name": {node: testNode("n", "1", "1Gi"), pod: testPod("", "", required(corev1.NodeSelectorTerm{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"m"}}}})),
			message: "0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity]." + noHelp},
		"host port free":        {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("", "", hostPortPod("", 80, "TCP"))}, pod: testPod("", "", hostPortPod("", 81, "TCP"))},
		"host port taken":       {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("", "", hostPortPod("", 80, "TCP"))}, pod: testPod("", "", hostPortPod("127.0.0.1", 80, "TCP")), message: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports." + noVictims},
		"host port, other IP":   {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("", "", hostPortPod("127.0.0.2", 80, "TCP"))}, pod: testPod("", "", hostPortPod("127.0.0.1", 80, "TCP"))},
		"host port, UDP beside": {node: testNode("n", "1", "1Gi"), running: []*corev1.Pod{testPod("", "", hostPortPod("", 53, "TCP"))}, pod: testPod("", "", hostPortPod("", 53, "UDP"))},
		"never preempts": {node: testNode("n", "1", "1Gi", cordoned), pod: testPod("", "", func(p *corev1.Pod) {
			never := corev1.PreemptNever
			p.Spec.PreemptionPolicy = &never
		}), message: "0/1 nodes are available: 1 node(s) were unschedulable. preemption: not eligible due to preemptionPolicy=Never."},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := snapshotOf(test.node)
			for _, p := range test.running {
				s.SetPod(bound(p, "n"))
			}
			d := Schedule(s, test.pod)
			if d.Message != test.message {
				t.Errorf("message\n got %q\nwant %q", d.Message, test.message)
			}
			if fits, reasons := Fits(s.Node("n"), test.pod); fits != (test.message == "") || fits != (d.Node == "n") || fits == (len(reasons) > 0) {
				t.Errorf("Schedule says %q, Fits %v %v", d.Node, fits, reasons)
			}
		})
	}
}

func TestExplainCountsOverNodes(t *testing.T) {
	s := snapshotOf(testNode("a", "1", "1Gi"), testNode("b", "1", "1Gi", notReady), testNode("c", "1", "1Gi", taint("x", corev1.TaintEffectNoSchedule)))
	s.SetPod(bound(testPod("", "1Gi"), "a"))
	got := Schedule(s, testPod("", "1Mi")).Message
	want := "0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint(s). " +
		"preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got := Schedule(NewSnapshot(), testPod("", "")).Message; got != "no nodes available to schedule pods" {
		t.Error(got)
	}
}

func place(s *Snapshot, p *corev1.Pod) string {
	d := Schedule(s, p)
	if d.Node != "" {
		s.Assume(p, d.Node)
	}
	return d.Node
}

func TestReplicasSpreadBeforeFilling(t *testing.T) {
	s := snapshotOf(testNode("big", "64", "64Gi"), testNode("small", "2", "2Gi"), testNode("tiny", "1", "1Gi"))
	count := map[string]int{}
	for range 6 {
		count[place(s, testPod("100m", "50Mi", ownedBy("rs")))]++
	}
	for _, n := range []string{"big", "small", "tiny"} {
		if count[n] != 2 {
			t.Errorf("replicas %v, want two on each node", count)
		}
	}
	// A bare pod goes where most is left.
	if n := place(s, testPod("100m", "50Mi")); n != "big" {
		t.Errorf("bare pod on %s", n)
	}
}

func TestWishes(t *testing.T) {
	prefer := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{
			{Weight: 1, Preference: expression("disk", corev1.NodeSelectorOpIn, "ssd")}, {Weight: 50, Preference: expression("disk", corev1.NodeSelectorOpIn, "nvme")}}}}
	}
	s := snapshotOf(testNode("a", "8", "8Gi"), testNode("b", "1", "1Gi", label("disk", "nvme")), testNode("c", "8", "8Gi", label("disk", "ssd")))
	if n := Schedule(s, testPod("", "", prefer)).Node; n != "b" {
		t.Errorf("preferred node: %s", n)
	}
	s = snapshotOf(testNode("a", "8", "8Gi", taint("k", corev1.TaintEffectPreferNoSchedule)), testNode("b", "1", "1Gi"))
	if n := Schedule(s, testPod("", "")).Node; n != "b" {
		t.Errorf("softly tainted node chosen: %s", n)
	}
	image := func(n *corev1.Node) {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{"docker.io/library/nginx:latest"}, SizeBytes: 500 << 20}}
	}
	s = snapshotOf(testNode("a", "8", "8Gi"), testNode("b", "8", "8Gi", image))
	if n := Schedule(s, testPod("", "")).Node; n != "b" {
		t.Errorf("the node with the image was not chosen but %s", n)
	}
	s.SetPod(bound(testPod("2", "2Gi"), "b"))
	if n := Schedule(s, testPod("", "")).Node; n != "a" {
		t.Errorf("an image outweighed a quarter of the node: %s", n)
	}
}
