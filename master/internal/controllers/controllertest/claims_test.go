package controllertest_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/binding"
	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/persistentvolume"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// disks starts what binds pods and claims, with a class whose volumes only people make.
func disks(t *testing.T) *ct.Env {
	e := ct.New(t)
	late := storagev1.VolumeBindingWaitForFirstConsumer
	ct.Create(e, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "disks"}, VolumeBindingMode: &late, Provisioner: "kubernetes.io/no-provisioner"})
	e.Start(binding.New(binding.Config{Registry: e.Registry, Logger: e.Logger}).Run)
	e.Start(persistentvolume.New(persistentvolume.Config{Registry: e.Registry, Logger: e.Logger}).Run)
	for _, name := range []string{"node1", "node2"} {
		ct.Node(e, name)
		ct.Change(e, "", name, func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelHostname: name} })
	}
	return e
}

func size(s string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(s)}
}

func disk(node, name, capacity string, labels map[string]string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size(capacity), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "disks",
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/" + name}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}},
	}}
}

func asking(name, request string, selector map[string]string) *corev1.PersistentVolumeClaim {
	class := "disks"
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: size(request)},
	}}
	if selector != nil {
		c.Spec.Selector = &metav1.LabelSelector{MatchLabels: selector}
	}
	return c
}

func claiming(name string, claims ...string) *corev1.Pod {
	p := ct.Pod(name, nil)
	for _, claim := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
	return p
}

// A pod with two claims goes where there is a volume for each, and not where one would do for either.
func TestTwoClaimsGetTwoVolumes(t *testing.T) {
	fast := map[string]string{"speed": "fast"}
	for name, test := range map[string]struct {
		volumes   []*corev1.PersistentVolume
		data, wal *corev1.PersistentVolumeClaim
		want      string // the volumes of data and wal
	}{
		"one is too few": {[]*corev1.PersistentVolume{disk("node1", "a", "5Gi", nil), disk("node2", "b", "5Gi", nil), disk("node2", "c", "5Gi", nil)},
			asking("data", "1Gi", nil), asking("wal", "1Gi", nil), "b c"},
		"one is too small": {[]*corev1.PersistentVolume{disk("node1", "a", "5Gi", nil), disk("node1", "b", "1Gi", nil), disk("node2", "c", "5Gi", nil), disk("node2", "d", "9Gi", nil)},
			asking("data", "5Gi", nil), asking("wal", "2Gi", nil), "d c"},
		// Were the larger claim to choose by itself it would take what only the other can have.
		"one is picky": {[]*corev1.PersistentVolume{disk("node2", "a", "5Gi", fast), disk("node2", "b", "9Gi", nil)},
			asking("data", "5Gi", nil), asking("wal", "1Gi", fast), "b a"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := disks(t)
				for _, v := range test.volumes {
					ct.Create(e, v)
				}
				busy := ct.Pod("busy", nil) // node1 is the better one but for the volumes
				busy.Spec.NodeName = "node2"
				busy.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
				ct.Create(e, busy)
				ct.Create(e, test.data)
				ct.Create(e, test.wal)
				ct.Settle(time.Second)
				ct.Create(e, claiming("db", "data", "wal"))
				ct.Settle(time.Second)
				data, wal := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data"), ct.Get[*corev1.PersistentVolumeClaim](e, "default", "wal")
				p := ct.Get[*corev1.Pod](e, "default", "db")
				if got := data.Spec.VolumeName + " " + wal.Spec.VolumeName; got != test.want || p.Spec.NodeName != "node2" {
					t.Errorf("volumes %q, on %q: %+v", got, p.Spec.NodeName, p.Status.Conditions)
				}
			})
		})
	}
}

// Pods that come together do not take each other's volumes away: each pod gets both of its own, or none.
func TestPodsThatComeTogetherGetVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := disks(t)
		for i := range 4 {
			ct.Create(e, disk("node1", fmt.Sprintf("a%d", i), "5Gi", nil))
			ct.Create(e, disk("node2", fmt.Sprintf("b%d", i), "5Gi", nil))
		}
		ct.Settle(time.Second)
		for i := range 5 {
			data, wal := fmt.Sprintf("data%d", i), fmt.Sprintf("wal%d", i)
			ct.Create(e, asking(data, "1Gi", nil))
			ct.Create(e, asking(wal, "2Gi", nil))
			ct.Create(e, claiming(fmt.Sprintf("db%d", i), data, wal))
		}
		ct.Settle(3 * time.Second)
		running := 0
		for _, p := range ct.List[*corev1.Pod](e, "default") {
			if p.Spec.NodeName != "" {
				running++
				continue
			}
			for _, v := range p.Spec.Volumes[:2] {
				if c := ct.Get[*corev1.PersistentVolumeClaim](e, "default", v.PersistentVolumeClaim.ClaimName); c.Spec.VolumeName != "" {
					t.Errorf("%s has %s without having a place", c.Name, c.Spec.VolumeName)
				}
			}
		}
		if running != 4 {
			t.Errorf("%d pods have their volumes", running)
		}
	})
}

// Pods that share a claim and come together go where its volume is; no other volume is kept for it.
func TestPodsThatShareAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := disks(t)
		ct.Create(e, disk("node1", "a", "5Gi", nil))
		ct.Create(e, disk("node2", "b", "5Gi", nil))
		ct.Create(e, asking("data", "1Gi", nil))
		ct.Settle(time.Second)
		e.Update(func(tx *registry.Tx) error {
			for _, name := range []string{"one", "two"} {
				p := claiming(name, "data")
				p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
				if _, err := registry.Create(tx, p); err != nil {
					return err
				}
			}
			return nil
		})
		ct.Settle(10 * time.Second)
		one, two := ct.Get[*corev1.Pod](e, "default", "one").Spec.NodeName, ct.Get[*corev1.Pod](e, "default", "two").Spec.NodeName
		if one == "" || one != two {
			t.Errorf("one on %q, two on %q", one, two)
		}
		kept := 0
		for _, v := range ct.List[*corev1.PersistentVolume](e, "") {
			if v.Spec.ClaimRef != nil {
				kept++
			}
		}
		if kept != 1 {
			t.Errorf("%d volumes are kept", kept)
		}
	})
}
