package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// TestSlicesConverge: whatever pods come, go and change, the slices say exactly what the groups say, none is overfull, and
// a second look changes nothing.
func TestSlicesConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		h := ownHeader(svc)
		var have []*discoveryv1.EndpointSlice
		made := 0
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			var groups []*group
			want := map[string]bool{}
			for g := range rapid.IntRange(0, 2).Draw(t, "groups") {
				port, name, tcp := int32(80+g), "http", corev1.ProtocolTCP
				gr := &group{family: discoveryv1.AddressTypeIPv4, ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}}}
				first := rapid.IntRange(0, 150).Draw(t, "first")
				for i := range rapid.IntRange(1, 350).Draw(t, "count") {
					ip := fmt.Sprintf("10.244.%d.%d", g, first+i)
					gr.addresses = append(gr.addresses, address{ip: ip, ready: i%7 > 0, target: &corev1.ObjectReference{UID: types.UID(ip)}})
					want[fmt.Sprintf("%s:%d %v", ip, port, i%7 > 0)] = true
				}
				groups = append(groups, gr)
			}
			c := planSlices(h, groups, have, true)
			have = carryOut(have, c, &made)
			got := map[string]bool{}
			for _, s := range have {
				if len(s.Endpoints) > maxEndpoints {
					t.Fatalf("%d endpoints in a slice", len(s.Endpoints))
				}
				for _, e := range s.Endpoints {
					k := fmt.Sprintf("%s:%d %v", e.Addresses[0], *s.Ports[0].Port, *e.Conditions.Ready)
					if got[k] {
						t.Fatalf("%s twice", k)
					}
					got[k] = true
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d endpoints, want %d", len(got), len(want))
			}
			for k := range want {
				if !got[k] {
					t.Fatalf("%s missing", k)
				}
			}
			if len(want) == 0 && len(have) != 1 {
				t.Fatalf("%d slices for a Service without endpoints", len(have))
			}
			if again := planSlices(h, groups, have, true); !again.empty() {
				t.Fatalf("a second look changes %d, %d, %d slices", len(again.create), len(again.update), len(again.remove))
			}
		}
	})
}

// TestOnePodTouchesOneSlice: with 1,000 endpoints, a pod that changes or goes rewrites its slice only.
func TestOnePodTouchesOneSlice(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	h := ownHeader(svc)
	g := &group{family: discoveryv1.AddressTypeIPv4}
	for i := range 1000 {
		ip := fmt.Sprintf("10.244.%d.%d", i/250, i%250)
		g.addresses = append(g.addresses, address{ip: ip, ready: true, target: &corev1.ObjectReference{UID: types.UID(ip)}})
	}
	made := 0
	have := carryOut(nil, planSlices(h, []*group{g}, nil, true), &made)
	if len(have) != 10 {
		t.Fatalf("%d slices, want 10", len(have))
	}
	g.addresses[500].ready = false
	if c := planSlices(h, []*group{g}, have, true); len(c.update) != 1 || len(c.create)+len(c.remove) != 0 {
		t.Errorf("a change rewrites %d slices", len(c.update))
	}
	g.addresses[500].ready = true
	g.addresses = append(g.addresses[:300], g.addresses[301:]...)
	if c := planSlices(h, []*group{g}, have, true); len(c.update) != 1 || len(c.create)+len(c.remove) != 0 {
		t.Errorf("a loss rewrites %d slices", len(c.update))
	}
}

func carryOut(have []*discoveryv1.EndpointSlice, c changes, made *int) []*discoveryv1.EndpointSlice {
	gone := map[string]bool{}
	for _, s := range c.remove {
		gone[s.Name] = true
	}
	byName := map[string]*discoveryv1.EndpointSlice{}
	for _, s := range c.update {
		byName[s.Name] = s
	}
	var out []*discoveryv1.EndpointSlice
	for _, s := range have {
		if u := byName[s.Name]; u != nil {
			s = u
		}
		if !gone[s.Name] {
			out = append(out, s)
		}
	}
	for _, s := range c.create {
		*made++
		s.Name = fmt.Sprintf("web-%04d", *made)
		out = append(out, s)
	}
	return out
}
