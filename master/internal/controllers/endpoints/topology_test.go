package endpoints

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
)

func inZones(numbers map[string]int) (out []*address) {
	for _, zone := range slices.Sorted(maps.Keys(numbers)) {
		for range numbers[zone] {
			out = append(out, &address{ready: true, zone: zone})
		}
	}
	return out
}

func served(addresses []*address) map[string]int {
	out := map[string]int{}
	for _, a := range addresses {
		if a.hints != nil {
			out[a.hints.ForZones[0].Name]++
		}
	}
	return out
}

// The cases are those of the enhancement proposal (KEP-2433) and of Kubernetes' tests.
func TestSpread(t *testing.T) {
	three := map[string]int64{"a": 4000, "b": 4000, "c": 4000}
	for _, test := range []struct {
		name    string
		zones   map[string]int64
		have    map[string]int
		want    map[string]int
		problem string
	}{
		{"even", three, map[string]int{"a": 2, "b": 2, "c": 2}, map[string]int{"a": 2, "b": 2, "c": 2}, ""},
		{"one too many is nothing", three, map[string]int{"a": 3, "b": 2, "c": 2}, map[string]int{"a": 3, "b": 2, "c": 2}, ""},
		{"all in one", three, map[string]int{"a": 6}, map[string]int{"a": 2, "b": 2, "c": 2}, ""},
		{"unequal zones", map[string]int64{"a": 1000, "b": 3000}, map[string]int{"a": 4, "b": 4}, map[string]int{"a": 2, "b": 6}, ""},
		{"few", three, map[string]int{"a": 2}, nil, "Insufficient number of endpoints (2 endpoints, 3 zones)"},
		{"none", three, nil, nil, "Insufficient number of endpoints (0 endpoints, 3 zones)"},
		{"too few to be fair", map[string]int64{"a": 1000, "b": 1000, "c": 1000}, map[string]int{"a": 4}, nil, "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (4 endpoints, 3 zones)"},
		{"one zone", map[string]int64{"a": 1000}, map[string]int{"a": 4}, nil, "Insufficient Node information"},
		{"zones not known", nil, map[string]int{"a": 4}, nil, "Insufficient Node information"},
		{"an endpoint nowhere", three, map[string]int{"a": 3, "": 3}, nil, "One or more endpoints do not have a zone specified"},
	} {
		addresses := inZones(test.have)
		problem := spread(addresses, test.zones)
		if !strings.HasPrefix(problem, test.problem) || (problem == "") != (test.problem == "") {
			t.Errorf("%s: %q", test.name, problem)
		}
		if got := served(addresses); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// TestSpreadIsFair: whatever there is where, either nobody has a hint, or no endpoint gets more than a fifth above its share,
// and twice the same gives the same.
func TestSpreadIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones, have := map[string]int64{}, map[string]int{}
		for i := range rapid.IntRange(1, 5).Draw(t, "zones") {
			zone := fmt.Sprint("z", i)
			zones[zone] = int64(rapid.IntRange(1, 16).Draw(t, "processors")) * 1000
			have[zone] = rapid.IntRange(0, 30).Draw(t, "endpoints")
		}
		have["gone"] = rapid.IntRange(0, 3).Draw(t, "of a zone without nodes")
		addresses := inZones(have)
		problem := spread(addresses, zones)
		got := served(addresses)
		if problem != "" {
			if len(got) > 0 {
				t.Fatalf("%s, but %v", problem, got)
			}
			return
		}
		var total int64
		for _, milli := range zones {
			total += milli
		}
		for zone, milli := range zones {
			if load := float64(milli) / float64(total) * float64(len(addresses)) / float64(got[zone]); load > 1+overload+1e-9 {
				t.Fatalf("endpoints for %s get %.2f of their share: have %v, serve %v, processors %v", zone, load, have, got, zones)
			}
		}
		again := inZones(have)
		spread(again, zones)
		for i := range again {
			if again[i].hints.ForZones[0] != addresses[i].hints.ForZones[0] {
				t.Fatal("another result")
			}
		}
	})
}

func TestTopologyAware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		for name, zone := range map[string]string{"node1": "tokyo", "node2": "osaka"} {
			ct.Node(e, name)
			ct.Change(e, "", name, func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelTopologyZone: zone} })
		}
		ct.Create(e, service("web", func(s *corev1.Service) { s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"} }))
		zones := func() map[string]int {
			synctest.Wait()
			out := map[string]int{}
			for _, ep := range ct.List[*discoveryv1.EndpointSlice](e, "default")[0].Endpoints {
				if ep.Hints != nil {
					out[ep.Hints.ForZones[0].Name]++
				}
			}
			return out
		}
		want := func(what string, want map[string]int) {
			t.Helper()
			if got := zones(); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		for i := range 4 {
			running(e, fmt.Sprint("p", i), "web", fmt.Sprint("10.244.0.", i+2), true) // all on node1
		}
		want("half each", map[string]int{"tokyo": 2, "osaka": 2})
		ct.ChangeStatus(e, "", "node1", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("12") })
		want("three quarters", map[string]int{"tokyo": 3, "osaka": 1})
		ct.Change(e, "", "node2", func(n *corev1.Node) { n.Labels = nil })
		want("a node in no zone", map[string]int{})
		events := ct.Events(e, "web")
		for _, want := range []string{"TopologyAwareHintsEnabled: Topology Aware Hints has been enabled, addressType: IPv4", "TopologyAwareHintsDisabled: Insufficient Node information"} {
			if !slices.ContainsFunc(events, func(s string) bool { return strings.HasPrefix(s, want) }) {
				t.Errorf("%q, want %q", events, want)
			}
		}
	})
}
