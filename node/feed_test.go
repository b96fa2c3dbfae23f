package node

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/dns"
	"github.com/whalepod/whalepod/node/desired"
)

// told is what a feed has given, in this order; on is called first.
type told struct {
	list []string
	on   func(what string)
}

func (o *told) say(what string) {
	if o.on != nil {
		o.on(what)
	}
	o.list = append(o.list, what)
}
func (o *told) SetService(s *corev1.Service)          { o.say("service " + s.Name) }
func (o *told) DeleteService(_, name string)          { o.say("no service " + name) }
func (o *told) SetSlice(s *discoveryv1.EndpointSlice) { o.say("slice " + s.Name) }
func (o *told) DeleteSlice(_, name string)            { o.say("no slice " + name) }
func (o *told) Synced()                               { o.say("synced") }

func applied(t *testing.T, state *desired.State, names ...string) {
	t.Helper()
	for _, name := range names {
		meta := metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}
		if err := state.Apply([]desired.Change{
			{Resource: desired.Services, Key: "default/" + name, Object: &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "10.254.0.9"}}},
			{Resource: desired.EndpointSlices, Key: "default/" + name, Object: &discoveryv1.EndpointSlice{ObjectMeta: meta}},
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// That everything has been given is said after everything, though the snapshot may end while its beginning is given; and a
// restarted agent knows at once what is on its disk.
func TestServicesAreWholeBeforeTheyCount(t *testing.T) {
	dir := t.TempDir()
	state, err := desired.Open(desired.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	o := &told{}
	var marks []uint64
	f := newServiceFeed(state, func(m uint64) { marks = append(marks, m) }, o)
	state.Begin()
	applied(t, state, "a")
	o.on = func(what string) {
		if what == "service a" {
			applied(t, state, "b")
			if err := state.Complete(7); err != nil {
				t.Fatal(err)
			}
			state.Mark(3)
		}
	}
	f.turn()
	if slices.Contains(o.list, "synced") || !slices.Equal(marks, []uint64{0}) {
		t.Errorf("told %q, marks %d, before all of it was", o.list, marks)
	}
	f.turn()
	f.turn()
	given := slices.Sorted(slices.Values(o.list))
	if want := []string{"service a", "service b", "slice a", "slice b", "synced"}; !slices.Equal(given, want) || o.list[4] != "synced" || !slices.Equal(marks, []uint64{0, 3, 3}) {
		t.Errorf("told %q, marks %d", o.list, marks)
	}
	if err := state.Apply([]desired.Change{{Resource: desired.Services, Key: "default/a"}, {Resource: desired.EndpointSlices, Key: "default/a"}}); err != nil {
		t.Fatal(err)
	}
	o.list = nil
	f.turn()
	if slices.Sort(o.list); !slices.Equal(o.list, []string{"no service a", "no slice a"}) {
		t.Errorf("told %q", o.list)
	}
	if err := state.Close(); err != nil {
		t.Fatal(err)
	}
	if state, err = desired.Open(desired.Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	zone := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", ServerIP: netip.MustParseAddr("10.254.254.1")})
	newServiceFeed(state, nil, zone)
	if r := zone.Snapshot().Lookup("b.default.svc.cluster.local.", 1); r.Rcode != 0 || len(r.Answer) != 1 {
		t.Errorf("after a restart: %+v", r)
	}
}
