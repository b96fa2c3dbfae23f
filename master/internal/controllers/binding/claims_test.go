package binding

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// A pod waits for its claim to be there, and to be bound.
func TestClaimIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		p := ct.Pod("db", nil)
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		ct.Create(e, p)
		says := func(want string) {
			t.Helper()
			ct.Settle(time.Minute)
			p := ct.Get[*corev1.Pod](e, "default", "db")
			c := podstate.Condition(p, corev1.PodScheduled)
			if p.Spec.NodeName != "" || c == nil || c.Reason != "Unschedulable" || c.Message != want {
				t.Errorf("node %q, condition %+v, want %s", p.Spec.NodeName, c, want)
			}
		}
		nowhere := " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
		says(`0/1 nodes are available: persistentvolumeclaim "data" not found.` + nowhere)
		size := corev1.ResourceList{"storage": resource.MustParse("1Gi")}
		modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: size}}})
		says("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims." + nowhere)
		ct.Create(e, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt"}}}})
		ct.Change(e, "default", "data", func(claim *corev1.PersistentVolumeClaim) {
			claim.Spec.VolumeName = "disk"
			claim.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
		})
		ct.Settle(time.Minute)
		if p := ct.Get[*corev1.Pod](e, "default", "db"); p.Spec.NodeName != "node1" {
			t.Errorf("bound, and still %+v", p.Status)
		}
	})
}

// A claim that waits for its first consumer learns the node that was chosen; the pod keeps its place there, and comes to it
// when the claim has its volume.
func TestNodeIsSelectedForClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		late := storagev1.VolumeBindingWaitForFirstConsumer
		ct.Create(e, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, VolumeBindingMode: &late, Provisioner: "example.com/disk"})
		class := "late"
		ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}})
		p := ct.Pod("db", nil)
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}
		ct.Create(e, p)
		ct.Settle(time.Second)
		claim := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data")
		if got := claim.Annotations[selectedNode]; got != "node1" {
			t.Fatalf("selected: %q", got)
		}
		rival := ct.Pod("rival", nil)
		rival.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Requests
		ct.Create(e, rival)
		ct.Settle(time.Minute)
		for _, name := range []string{"db", "rival"} {
			if p := ct.Get[*corev1.Pod](e, "default", name); p.Spec.NodeName != "" {
				t.Errorf("%s is on %s", name, p.Spec.NodeName)
			}
		}
		ct.Create(e, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
			Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt"}}}})
		ct.Change(e, "default", "data", func(claim *corev1.PersistentVolumeClaim) {
			claim.Spec.VolumeName = "disk"
			claim.Annotations["pv.kubernetes.io/bind-completed"] = "yes"
		})
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "db"); p.Spec.NodeName != "node1" {
			t.Errorf("bound, and still %+v", p.Status)
		}
	})
}

// exclusive makes a class that waits for consumers, whose volumes somebody else makes, and a claim of it for one pod only.
func exclusive(e *ct.Env) *corev1.PersistentVolumeClaim {
	late, class := storagev1.VolumeBindingWaitForFirstConsumer, "late"
	ct.Create(e, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, VolumeBindingMode: &late, Provisioner: "example.com/disk"})
	return ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}})
}

// provide is what a provisioner does for the claim of exclusive.
func provide(e *ct.Env, claim *corev1.PersistentVolumeClaim) {
	ct.Create(e, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/mnt"}}}})
	ct.Change(e, "default", "data", func(claim *corev1.PersistentVolumeClaim) {
		claim.Spec.VolumeName = "disk"
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, "pv.kubernetes.io/bind-completed", "yes")
	})
}

func using(name, claim string) *corev1.Pod {
	p := ct.Pod(name, nil)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return p
}

// A claim that is ReadWriteOncePod has one pod at a time, from the moment on at which its volume is being made; the next pod
// comes when that one has gone.
func TestReadWriteOncePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		ct.Node(e, "node2")
		claim := exclusive(e)
		ct.Create(e, using("first", "data"))
		ct.Create(e, using("second", "data"))
		ct.Settle(time.Second)
		chosen := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data")
		selected := chosen.Annotations[selectedNode]
		ct.Settle(time.Minute)
		if now := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data"); now.ResourceVersion != chosen.ResourceVersion || selected == "" {
			t.Fatalf("selected %q, then %q", selected, now.Annotations[selectedNode])
		}
		provide(e, claim)
		on := func(name string) string {
			ct.Settle(20 * time.Second)
			return ct.Get[*corev1.Pod](e, "default", name).Spec.NodeName
		}
		if first, second := on("first"), on("second"); first != selected || second != "" {
			t.Fatalf("first on %q, second on %q", first, second)
		}
		c := podstate.Condition(ct.Get[*corev1.Pod](e, "default", "second"), corev1.PodScheduled)
		if c == nil || !strings.HasPrefix(c.Message, "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod.") {
			t.Errorf("second: %+v", c)
		}
		end(e, "first")
		if on("second") == "" {
			t.Error("the claim is free, and its next pod waits")
		}
	})
}

// Another pod with the claim has been bound, and the watch has not told yet.
func TestReadWriteOncePodAtCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		c := New(Config{Registry: e.Registry, Logger: e.Logger})
		ct.Node(e, "node1")
		provide(e, exclusive(e))
		ct.Create(e, using("second", "data"))
		if err := e.Registry.View(func(v *registry.View) error { c.reset(v); return nil }); err != nil {
			t.Fatal(err)
		}
		first := using("first", "data")
		first.Spec.NodeName = "node1"
		ct.Create(e, first)
		c.scheduleBatch(e.Ctx)
		if p := ct.Get[*corev1.Pod](e, "default", "second"); p.Spec.NodeName != "" {
			t.Error("two pods have the claim")
		}
	})
}
