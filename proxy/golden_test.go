package proxy

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

var update = flag.Bool("update", false, "write the golden files")

type scenario struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

// scenarios are used by the golden test and, as root, by the test that feeds them to the kernel.
func scenarios() map[string]scenario {
	two := []endpoint{{ip: "10.244.1.5", node: "n1"}, {ip: "10.244.2.7", node: "n2"}}
	remote := []endpoint{{ip: "10.244.2.7", node: "n2"}}
	one := func(s *corev1.Service, e *discoveryv1.EndpointSlice) scenario {
		return scenario{[]*corev1.Service{s}, []*discoveryv1.EndpointSlice{e}}
	}
	return map[string]scenario{
		"empty":                  {},
		"clusterip":              one(service("web", "10.254.7.9"), slice("web", 8080, two...)),
		"three-endpoints":        one(service("web", "10.254.7.9"), slice("web", 8080, append(two, endpoint{ip: "10.244.3.3", node: "n3"})...)),
		"nodeport":               one(service("web", "10.254.7.9", nodePort(30080)), slice("web", 8080, two...)),
		"nodeport-udp":           one(service("web", "10.254.7.9", nodePort(30053), proto(corev1.ProtocolUDP)), sliceOf("web", corev1.ProtocolUDP, 53, two...)),
		"sctp":                   one(service("web", "10.254.7.9", proto(corev1.ProtocolSCTP)), sliceOf("web", corev1.ProtocolSCTP, 99, two...)),
		"no-endpoints":           one(service("web", "10.254.7.9", nodePort(30080), external("203.0.113.5")), slice("web", 8080)),
		"external-ips":           one(service("web", "10.254.7.9", external("203.0.113.5", "198.51.100.11")), slice("web", 8080, two...)),
		"loadbalancer":           one(service("web", "10.254.7.9", balancer("203.0.113.5"), nodePortKeep(30080)), slice("web", 8080, two...)),
		"loadbalancer-ranges":    one(service("web", "10.254.7.9", balancer("203.0.113.5"), ranges("198.51.100.0/24", " 192.0.2.0/24", "bad")), slice("web", 8080, two...)),
		"loadbalancer-alone":     one(service("web", "10.254.7.9", balancer("203.0.113.200"), externalLocal), slice("web", 8080, remote...)),
		"external-local":         one(service("web", "10.254.7.9", nodePort(30080), externalLocal), slice("web", 8080, two...)),
		"external-local-nothing": one(service("web", "10.254.7.9", nodePort(30080), externalLocal), slice("web", 8080, remote...)),
		"internal-local":         one(service("web", "10.254.7.9", internalLocal), slice("web", 8080, two...)),
		"internal-local-nothing": one(service("web", "10.254.7.9", internalLocal), slice("web", 8080, remote...)),
		"affinity":               one(service("web", "10.254.7.9", sticky), slice("web", 8080, two...)),
		"affinity-timeout":       one(service("web", "10.254.7.9", sticky, stickyFor(60), nodePort(30080)), slice("web", 8080, two...)),
		"hints-zone":             one(service("web", "10.254.7.9"), hinted(slice("web", 8080, two...), "", "elsewhere", "here")),
		"hints-node":             one(service("web", "10.254.7.9"), hinted(slice("web", 8080, two...), "n", "here", "here")),
		"ranges-nested":          one(service("web", "10.254.7.9", balancer("203.0.113.5"), ranges("198.51.100.0/24", "198.51.100.7/32", "0.0.0.0/0")), slice("web", 8080, two...)),
		"mode-proxy":             one(service("web", "10.254.7.9", balancer("203.0.113.5"), modeProxy), slice("web", 8080, two...)),
		"another-proxy":          one(service("web", "10.254.7.9", label(labelProxyName)), slice("web", 8080, two...)),
		"dns-is-local":           one(service("kube-dns", "10.254.254.1"), slice("kube-dns", 53, two...)),
	}
}

func nodePortKeep(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].NodePort = port }
}

func ranges(r ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = r }
}

func TestGolden(t *testing.T) {
	for name, sc := range scenarios() {
		t.Run(name, func(t *testing.T) {
			got := Rules(testConfig(), sc.services, sc.slices)
			file := filepath.Join("testdata", name+".rules")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func BenchmarkCompile5000(b *testing.B) {
	svcs, eps := many(5000, 2)
	cfg := testConfig()
	for b.Loop() {
		m := newModel(&cfg)
		for i := range svcs {
			m.setService(svcs[i])
			m.setSlice(eps[i])
		}
		m.flush(newTables(&cfg, false))
	}
}
