package endpoints

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// seen are the endpoints of a Service's slices, as "address:port", with "!" behind those that are not ready.
func seen(e *ct.Env, service string) string {
	synctest.Wait()
	var out []string
	for _, s := range ct.List[*discoveryv1.EndpointSlice](e, "default") {
		if s.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, ep := range s.Endpoints {
			text := ep.Addresses[0]
			for _, p := range s.Ports {
				text += fmt.Sprintf(":%d", *p.Port)
			}
			if !*ep.Conditions.Ready {
				text += "!"
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func subset(port int32, ready []string, others ...string) corev1.EndpointSubset {
	s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "http", Port: port, Protocol: "TCP"}}}
	for _, ip := range ready {
		s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: ip})
	}
	for _, ip := range others {
		s.NotReadyAddresses = append(s.NotReadyAddresses, corev1.EndpointAddress{IP: ip})
	}
	return s
}

func handWritten(name string, subsets ...corev1.EndpointSubset) *corev1.Endpoints {
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{"db": "old"},
			Annotations: map[string]string{"note": "by hand", corev1.LastAppliedConfigAnnotation: "{}", corev1.EndpointsLastChangeTriggerTime: "2026"},
		},
		Subsets: subsets,
	}
}

func TestHandWrittenEndpointsAreMirrored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		want := func(what, text string) {
			t.Helper()
			if got := seen(e, "ext"); got != text {
				t.Errorf("%s: %q, want %q", what, got, text)
			}
		}
		ct.Create(e, service("ext", func(s *corev1.Service) { s.Spec.Selector = nil }))
		ep := ct.Create(e, handWritten("ext", subset(3306, []string{"192.0.2.1", "192.000.002.002"}, "192.0.2.3"), subset(3307, []string{"192.0.2.1", "2001:db8::1"})))
		want("two ports", "192.0.2.1:3306 192.0.2.1:3307 192.0.2.2:3306 192.0.2.3:3306! 2001:db8::1:3307")
		for _, s := range ct.List[*discoveryv1.EndpointSlice](e, "default") {
			if s.Labels[discoveryv1.LabelManagedBy] != fromMirror || s.Labels["db"] != "old" || s.Labels["team"] != "" ||
				len(s.Annotations) != 1 || s.Annotations["note"] != "by hand" ||
				len(s.OwnerReferences) != 1 || s.OwnerReferences[0].Kind != "Endpoints" || s.OwnerReferences[0].UID != ep.UID || !*s.OwnerReferences[0].Controller {
				t.Errorf("%+v", s.ObjectMeta)
			}
			if c := s.Endpoints[0].Conditions; c.Serving != nil || c.Terminating != nil {
				t.Errorf("%+v", c)
			}
		}
		ct.Change(e, "default", "ext", func(ep *corev1.Endpoints) {
			ep.Subsets = []corev1.EndpointSubset{subset(3306, []string{"192.0.2.9"})}
			ep.Annotations["note"] = "changed"
		})
		want("changed", "192.0.2.9:3306")
		if list := ct.List[*discoveryv1.EndpointSlice](e, "default"); len(list) != 1 || list[0].Annotations["note"] != "changed" {
			t.Errorf("%d slices, %v", len(list), list[0].Annotations)
		}
		ct.Change(e, "default", "ext", func(ep *corev1.Endpoints) { ep.Labels[discoveryv1.LabelSkipMirror] = "true" })
		want("not to be mirrored", "")
		ct.Change(e, "default", "ext", func(ep *corev1.Endpoints) { delete(ep.Labels, discoveryv1.LabelSkipMirror) })
		want("again", "192.0.2.9:3306")
		// Taken away from this controller, a slice is another's, and what it said is said anew.
		ct.Change(e, "default", ct.List[*discoveryv1.EndpointSlice](e, "default")[0].Name, func(s *discoveryv1.EndpointSlice) {
			s.Labels[discoveryv1.LabelManagedBy] = "me"
			s.OwnerReferences = nil
		})
		want("twice", "192.0.2.9:3306 192.0.2.9:3306")
		ct.Delete[*corev1.Endpoints](e, "default", "ext", registry.DeleteOptions{})
		want("without Endpoints", "192.0.2.9:3306")
		synctest.Wait()
		if list := ct.List[*discoveryv1.EndpointSlice](e, "default"); len(list) != 1 || list[0].Labels[discoveryv1.LabelManagedBy] != "me" {
			t.Errorf("%d slices outlive the Endpoints they mirror", len(list))
		}
	})
}

// TestSelectorComesAndGoes: there is one set of slices at any time, whoever made them.
func TestSelectorComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		want := func(text string) {
			t.Helper()
			if got := seen(e, "web"); got != text {
				t.Errorf("%q, want %q", got, text)
			}
		}
		ct.Create(e, service("web"))
		running(e, "a", "web", "10.244.0.2", true)
		want("10.244.0.2:8080")
		ct.Change(e, "default", "web", func(s *corev1.Service) { s.Spec.Selector = nil })
		want("10.244.0.2:8080") // the Endpoints stay as they are, now for the user to write
		ct.Change(e, "default", "web", func(ep *corev1.Endpoints) { ep.Subsets = []corev1.EndpointSubset{subset(1, []string{"192.0.2.1"})} })
		want("192.0.2.1:1")
		ct.Change(e, "default", "web", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
		want("10.244.0.2:8080")
		for _, s := range ct.List[*discoveryv1.EndpointSlice](e, "default") {
			if s.Labels[discoveryv1.LabelManagedBy] != fromSelector || s.OwnerReferences[0].Kind != "Service" {
				t.Errorf("%+v", s.ObjectMeta)
			}
		}
	})
}

func TestTooManyToMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		var many []string
		for i := range 1003 {
			many = append(many, fmt.Sprintf("192.0.%d.%d", i/250, i%250))
		}
		ct.Create(e, service("ext", func(s *corev1.Service) { s.Spec.Selector = nil }))
		ct.Create(e, handWritten("ext", subset(80, many, "192.0.9.1"), subset(81, many[:5], "no address")))
		if n := strings.Count(seen(e, "ext"), ":80"); n != 1000 {
			t.Errorf("%d of the first subset", n)
		}
		if n := strings.Count(seen(e, "ext"), ":81"); n != 5 {
			t.Errorf("%d of the second subset", n)
		}
		for _, s := range ct.List[*discoveryv1.EndpointSlice](e, "default") {
			if len(s.Endpoints) > maxEndpoints {
				t.Errorf("%d endpoints in a slice", len(s.Endpoints))
			}
		}
		events := ct.Events(e, "ext")
		for _, want := range []string{
			"InvalidIPAddress: Skipped 1 invalid IP addresses when mirroring to EndpointSlices",
			"TooManyAddressesToMirror: A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 5 addresses were skipped",
		} {
			if !slices.Contains(events, want) {
				t.Errorf("%q, want %q", events, want)
			}
		}
	})
}
