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
	if other.Spec.Taints != nil || other.Status.Allocatable != nil || own.ResourceVersion == other.ResourceVersion {
		t.Errorf("%+v", other)
	}
	if want := (map[string]string{linkAnnotation: "198.51.100.0/24 mtu 1500"}); !maps.Equal(other.Annotations, want) {
		t.Errorf("annotations %v, want %v", other.Annotations, want)
	}
	before := own.ResourceVersion
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}}
	n.Status.Images, n.ResourceVersion = nil, "8"
	if peerOf(n, true).ResourceVersion != before {
		t.Error("told again for nothing")
	}
	n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2")}
	if peerOf(n, true).ResourceVersion == before {
		t.Error("a change is not told")
	}
	// The others announce addresses by it.
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"})
	if c := peerOf(n, false).Status.Conditions; len(c) != 1 || c[0] != (corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}) {
		t.Errorf("conditions told: %v", c)
	}
}
