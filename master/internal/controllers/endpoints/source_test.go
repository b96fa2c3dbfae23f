package endpoints

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
)

func TestHints(t *testing.T) {
	zone := []discoveryv1.ForZone{{Name: "tokyo"}}
	node := []discoveryv1.ForNode{{Name: "node1"}}
	all := address{ready: true, node: "node1", zone: "tokyo"}
	for _, test := range []struct {
		name, distribution, annotation string
		address                        address
		want                           *discoveryv1.EndpointHints
	}{
		{"nothing asked", "", "", all, nil},
		{"close", "PreferClose", "", all, &discoveryv1.EndpointHints{ForZones: zone}},
		{"same zone", "PreferSameZone", "", all, &discoveryv1.EndpointHints{ForZones: zone}},
		{"same node", "PreferSameNode", "", all, &discoveryv1.EndpointHints{ForZones: zone, ForNodes: node}},
		{"same node, no zone", "PreferSameNode", "", address{ready: true, node: "node1"}, &discoveryv1.EndpointHints{ForNodes: node}},
		{"same zone, no zone", "PreferSameZone", "", address{ready: true, node: "node1"}, nil},
		{"not ready", "PreferSameNode", "", address{node: "node1", zone: "tokyo"}, nil},
		{"not known", "example.com/far", "", all, nil},
		{"topology-aware", "PreferSameZone", "Auto", all, nil},
		{"topology-aware, but off", "PreferSameZone", "Disabled", all, &discoveryv1.EndpointHints{ForZones: zone}},
	} {
		svc := &corev1.Service{}
		if test.distribution != "" {
			svc.Spec.TrafficDistribution = &test.distribution
		}
		if test.annotation != "" {
			svc.Annotations = map[string]string{corev1.AnnotationTopologyMode: test.annotation}
		}
		if diff := cmp.Diff(test.want, hints(svc, &test.address)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// TestZonesFollowNodes: what endpoints say of their zones changes with the node's label.
func TestZonesFollowNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		near := corev1.ServiceTrafficDistributionPreferSameZone
		ct.Create(e, service("web", func(s *corev1.Service) { s.Spec.TrafficDistribution = &near }))
		running(e, "a", "web", "10.244.0.2", true)
		for _, zone := range []string{"", "tokyo", "osaka"} {
			if zone != "" {
				ct.Change(e, "", "node1", func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelTopologyZone: zone} })
			}
			synctest.Wait()
			got := ct.List[*discoveryv1.EndpointSlice](e, "default")[0].Endpoints[0]
			if value(got.Zone) != zone || (got.Hints != nil) != (zone != "") || zone != "" && got.Hints.ForZones[0].Name != zone {
				t.Errorf("zone %q: %+v", zone, got)
			}
		}
		ct.Change(e, "default", "web", func(s *corev1.Service) { s.Spec.TrafficDistribution = nil })
		synctest.Wait()
		if got := ct.List[*discoveryv1.EndpointSlice](e, "default")[0].Endpoints[0]; got.Hints != nil {
			t.Errorf("%+v", got.Hints)
		}
	})
}

// TestReadyOnesComeFirst: an Endpoints object that cannot hold all keeps ready ones, of whatever ports, before others.
func TestReadyOnesComeFirst(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	var groups []*group
	for port, ready := range map[int32]int{80: 400, 81: 500} {
		tcp, name := corev1.ProtocolTCP, ""
		g := &group{family: discoveryv1.AddressTypeIPv4, ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}}}
		for i := range 700 {
			g.addresses = append(g.addresses, address{ip: fmt.Sprintf("10.%d.%d.%d", port, i/250, i%250), ready: i < ready})
		}
		groups = append(groups, g)
	}
	list, cut := subsets(svc, groups)
	ready, others := 0, 0
	for _, s := range list {
		ready, others = ready+len(s.Addresses), others+len(s.NotReadyAddresses)
	}
	if !cut || ready != 900 || others != 100 {
		t.Errorf("%d ready and %d others, cut %v", ready, others, cut)
	}
	groups[0].addresses, groups[1].addresses = groups[0].addresses[:500], groups[1].addresses[:500]
	if _, cut := subsets(svc, groups); cut {
		t.Error("1,000 addresses are not too many")
	}
}
