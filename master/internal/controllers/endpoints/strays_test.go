package endpoints

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// only is the one slice that there is.
func only(t *testing.T, e *ct.Env) *discoveryv1.EndpointSlice {
	t.Helper()
	synctest.Wait()
	list := ct.List[*discoveryv1.EndpointSlice](e, "default")
	if len(list) != 1 {
		t.Fatalf("%d slices, want one: %+v", len(list), list)
	}
	return list[0]
}

// TestSlicesOfAnEarlierService: what a Service that was deleted with --cascade=orphan left behind has its labels still, and
// who looks for endpoints goes by those. The pods that it lists are never looked at again.
func TestSlicesOfAnEarlierService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("web"))
		running(e, "a", "web", "10.244.0.2", true)
		old := only(t, e)
		e.Update(func(tx *registry.Tx) error { // as the collector does it, to a Service that is being deleted
			orphan := old.DeepCopy()
			orphan.OwnerReferences = nil
			if _, err := registry.Put(tx, orphan); err != nil {
				return err
			}
			return tx.Delete(ct.Get[*corev1.Service](e, "default", "web"), registry.DeleteOptions{})
		})
		if only(t, e).UID != old.UID {
			t.Error("the orphan has gone without a Service that needs it to")
		}
		svc := ct.Create(e, service("web"))
		if s := only(t, e); len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != svc.UID {
			t.Errorf("owners %v", s.OwnerReferences)
		}
		if got := seen(e, "web"); got != "10.244.0.2:8080" {
			t.Errorf("endpoints %q", got)
		}
	})
}

// TestSlicesWithoutOwner: as a backup brings them back, beside a Service that there is.
func TestSlicesWithoutOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("web"))
		running(e, "a", "web", "10.244.0.2", true)
		ct.Create(e, service("ext", func(s *corev1.Service) { s.Spec.Selector = nil }))
		ct.Create(e, service("bare", func(s *corev1.Service) { s.Spec.Selector = nil }))
		ct.Create(e, handWritten("ext", subset(3306, []string{"192.0.2.1"})))
		want := map[string]string{"web": "10.244.0.2:8080", "ext": "192.0.2.1:3306", "bare": ""}
		restored := func(service, manager string) *discoveryv1.EndpointSlice {
			s := ct.List[*discoveryv1.EndpointSlice](e, "default")[0].DeepCopy()
			s.ObjectMeta.Reset()
			s.Namespace, s.Name = "default", service+"-old"
			s.Labels = map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: manager}
			s.Endpoints[0].Addresses = []string{"10.244.9.9"}
			return s
		}
		synctest.Wait()
		for service, manager := range map[string]string{"web": fromSelector, "ext": fromMirror, "bare": fromMirror} {
			ct.Create(e, restored(service, manager))
			if got := seen(e, service); got != want[service] {
				t.Errorf("%s: endpoints %q, want %q", service, got, want[service])
			}
		}
		// Those of others are theirs.
		ct.Create(e, restored("web", "me"))
		if got := seen(e, "web"); got != "10.244.0.2:8080 10.244.9.9:3306" {
			t.Errorf("endpoints %q", got)
		}
	})
}

