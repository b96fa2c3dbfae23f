package persistentvolume

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// disks are the nodes' directories.
type disks struct {
	mu      sync.Mutex
	removed []string
	err     error
}

func (d *disks) RemoveVolume(_ context.Context, node, dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	d.removed = append(d.removed, node+":"+dir)
	return nil
}

func (d *disks) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func start(t *testing.T) (*ct.Env, *disks) {
	e, d := ct.New(t), &disks{}
	ct.Create(e, DefaultClass())
	node := ct.Node(e, "n1")
	ct.Change(e, "", node.Name, func(n *corev1.Node) {
		n.Labels = map[string]string{corev1.LabelHostname: "n1"}
		n.Annotations = map[string]string{NodeDir: "/data/volumes"}
	})
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger, Remover: d}).Run)
	return e, d
}

func claim(name, class, size string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	if modes == nil {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
	return c
}

func volume(name, class, size string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	if modes == nil {
		modes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: modes, StorageClassName: class,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/" + name}},
		},
	}
}

func state(e *ct.Env, name string) string {
	c := ct.Get[*corev1.PersistentVolumeClaim](e, "default", name)
	return strings.TrimSpace(string(c.Status.Phase) + " " + c.Spec.VolumeName)
}

func phase(e *ct.Env, name string) corev1.PersistentVolumePhase {
	return ct.Get[*corev1.PersistentVolume](e, "", name).Status.Phase
}

func TestBindsToTheSmallestThatWillDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, volume("small", "", "1Gi"))
		ct.Create(e, volume("large", "", "50Gi"))
		ct.Create(e, volume("right", "", "10Gi"))
		ct.Create(e, volume("shared", "", "8Gi", corev1.ReadWriteMany))
		ct.Create(e, volume("classy", "gold", "5Gi"))
		ct.Settle(time.Second)
		ct.Create(e, claim("data", "", "5Gi"))
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Bound right" {
			t.Fatal("claim:", got)
		}
		v := ct.Get[*corev1.PersistentVolume](e, "", "right")
		c := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data")
		if v.Status.Phase != corev1.VolumeBound || v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID {
			t.Error("volume:", v.Status.Phase, v.Spec.ClaimRef)
		}
		if size := c.Status.Capacity[corev1.ResourceStorage]; size.String() != "10Gi" {
			t.Error("capacity:", size.String())
		}
		if got := phase(e, "small"); got != corev1.VolumeAvailable {
			t.Error("a free volume is", got)
		}
	})
}

// A volume that comes later serves a claim that waits, and one that was promised to a claim is nobody else's.
func TestWaitsForItsVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, claim("data", "", "5Gi"))
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Pending" {
			t.Fatal("without a volume:", got)
		}
		if got := ct.Events(e, "data"); !slices.Contains(got, "FailedBinding: no persistent volumes available for this claim and no storage class is set") {
			t.Error("events:", got)
		}
		promised := volume("promised", "", "5Gi")
		promised.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: "default", Name: "other"}
		ct.Create(e, promised)
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Pending" {
			t.Fatal("it took somebody else's:", got)
		}
		ct.Create(e, volume("free", "", "6Gi"))
		ct.Create(e, claim("other", "", "1Gi"))
		ct.Settle(time.Second)
		if a, b := state(e, "data"), state(e, "other"); a != "Bound free" || b != "Bound promised" {
			t.Error(a, "/", b)
		}
	})
}

func TestAsksForOneVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		c := claim("data", "", "5Gi")
		c.Spec.VolumeName = "mine"
		ct.Create(e, c)
		ct.Create(e, volume("tiny", "", "5Gi"))
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Pending mine" {
			t.Fatal(got)
		}
		ct.Create(e, volume("mine", "", "1Gi"))
		if got := ct.Events(e, "data"); !strings.Contains(strings.Join(got, "\n"), `VolumeMismatch: Cannot bind to requested volume "mine": requested PV is too small`) {
			t.Error("events:", got)
		}
		ct.Change(e, "", "mine", func(v *corev1.PersistentVolume) {
			v.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("7Gi")
		})
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Bound mine" {
			t.Error(got)
		}
	})
}

