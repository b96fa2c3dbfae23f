package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// netpolStep changes something, and says who reaches whom afterwards.
type netpolStep struct {
	// policies of namespaces, "x/name" → spec; "" deletes it.
	policies map[string]string
	labels   map[string]string // of a pod "x/a" or of a namespace "x": "key=value"
	// reach is, by protocol and port, what differs from "everybody reaches everybody": "!FROM>TO" does not, "FROM>TO" does, the last
	// one that matches counts; * is any, and x/* any of a namespace.
	reach map[string]string
}

// Every case of Kubernetes' own test suite of network policies (test/e2e/network/netpol, 1.36), with pods x/a to z/c that all serve
// 80 and 81 by TCP, UDP and SCTP under the names serve-80-tcp and so on. What is to be is written down here by hand, not computed.
var netpolCases = map[string][]netpolStep{
	"default-deny-ingress": {{policies: map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Ingress]}`},
		reach: map[string]string{"tcp/80": "!*>x/*", "udp/80": "!*>x/*", "sctp/80": "!*>x/*"}}},
	"default-deny-all": {{policies: map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Ingress, Egress]}`},
		reach: map[string]string{"tcp/80": "!*>x/* !x/*>*"}}},
	"from pods of the namespace, by podSelector": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a x/b>x/a"}}},
	"to one target": {{policies: map[string]string{
		"x/deny": `{podSelector: {}, policyTypes: [Ingress]}`, "x/to-a": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}, namespaceSelector: {}}]}]}`,
	}, reach: map[string]string{"tcp/80": "!*>x/* *>x/a"}}},
	"from all namespaces": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {}}}]}]}`},
		reach: map[string]string{"tcp/80": ""}}},
	"from a namespace": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a y/*>x/a"}}},
	"pods by expressions": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a x/b>x/a"}}},
	"namespaces by expressions": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: ["y"]}]}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a y/*>x/a"}}},
	"pods or namespaces": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x]}]}}, {podSelector: {matchLabels: {pod: b}}}]}]}`},
		reach: map[string]string{"tcp/80": "!x/c>x/a"}}},
	"pods and namespaces": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x]}]}, podSelector: {matchLabels: {pod: b}}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a y/b>x/a z/b>x/a"}}},
	"several pods and namespaces": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x]}]}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]}]}`},
		reach: map[string]string{"tcp/80": "!x/*>x/a !y/a>x/a !z/a>x/a"}}},
	"any of several pods": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a x/b>x/a x/c>x/a"}}},
	"from a pod of a namespace": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}, podSelector: {matchLabels: {pod: a}}}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a y/a>x/a", "udp/80": "!*>x/a y/a>x/a", "sctp/80": "!*>x/a y/a>x/a"}}},
	"ports, and stacked policies": {
		{policies: map[string]string{"x/81": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}], ports: [{port: 81, protocol: TCP}]}]}`},
			reach: map[string]string{"tcp/81": "!*>x/a y/*>x/a", "tcp/80": "!*>x/a", "udp/81": "!*>x/a"}},
		{policies: map[string]string{"x/80": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}], ports: [{port: 80, protocol: TCP}]}]}`},
			reach: map[string]string{"tcp/81": "!*>x/a y/*>x/a", "tcp/80": "!*>x/a y/*>x/a"}},
	},
	"ports by UDP":  {{policies: map[string]string{"x/81": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}], ports: [{port: 81, protocol: UDP}]}]}`}, reach: map[string]string{"udp/81": "!*>x/a y/*>x/a", "tcp/81": "!*>x/a"}}},
	"ports by SCTP": {{policies: map[string]string{"x/81": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}], ports: [{port: 81, protocol: SCTP}]}]}`}, reach: map[string]string{"sctp/81": "!*>x/a y/*>x/a", "tcp/81": "!*>x/a"}}},
	"allow-all":     {{policies: map[string]string{"x/all": `{podSelector: {}, ingress: [{}]}`}, reach: map[string]string{"tcp/80": "", "tcp/81": ""}}},
	"a named port":  {{policies: map[string]string{"x/p": `{podSelector: {}, ingress: [{ports: [{port: serve-81-tcp}]}]}`}, reach: map[string]string{"tcp/81": "", "tcp/80": "!*>x/*"}}},
	"a named port from a namespace": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}], ports: [{port: serve-80-tcp, protocol: TCP}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a y/*>x/a", "tcp/81": "!*>x/a"}}},
	"egress to a named port": {{policies: map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: serve-80-tcp}]}]}`}, reach: map[string]string{"tcp/80": "", "tcp/81": "!x/*>*"}}},
	"an updated policy": {
		{policies: map[string]string{"x/p": `{podSelector: {}, ingress: [{}]}`}, reach: map[string]string{"tcp/81": ""}},
		{policies: map[string]string{"x/p": `{podSelector: {}, ingress: []}`}, reach: map[string]string{"tcp/81": "!*>x/*"}},
	},
	"an updated namespace": {
		{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns2: updated}}}]}]}`}, reach: map[string]string{"tcp/80": "!*>x/a"}},
		{labels: map[string]string{"y": "ns2=updated"}, reach: map[string]string{"tcp/80": "!*>x/a y/*>x/a"}},
		{labels: map[string]string{"y": "ns2=other"}, reach: map[string]string{"tcp/80": "!*>x/a"}},
	},
	"an updated client": {
		{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b, pod2: updated}}}]}]}`}, reach: map[string]string{"tcp/80": "!*>x/a"}},
		{labels: map[string]string{"x/b": "pod2=updated"}, reach: map[string]string{"tcp/80": "!*>x/a x/b>x/a"}},
	},
	"not from other namespaces": {{policies: map[string]string{"x/p": `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {}}}]}]}`}, reach: map[string]string{"tcp/80": "!y/*>x/* !z/*>x/*"}}},
	"an updated target": {
		{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {target: isolated}}, policyTypes: [Ingress]}`}, reach: map[string]string{"tcp/80": ""}},
		{labels: map[string]string{"x/a": "target=isolated"}, reach: map[string]string{"tcp/80": "!*>x/a"}},
	},
	"no egress of a pod":       {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}`}, reach: map[string]string{"tcp/80": "!x/a>*"}}},
	"no egress of a namespace": {{policies: map[string]string{"x/p": `{podSelector: {}, policyTypes: [Egress]}`}, reach: map[string]string{"tcp/80": "!x/*>*"}}},
	"ingress and egress together": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress, Ingress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}], egress: [{ports: [{port: 80}]}]}`},
		reach: map[string]string{"tcp/80": "!*>x/a x/b>x/a", "tcp/81": "!*>x/a !x/a>* x/b>x/a"}}},
	"denied by the client's side": {{policies: map[string]string{
		"x/out": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}, podSelector: {matchLabels: {pod: a}}}]}]}`,
		"y/a":   `{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}, podSelector: {matchLabels: {pod: a}}}]}]}`,
		"y/b":   `{podSelector: {matchLabels: {pod: b}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: x}}, podSelector: {matchLabels: {pod: a}}}]}]}`,
	}, reach: map[string]string{"tcp/80": "!x/a>* !*>y/a x/a>y/a !*>y/b"}}},
	"egress to a pod of a namespace": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}, podSelector: {matchLabels: {pod: a}}}]}]}`},
		reach: map[string]string{"tcp/80": "!x/a>* x/a>y/a"}}},
	"any port of a protocol": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{protocol: TCP}]}]}`}, reach: map[string]string{"tcp/80": "", "udp/80": "!*>x/a"}}},
	"allow-all beside a narrower ingress": {
		{policies: map[string]string{"x/80": `{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`}, reach: map[string]string{"tcp/81": "!*>x/*"}},
		{policies: map[string]string{"x/all": `{podSelector: {}, ingress: [{}]}`}, reach: map[string]string{"tcp/81": ""}},
	},
	"allow-all beside a narrower egress": {
		{policies: map[string]string{"x/80": `{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}`}, reach: map[string]string{"tcp/81": "!x/*>*"}},
		{policies: map[string]string{"x/all": `{podSelector: {}, policyTypes: [Egress], egress: [{}]}`}, reach: map[string]string{"tcp/81": ""}},
	},
	"deleted": {
		{policies: map[string]string{"x/deny": `{podSelector: {}, policyTypes: [Ingress, Egress]}`}, reach: map[string]string{"tcp/80": "!*>x/* !x/*>*"}},
		{policies: map[string]string{"x/deny": ""}, reach: map[string]string{"tcp/80": ""}},
	},
	"egress to a block": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.1.14/32}}]}]}`}, reach: map[string]string{"tcp/80": "!x/a>* x/a>y/b"}}},
	"a block with an exception, and the exception alone": {
		{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/4, except: [10.244.1.11/32]}}]}]}`}, reach: map[string]string{"tcp/80": "!x/a>x/b"}},
		{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.244.1.11/32}}]}]}`}, reach: map[string]string{"tcp/80": "!x/a>* x/a>x/b"}},
	},
	"ingress and egress of two policies": {
		{policies: map[string]string{"x/out": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{}]}`}, reach: map[string]string{"tcp/80": ""}},
		{policies: map[string]string{"x/in": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress]}`}, reach: map[string]string{"tcp/80": "!*>x/a"}},
	},
	"SCTP is not TCP": {{policies: map[string]string{
		"x/deny": `{podSelector: {}, policyTypes: [Ingress]}`, "x/sctp": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81, protocol: SCTP}]}]}`,
	}, reach: map[string]string{"tcp/81": "!*>x/*", "sctp/81": "!*>x/* *>x/a"}}},
	"a policy of SCTP isolates":   {{policies: map[string]string{"x/sctp": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}`}, reach: map[string]string{"tcp/81": "!*>x/a"}}},
	"UDP is not TCP":              {{policies: map[string]string{"x/udp": `{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 81, protocol: UDP}]}]}`}, reach: map[string]string{"tcp/81": "!*>x/a", "udp/81": ""}}},
	"not to a namespace, by name": {{policies: map[string]string{"x/p": `{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: ["y"]}]}}]}]}`}, reach: map[string]string{"tcp/80": "!x/a>y/*"}}},
}

func TestKubernetesOwnSuite(t *testing.T) {
	for name, steps := range netpolCases {
		t.Run(name, func(t *testing.T) {
			k := newKernel()
			x := &told{w: newWorld(), e: newEnforcer(k)}
			at := map[string]packet{} // by name of a pod
			for i, ns := range []string{"x", "y", "z"} {
				x.w.namespaces[ns] = map[string]string{corev1.LabelMetadataName: ns}
				for j, name := range []string{"a", "b", "c"} {
					pod := netpolPod(ns, name, 10+3*i+j)
					x.w.pods[string(pod.UID)] = pod
					at[string(pod.UID)] = packet{src: ip(pod.Status.PodIP)}
					x.e.SetPod(pod)
					x.e.Adopt(string(pod.UID), ip(pod.Status.PodIP))
				}
			}
			x.e.Synced()
			for i, s := range steps {
				s.tell(t, x)
				if err := x.e.sync(t.Context()); err != nil {
					t.Fatal(err)
				}
				for where, rules := range s.reach {
					proto, port, _ := strings.Cut(where, "/")
					for from := range at {
						for to := range at {
							p := packet{src: at[from].src, dst: at[to].src, proto: proto, port: map[string]uint16{"80": 80, "81": 81}[port]}
							if got, want := k.passes("FORWARD", p), reaches(rules, from, to); got != want {
								t.Errorf("step %d: %s → %s at %s passes: %v, want %v", i+1, from, to, where, got, want)
							}
						}
					}
				}
			}
		})
	}
}

func netpolPod(ns, name string, n int) *corev1.Pod {
	p := onePod(map[string]string{"pod": name})
	p.Namespace, p.Name, p.UID = ns, name, types.UID(ns+"/"+name)
	p.Status.PodIP = "10.244.1." + string([]byte{'0' + byte(n/10), '0' + byte(n%10)})
	var c corev1.Container
	for _, proto := range []corev1.Protocol{"TCP", "UDP", "SCTP"} {
		for port, number := range map[string]int32{"80": 80, "81": 81} {
			c.Ports = append(c.Ports, corev1.ContainerPort{Name: "serve-" + port + "-" + strings.ToLower(string(proto)), ContainerPort: number, Protocol: proto})
		}
	}
	p.Spec.Containers = []corev1.Container{c}
	return p
}

func (s netpolStep) tell(t *testing.T, x *told) {
	t.Helper()
	for name, spec := range s.policies {
		ns, policy, _ := strings.Cut(name, "/")
		if spec == "" {
			delete(x.w.policies, key{ns, policy})
			x.e.DeletePolicy(ns, policy)
			continue
		}
		np := &networkingv1.NetworkPolicy{}
		np.Namespace, np.Name = ns, policy
		if err := yaml.UnmarshalStrict([]byte(spec), &np.Spec); err != nil {
			t.Fatal(name, err)
		}
		x.w.policies[key{ns, policy}] = np
		x.e.SetPolicy(np)
	}
	for who, label := range s.labels {
		k, v, _ := strings.Cut(label, "=")
		pod := x.w.pods[who]
		if pod == nil {
			x.w.namespaces[who] = maps.Clone(x.w.namespaces[who])
			x.w.namespaces[who][k] = v
			continue
		}
		pod = pod.DeepCopy()
		pod.Labels[k] = v
		x.w.pods[who] = pod
		x.e.SetPod(pod)
	}
	x.sets()
}

// reaches reads what a step says; a pod always reaches itself.
func reaches(rules, from, to string) bool {
	if from == to {
		return true
	}
	is := func(pattern, pod string) bool {
		return pattern == "*" || pattern == pod || strings.HasSuffix(pattern, "/*") && strings.HasPrefix(pod, pattern[:2])
	}
	list := strings.Fields(rules)
	slices.Reverse(list)
	for _, rule := range list {
		a, b, _ := strings.Cut(strings.TrimPrefix(rule, "!"), ">")
		if is(a, from) && is(b, to) {
			return rule[0] != '!'
		}
	}
	return true
}
