package resource

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const volume = `{apiVersion: v1, kind: PersistentVolume, metadata: {name: a, creationTimestamp: "2020-01-01T00:00:00Z"}, spec: {
  capacity: {storage: 2Gi}, accessModes: [ReadWriteOnce], csi: {driver: d.example.com, volumeHandle: h}}, status: {phase: Bound, reason: mine}}`

func TestPersistentVolumePhase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := created(t, volume).(*corev1.PersistentVolume)
		old.Namespace, old.UID, old.ResourceVersion = "", "u", "1"
		if s := old.Status; s.Phase != corev1.VolumePending || s.Reason != "" || !s.LastPhaseTransitionTime.Equal(&old.CreationTimestamp) {
			t.Errorf("a new volume: %+v", s)
		}
		if errs := rulesOf(t, old).Validate(t.Context(), old); len(errs) > 0 {
			t.Error(errs.ToAggregate())
		}
		said := metav1.NewTime(time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC))
		now := metav1.Now()
		for _, test := range []struct {
			name   string
			change func(*corev1.PersistentVolumeStatus)
			want   *metav1.Time
		}{
			{"the same phase", func(s *corev1.PersistentVolumeStatus) { s.LastPhaseTransitionTime = nil }, old.Status.LastPhaseTransitionTime},
			{"another phase", func(s *corev1.PersistentVolumeStatus) { s.Phase = corev1.VolumeAvailable }, &now},
			{"without a time", func(s *corev1.PersistentVolumeStatus) {
				s.Phase, s.LastPhaseTransitionTime = corev1.VolumeAvailable, nil
			}, &now},
			{"with a time", func(s *corev1.PersistentVolumeStatus) {
				s.Phase, s.LastPhaseTransitionTime = corev1.VolumeAvailable, &said
			}, &said},
		} {
			pv := old.DeepCopy()
			pv.Spec.StorageClassName = "other"
			test.change(&pv.Status)
			rulesOf(t, old).PrepareStatus(pv, old)
			if !pv.Status.LastPhaseTransitionTime.Equal(test.want) || pv.Spec.StorageClassName != "" {
				t.Errorf("%s: %+v", test.name, pv)
			}
			if errs := rulesOf(t, old).ValidateStatus(t.Context(), pv, old); len(errs) > 0 {
				t.Error(errs.ToAggregate())
			}
		}
	})
}

// The two fields of a claim's data source say the same; an unknown kind in the older of them is dropped.
func TestClaimDataSource(t *testing.T) {
	claim := func(source string) *corev1.PersistentVolumeClaim {
		return created(t, "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}"+source+"}, status: {phase: Bound}}").(*corev1.PersistentVolumeClaim)
	}
	plain := claim("")
	if plain.Status.Phase != corev1.ClaimPending || *plain.Spec.VolumeMode != corev1.PersistentVolumeFilesystem {
		t.Errorf("%+v", plain)
	}
	if errs := rulesOf(t, plain).Validate(t.Context(), plain); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
	if got := claim(", dataSource: {kind: PersistentVolumeClaim, name: b}").Spec.DataSourceRef; got == nil || got.Name != "b" {
		t.Errorf("dataSourceRef %+v", got)
	}
	if got := claim(", dataSourceRef: {kind: PersistentVolumeClaim, name: b}").Spec.DataSource; got == nil || got.Name != "b" {
		t.Errorf("dataSource %+v", got)
	}
	if got := claim(", dataSource: {apiGroup: example.com, kind: Thing, name: b}").Spec; got.DataSource != nil || got.DataSourceRef != nil {
		t.Errorf("%+v", got)
	}
	plain.UID, plain.ResourceVersion = "u", "1"
	bigger := update(t, "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}}", plain)
	if errs := rulesOf(t, plain).ValidateUpdate(t.Context(), bigger, plain); len(errs) == 0 {
		t.Error("the access mode of a claim may change")
	}
}

func TestStorageKinds(t *testing.T) {
	driver := created(t, "{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d.example.com}, spec: {tokenRequests: [{audience: x}]}}").(*storagev1.CSIDriver)
	if w := rulesOf(t, driver).Warnings(t.Context(), driver, nil); len(w) != 1 {
		t.Errorf("warnings %q", w)
	}
	if w := rulesOf(t, driver).Warnings(t.Context(), driver, driver); w != nil {
		t.Errorf("warnings without a change %q", w)
	}
	if !*driver.Spec.AttachRequired || *driver.Spec.FSGroupPolicy != storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy {
		t.Errorf("defaults %+v", driver.Spec)
	}
	next := driver.DeepCopy()
	next.Spec.PodInfoOnMount = new(bool)
	*next.Spec.PodInfoOnMount = true
	rulesOf(t, driver).PrepareUpdate(next, driver)
	if next.Generation != driver.Generation+1 {
		t.Errorf("generation %d", next.Generation)
	}
	class := created(t, "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: a}, provisioner: p}").(*storagev1.StorageClass)
	if *class.ReclaimPolicy != corev1.PersistentVolumeReclaimDelete || *class.VolumeBindingMode != storagev1.VolumeBindingImmediate {
		t.Errorf("%+v", class)
	}
	attachment := created(t, "{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: a}, spec: {attacher: p, nodeName: node1, source: {persistentVolumeName: v}}, status: {attached: true}}").(*storagev1.VolumeAttachment)
	if attachment.Status.Attached {
		t.Error("made with a status")
	}
	attached := attachment.DeepCopy()
	attached.Status.Attached, attached.Spec.NodeName, attached.Labels = true, "other", map[string]string{"a": "b"}
	rulesOf(t, attachment).PrepareStatus(attached, attachment)
	if !attached.Status.Attached || attached.Spec.NodeName != "node1" || attached.Labels != nil {
		t.Errorf("%+v", attached)
	}
	pc := created(t, "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: a}, value: 5}").(*schedulingv1.PriorityClass)
	if *pc.PreemptionPolicy != corev1.PreemptLowerPriority || pc.Generation != 1 {
		t.Errorf("%+v", pc)
	}
	pt := created(t, "{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {spec: {containers: [{name: c, image: i}]}}}").(*corev1.PodTemplate)
	changed := update(t, "{apiVersion: v1, kind: PodTemplate, metadata: {name: a}, template: {spec: {containers: [{name: c, image: j}]}}}", pt)
	if pt.Generation != 1 || changed.GetGeneration() != 2 || pt.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("%+v, %d", pt, changed.GetGeneration())
	}
}