// The life of a volume that is made for a claim: on the node that was selected, kept while a pod uses it, and gone with its
// data when nobody claims it.
func TestLocalVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, d := start(t)
		made := claim("data", "local", "5Gi")
		made.Spec.StorageClassName = nil // the default class
		ct.Create(e, made)
		if got := ct.Events(e, "data"); !slices.Contains(got, "WaitForFirstConsumer: waiting for first consumer to be created before binding") {
			t.Error("events:", got)
		}
		ct.Change(e, "default", "data", func(c *corev1.PersistentVolumeClaim) {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, annSelectedNode, "n1")
		})
		ct.Settle(time.Second)
		c := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data")
		if c.Status.Phase != corev1.ClaimBound {
			t.Fatal(c.Status.Phase, ct.Events(e, "data"))
		}
		name := "pvc-" + string(c.UID)
		v := ct.Get[*corev1.PersistentVolume](e, "", name)
		if v.Spec.Local == nil || v.Spec.Local.Path != "/data/volumes/"+name+"_default_data" {
			t.Error("where:", v.Spec.Local)
		}
		if got := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values; !slices.Equal(got, []string{"n1"}) {
			t.Error("reached from:", got)
		}

		pod := ct.Pod("db", nil)
		pod.Spec.NodeName = "n1"
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		ct.Create(e, pod)
		ct.Delete[*corev1.PersistentVolumeClaim](e, "default", "data", registry.DeleteOptions{})
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Bound "+name {
			t.Fatal("a claim in use:", got)
		}
		d.set(errors.New("the node is away"))
		now := int64(0)
		ct.Delete[*corev1.Pod](e, "default", "db", registry.DeleteOptions{GracePeriodSeconds: &now})
		ct.Settle(time.Second)
		if _, err := ct.Find[*corev1.PersistentVolumeClaim](e, "default", "data"); err == nil {
			t.Error("the claim stayed")
		}
		if got := phase(e, name); got != corev1.VolumeReleased {
			t.Error("while its data cannot be deleted it is", got)
		}
		d.set(nil)
		ct.Settle(2 * time.Minute)
		if _, err := ct.Find[*corev1.PersistentVolume](e, "", name); err == nil {
			t.Error("the volume stayed")
		}
		if want := []string{"n1:" + name + "_default_data"}; !slices.Equal(d.removed, want) {
			t.Error("removed:", d.removed)
		}
	})
}

func TestLocalVolumeCannotBeHad(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		event  string
	}{
		"many writers": {
			func(c *corev1.PersistentVolumeClaim) {
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
			},
			"ReadWriteMany cannot be had",
		},
		"a node that is not there": {
			func(c *corev1.PersistentVolumeClaim) { c.Annotations[annSelectedNode] = "n9" }, `node "n9", which was selected for the volume, is gone`,
		},
		"a block device": {
			func(c *corev1.PersistentVolumeClaim) {
				block := corev1.PersistentVolumeBlock
				c.Spec.VolumeMode = &block
			},
			"volumeMode Block cannot be had",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := start(t)
				c := claim("data", "local", "1Gi")
				c.Annotations = map[string]string{annSelectedNode: "n1"}
				tt.change(c)
				ct.Create(e, c)
				events := strings.Join(ct.Events(e, "data"), "\n")
				if got := state(e, "data"); got != "Pending" || !strings.Contains(events, tt.event) {
					t.Error(got, events)
				}
			})
		})
	}
}

func TestRetainedVolumeIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, d := start(t)
		ct.Create(e, volume("v", "", "1Gi"))
		ct.Settle(time.Second)
		ct.Create(e, claim("data", "", "1Gi"))
		ct.Settle(time.Second)
		ct.Delete[*corev1.PersistentVolume](e, "", "v", registry.DeleteOptions{})
		ct.Settle(time.Second)
		if got := phase(e, "v"); got != corev1.VolumeBound {
			t.Fatal("a bound volume that was deleted:", got)
		}
		ct.Delete[*corev1.PersistentVolumeClaim](e, "default", "data", registry.DeleteOptions{})
		ct.Settle(time.Second)
		if _, err := ct.Find[*corev1.PersistentVolume](e, "", "v"); err == nil {
			t.Error("it stayed when nobody claimed it")
		}
		ct.Create(e, volume("w", "", "1Gi"))
		ct.Create(e, claim("data", "", "1Gi"))
		ct.Settle(time.Second)
		ct.Delete[*corev1.PersistentVolumeClaim](e, "default", "data", registry.DeleteOptions{})
		ct.Settle(time.Second)
		if got := phase(e, "w"); got != corev1.VolumeReleased || len(d.removed) > 0 {
			t.Error(got, d.removed)
		}
	})
}

func TestLostClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, volume("v", "", "1Gi"))
		ct.Create(e, claim("data", "", "1Gi"))
		ct.Settle(time.Second)
		ct.Delete[*corev1.PersistentVolume](e, "", "v", registry.DeleteOptions{})
		ct.Change(e, "", "v", func(v *corev1.PersistentVolume) { v.Finalizers = nil }) // somebody forces it
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Lost v" {
			t.Error(got)
		}
	})
}

func TestEphemeralVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		pod := ct.Pod("p", nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claim("", "local", "1Gi").Spec},
		}}}}
		made := ct.Create(e, pod)
		ct.Settle(time.Second)
		c := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "p-scratch")
		if !metav1.IsControlledBy(c, made) {
			t.Error("its owners:", c.OwnerReferences)
		}
	})
}

// Only what is bound, and of a class that allows it, grows.
func TestClaimGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		c := claim("data", "local", "1Gi")
		c.Annotations = map[string]string{annSelectedNode: "n1"}
		ct.Create(e, c)
		ct.Settle(time.Second)
		grow := func() error {
			return e.Registry.Transact(e.Ctx, func(tx *registry.Tx) error {
				c, err := registry.Get[*corev1.PersistentVolumeClaim](tx, "default", "data")
				if err != nil {
					return err
				}
				c = c.DeepCopy()
				c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
				_, err = registry.Put(tx, c)
				return err
			})
		}
		ct.Change(e, "", "local", func(s *storagev1.StorageClass) { *s.AllowVolumeExpansion = false })
		if err := grow(); err == nil || !strings.Contains(err.Error(), "must support resize") {
			t.Error("of a class that does not allow it:", err)
		}
		ct.Change(e, "", "local", func(s *storagev1.StorageClass) { *s.AllowVolumeExpansion = true })
		if err := grow(); err != nil {
			t.Fatal(err)
		}
		ct.Settle(time.Second)
		if size := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data").Status.Capacity[corev1.ResourceStorage]; size.String() != "3Gi" {
			t.Error("it has", size.String())
		}
	})
}

// A volume that the scheduler has promised to a claim is free again when nothing came of it; one that people promised is not.
func TestPromiseIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		late := storagev1.VolumeBindingWaitForFirstConsumer
		ct.Create(e, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, VolumeBindingMode: &late, Provisioner: "kubernetes.io/no-provisioner"})
		for _, name := range []string{"disk", "lost", "given"} {
			ct.Create(e, volume(name, "late", "5Gi"))
		}
		ct.Settle(time.Second)
		promise := func(name string, c *corev1.PersistentVolumeClaim, byUs bool) {
			ct.Change(e, "", name, func(v *corev1.PersistentVolume) {
				v.Spec.ClaimRef = refTo(c)
				if byUs {
					metav1.SetMetaDataAnnotation(&v.ObjectMeta, annBoundByUs, "yes")
				}
			})
		}
		gone := claim("gone", "late", "5Gi")
		gone.UID = "gone"
		promise("lost", gone, true)
		promise("given", gone, false)
		c := claim("data", "late", "5Gi")
		c.Annotations = map[string]string{annSelectedNode: "gone"}
		e.Update(func(tx *registry.Tx) error { // as the scheduler does it
			created, err := registry.Create(tx, c)
			if err != nil {
				return err
			}
			v, err := registry.Get[*corev1.PersistentVolume](tx, "", "disk")
			if err != nil {
				return err
			}
			v = v.DeepCopy()
			v.Spec.ClaimRef = refTo(created)
			metav1.SetMetaDataAnnotation(&v.ObjectMeta, annBoundByUs, "yes")
			_, err = registry.Put(tx, v)
			return err
		})
		ct.Settle(time.Second)
		if got := state(e, "data"); got != "Pending" || has(&ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data").ObjectMeta, annSelectedNode) {
			t.Errorf("claim for a node that is gone: %s", got)
		}
		for name, want := range map[string]corev1.PersistentVolumePhase{"disk": corev1.VolumeAvailable, "lost": corev1.VolumeAvailable, "given": corev1.VolumeReleased} {
			v := ct.Get[*corev1.PersistentVolume](e, "", name)
			if v.Status.Phase != want || (v.Spec.ClaimRef == nil) != (want == corev1.VolumeAvailable) {
				t.Errorf("%s: %s, for %v", name, v.Status.Phase, v.Spec.ClaimRef)
			}
		}
	})
}
