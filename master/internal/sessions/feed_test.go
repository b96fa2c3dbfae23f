package sessions

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// What is kept encoded is bounded in bytes: a few hundred ConfigMaps of a megabyte must not be.
func TestEncodingsAreBounded(t *testing.T) {
	var e encodings
	big := &corev1.ConfigMap{Data: map[string]string{"k": strings.Repeat("x", 1<<20)}}
	for i := range 20 {
		big.Name, big.ResourceVersion = fmt.Sprint(i%10), fmt.Sprint(i)
		k := registry.Key{Resource: "configmaps", Namespace: "default", Name: big.Name}
		data, err := e.encode(k, big)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := e.encode(k, big); &again[0] != &data[0] {
			t.Fatal("encoded twice")
		}
		kept := 0
		for _, c := range e.cache {
			kept += len(c.data)
		}
		if kept > encodingBytes || kept != e.bytes {
			t.Fatalf("%d bytes kept, %d counted", kept, e.bytes)
		}
	}
}

func bytesOf(t *testing.T, n *corev1.Node) string {
	t.Helper()
	data, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A node must know of itself what it lets pods in by; the others need not hear it.
func TestPeerOf(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: "7", Labels: map[string]string{"disk": "ssd"}}}
	n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("1")}
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"img"}}}
	n.Annotations = map[string]string{linkAnnotation: "198.51.100.0/24 mtu 1500", "other": "x"}
	own, other := peerOf(n, true), peerOf(n, false)
	if len(own.Spec.Taints) != 1 || own.Status.Allocatable.Cpu().Value() != 1 || own.Labels["disk"] != "ssd" || own.Status.Images != nil {
		t.Errorf("%+v", own)
	}
	if other.Spec.Taints != nil || other.Status.Allocatable != nil || bytesOf(t, own) == bytesOf(t, other) {
		t.Errorf("%+v", other)
	}
	if want := (map[string]string{linkAnnotation: "198.51.100.0/24 mtu 1500"}); !maps.Equal(other.Annotations, want) {
		t.Errorf("annotations %v, want %v", other.Annotations, want)
	}
	before := bytesOf(t, own)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}}
	n.Status.Images, n.ResourceVersion = nil, "8"
	if bytesOf(t, peerOf(n, true)) != before {
		t.Error("told again for nothing")
	}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2")}
	if bytesOf(t, peerOf(n, true)) == before {
		t.Error("a change is not told")
	}
	// The others announce addresses by it.
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"})
	if c := peerOf(n, false).Status.Conditions; len(c) != 1 || c[0] != (corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}) {
		t.Errorf("conditions told: %v", c)
	}
}

// What a session remembers of a node stands for exactly one content, whatever order sessions see a Node's revisions in.
func TestPeersAreToldOnce(t *testing.T) {
	s := &Server{}
	one, other := newFeed(s, "one"), newFeed(s, "other")
	node := func(revision, label string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "peer", ResourceVersion: revision, Labels: map[string]string{"l": label}}}
	}
	key := registry.Key{Resource: "nodes", Name: "peer"}
	told := func(f *feed, n *corev1.Node) string {
		t.Helper()
		f.batch = nil
		f.tellNode(key, n)
		if len(f.batch) == 0 {
			return "nothing"
		}
		if c := f.batch[0]; c.Deleted {
			return "deleted"
		}
		var got corev1.Node
		if err := got.Unmarshal(f.batch[0].Object); err != nil {
			t.Fatal(err)
		}
		return got.Labels["l"]
	}
	for i, step := range []struct {
		f    *feed
		n    *corev1.Node
		want string
	}{
		{one, nil, "nothing"},
		{one, node("1", "a"), "a"},
		{one, node("2", "a"), "nothing"}, // a heartbeat
		{one, node("3", "b"), "b"},
		{other, node("2", "a"), "a"}, // which is behind
		{one, node("3", "b"), "b"},   // told once too often at the most
		{other, node("3", "b"), "b"},
		{one, node("3", "b"), "nothing"},
		{one, nil, "deleted"},
		{one, nil, "nothing"},
		{one, node("9", "b"), "b"},
		{other, node("9", "b"), "nothing"},
	} {
		if got := told(step.f, step.n); got != step.want {
			t.Errorf("step %d: told %s, wanted %s", i, got, step.want)
		}
	}
	itself := newFeed(s, "peer")
	if got := told(itself, node("9", "b")); got != "b" {
		t.Errorf("a node is told %s of itself", got)
	}
	if got := told(itself, node("10", "b")); got != "nothing" {
		t.Errorf("a node is told %s of itself again", got)
	}
}

// A heartbeat wakes the session of its own node only.
func TestHeartbeatsDoNotTravel(t *testing.T) {
	before := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "1"}}
	beat := before.DeepCopy()
	beat.ResourceVersion = "2"
	beat.Status.Images = []corev1.ContainerImage{{Names: []string{"img"}}}
	moved := beat.DeepCopy()
	moved.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
	for i, c := range []struct {
		e    registry.Event
		want bool
	}{
		{registry.Event{Object: beat, Prev: before}, false},
		{registry.Event{Object: moved, Prev: beat}, true},
		{registry.Event{Object: before}, true},
		{registry.Event{Object: beat, Prev: before, Deleted: true}, true},
	} {
		if got := concernsOthers(c.e); got != c.want {
			t.Errorf("case %d: %t", i, got)
		}
	}
}