// TestEditedSlices are repaired at once, since every node believes them.
func TestEditedSlices(t *testing.T) {
	for _, test := range []struct {
		what string
		edit func(*discoveryv1.EndpointSlice)
	}{
		{"address", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = []string{"10.244.9.9"} }},
		{"port", func(s *discoveryv1.EndpointSlice) { n := int32(1); s.Ports[0].Port = &n }},
		{"ready", func(s *discoveryv1.EndpointSlice) { no := false; s.Endpoints[0].Conditions.Ready = &no }},
		{"emptied", func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil }},
		{"unlabelled", func(s *discoveryv1.EndpointSlice) { delete(s.Labels, discoveryv1.LabelServiceName) }},
		{"another's", func(s *discoveryv1.EndpointSlice) { s.Labels[discoveryv1.LabelServiceName] = "other" }},
		{"label", func(s *discoveryv1.EndpointSlice) { delete(s.Labels, "team") }},
		{"owner", func(s *discoveryv1.EndpointSlice) { s.OwnerReferences = nil }},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := start(t)
				svc := ct.Create(e, service("web"))
				running(e, "a", "web", "10.244.0.2", true)
				ct.Change(e, "default", only(t, e).Name, test.edit)
				s := only(t, e)
				if got := seen(e, "web"); got != "10.244.0.2:8080" || s.Labels["team"] != "a" || len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != svc.UID {
					t.Errorf("endpoints %q in %+v", got, s)
				}
				// The other Service, if there is one, has its own.
				ct.Create(e, service("other"))
				running(e, "b", "other", "10.244.0.3", true)
				synctest.Wait()
				ct.Change(e, "default", s.Name, test.edit)
				ct.Settle(time.Second) // two Services may have found each other's write in their way
				if a, b := seen(e, "web"), seen(e, "other"); a != "10.244.0.2:8080" || b != "10.244.0.3:8080" {
					t.Errorf("endpoints %q and %q", a, b)
				}
				if n := len(ct.List[*discoveryv1.EndpointSlice](e, "default")); n != 2 {
					t.Errorf("%d slices", n)
				}
			})
		})
	}
}

// TestOwnWritesAreNoNews: a change of thousands of Services is not looked at twice because their slices were written, and what
// others write meanwhile is seen.
func TestOwnWritesAreNoNews(t *testing.T) {
	e := ct.New(t)
	c := New(Config{Registry: e.Registry, Logger: e.Logger}) // not running: the turns are taken here
	w, err := e.Registry.ViewAndWatch([]string{"endpointslices.discovery.k8s.io"}, func(*registry.View) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	turn := func() {
		t.Helper()
		if _, err := c.reconcile(e.Ctx, keyOf("default", "web")); err != nil {
			t.Fatal(err)
		}
	}
	var last *discoveryv1.EndpointSlice
	want := func(what string, news ...bool) {
		t.Helper()
		events, err := w.Next(e.Ctx, 10)
		if err != nil || len(events) != len(news) {
			t.Fatalf("%s: %d events, %v", what, len(events), err)
		}
		for i, event := range events {
			last = event.Object.(*discoveryv1.EndpointSlice)
			queued := false
			_ = e.Registry.View(func(v *registry.View) error {
				c.keys(v, event, func(k registry.Key) { queued = queued || k.Name == "web" })
				return nil
			})
			if queued != news[i] {
				t.Errorf("%s: event %d queues the Service: %v, want %v", what, i, queued, news[i])
			}
		}
	}
	edit := func() {
		ct.Change(e, "default", last.Name, func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil })
	}
	ct.Create(e, service("web"))
	running(e, "a", "web", "10.244.0.2", true)
	turn()
	want("made", false)
	running(e, "b", "web", "10.244.0.3", true)
	turn()
	want("written", false)
	edit()
	want("edited", true)
	turn()
	want("repaired", false)
	edit()
	turn()
	want("edited and repaired before anybody heard of it", false, false)
	turn()
	edit()
	want("edited again", true)
	ct.Change(e, "default", last.Name, func(s *discoveryv1.EndpointSlice) { s.Annotations = map[string]string{"note": "mine"} })
	want("annotated", false)
	turn()
	want("repaired again", false)
	if n := len(c.written.revisions); n != 0 {
		t.Errorf("%d revisions are remembered for events that have come", n)
	}
	// A turn that fails leaves nothing behind.
	edit()
	want("edited once more", true)
	var stale *writes
	_ = e.Registry.View(func(v *registry.View) error {
		stale, err = look(v, keyOf("default", "web"))
		return err
	})
	stale.create = handWritten("web") // there are some already
	if err := c.write(e.Ctx, stale); err == nil {
		t.Fatal("Endpoints were made twice")
	}
	ct.Change(e, "default", last.Name, func(s *discoveryv1.EndpointSlice) { s.Ports = nil })
	want("edited with the revision that the failed turn had", true)
}
