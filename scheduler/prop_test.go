package scheduler

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// TestAggregates: whatever order nodes and pods come, change and go in, the running sums equal those counted afresh, no
// placement overcommits a node, and equal states decide equally.
func TestAggregates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot()
		s.Seed = rapid.Uint64().Draw(t, "seed")
		nodes := map[string]*corev1.Node{}
		pods := map[types.UID]*corev1.Pod{}
		t.Repeat(map[string]func(*rapid.T){
			"set node": func(t *rapid.T) {
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 4).Draw(t, "node"))
				nodes[name] = testNode(name, fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "cpu")), "4Gi")
				s.SetNode(nodes[name])
			},
			"remove node": func(t *rapid.T) {
				name := fmt.Sprintf("n%d", rapid.IntRange(0, 4).Draw(t, "node"))
				delete(nodes, name)
				s.RemoveNode(name)
			},
			"schedule": func(t *rapid.T) {
				p := testPod(fmt.Sprintf("%dm", rapid.IntRange(0, 1500).Draw(t, "cpu")), "100Mi", ownedBy(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "owner")))
				if rapid.Bool().Draw(t, "ports") {
					hostPortPod("", int32(rapid.IntRange(80, 82).Draw(t, "port")), "TCP")(p)
				}
				d := Schedule(s, p)
				if again := Schedule(s, p); !reflect.DeepEqual(again, d) {
					t.Fatalf("decided %+v, then %+v", d, again)
				}
				if d.Node == "" {
					return
				}
				s.Assume(p, d.Node)
				if rapid.Bool().Draw(t, "confirmed") {
					s.SetPod(bound(p, d.Node))
				}
				pods[p.UID] = bound(p, d.Node)
				requested, allocatable := s.byName[d.Node].requested, s.byName[d.Node].allocatable
				if p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() > 0 && requested.milliCPU > allocatable.milliCPU {
					t.Fatalf("overcommitted: %+v of %+v", requested, allocatable)
				}
			},
			"remove pod": func(t *rapid.T) {
				if len(pods) == 0 {
					t.Skip()
				}
				uid := rapid.SampledFrom(slices.Sorted(maps.Keys(pods))).Draw(t, "pod")
				delete(pods, uid)
				s.RemovePod(uid)
			},
			"": func(t *rapid.T) {
				if s.Nodes() != len(nodes) {
					t.Fatalf("%d nodes, want %d", s.Nodes(), len(nodes))
				}
				for name, obj := range nodes {
					fresh := s.Recount(obj, func(yield func(*corev1.Pod) bool) {
						for _, p := range pods {
							if p.Spec.NodeName == name && !yield(p) {
								return
							}
						}
					})
					n := s.Node(name)
					if n.requested.milliCPU != fresh.requested.milliCPU || n.requested.pods != fresh.requested.pods ||
						n.usedMem != fresh.usedMem || len(n.ports) != len(fresh.ports) || !maps.Equal(n.owners, fresh.owners) {
						t.Fatalf("node %s: kept %+v, counted %+v", name, n, fresh)
					}
					for i := range n.ports {
						for j := range i {
							if n.ports[i].conflicts(n.ports[j]) {
								t.Fatalf("host port %v given twice", n.ports[i])
							}
						}
					}
				}
				for name, n := range s.byName {
					if nodes[name] == nil && n.requested.pods == 0 {
						t.Fatalf("node %s is gone and empty but kept", name)
					}
				}
			},
		})
	})
}
