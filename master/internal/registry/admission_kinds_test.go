package registry_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/master/internal/registry"
)

func priorityClass(name string, value int32, byDefault bool) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: byDefault}
}

func TestPriorityClasses(t *testing.T) {
	e := start(t)
	named := func(name, class string) *corev1.Pod {
		p := pod(name)
		p.Spec.PriorityClassName = class
		return p
	}
	plain := mustCreate(e, pod("plain"))
	if *plain.Spec.Priority != 0 || *plain.Spec.PreemptionPolicy != corev1.PreemptLowerPriority || plain.Spec.PriorityClassName != "" {
		t.Errorf("without classes: %+v", plain.Spec)
	}
	if p := mustCreate(e, named("critical", "system-node-critical")); *p.Spec.Priority != 2000001000 {
		t.Errorf("system class: %d", *p.Spec.Priority)
	}
	_, err := e.create(named("a", "high"))
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "a" is forbidden: no PriorityClass with name high was found`)

	high := priorityClass("high", 1000, false)
	high.PreemptionPolicy = ptr(corev1.PreemptNever)
	mustCreate(e, high)
	if p := mustCreate(e, named("a", "high")); *p.Spec.Priority != 1000 || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("class high: %+v", p.Spec)
	}
	other := named("b", "high")
	other.Spec.Priority = ptr(int32(5))
	_, err = e.create(other)
	wantErr(t, err, metav1.StatusReasonForbidden, "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name")
	other = named("b", "high")
	other.Spec.PreemptionPolicy = ptr(corev1.PreemptLowerPriority)
	_, err = e.create(other)
	wantErr(t, err, metav1.StatusReasonForbidden, "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name")

	usual := mustCreate(e, priorityClass("usual", 10, true))
	if p := mustCreate(e, pod("c")); *p.Spec.Priority != 10 || p.Spec.PriorityClassName != "usual" {
		t.Errorf("default class: %+v", p.Spec)
	}
	_, err = e.create(priorityClass("second", 20, true))
	wantErr(t, err, metav1.StatusReasonForbidden, "PriorityClass usual is already marked as default. Only one default can exist")
	_, err = change(e, "", high, func(c *schedulingv1.PriorityClass) { c.GlobalDefault = true })
	wantErr(t, err, metav1.StatusReasonForbidden, "PriorityClass usual is already marked as default")
	mustChange(e, "", usual, func(c *schedulingv1.PriorityClass) { c.Description = "what most are" })
	_, err = e.create(priorityClass("system-mine", 10, false))
	wantErr(t, err, metav1.StatusReasonInvalid, "system-mine")

	// A manifest that says nothing of priority replaces the pod.
	mustChange(e, "", plain, func(p *corev1.Pod) {
		p.Spec.Priority, p.Spec.PreemptionPolicy = nil, nil
		p.Spec.Containers[0].Image = "nginx:2"
	})
	if got := mustGet(e, plain); got.Spec.Priority == nil || got.Spec.PreemptionPolicy == nil {
		t.Errorf("priority is lost: %+v", got.Spec)
	}
}

func TestSystemPriorityClassesAreValid(t *testing.T) {
	e := start(t)
	for _, class := range registry.SystemPriorityClasses() {
		mustCreate(e, class)
	}
}

func TestRuntimeClassAdmission(t *testing.T) {
	e := start(t)
	with := func(name, class string, fn func(*corev1.Pod)) *corev1.Pod {
		p := pod(name)
		p.Spec.RuntimeClassName = &class
		if fn != nil {
			fn(p)
		}
		return p
	}
	overhead := corev1.ResourceList{"cpu": resource.MustParse("10m"), "memory": resource.MustParse("1Mi")}
	for _, class := range []*nodev1.RuntimeClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "runc"}, Handler: "runc"},
		{ObjectMeta: metav1.ObjectMeta{Name: "heavy"}, Handler: "kata", Overhead: &nodev1.Overhead{PodFixed: overhead}},
		{ObjectMeta: metav1.ObjectMeta{Name: "picky"}, Handler: "kata", Scheduling: &nodev1.Scheduling{
			NodeSelector: map[string]string{"kvm": "yes"},
			Tolerations: []corev1.Toleration{
				{Key: "kvm", Operator: corev1.TolerationOpExists}, {Key: "disk", Operator: corev1.TolerationOpEqual, Value: "slow", Effect: corev1.TaintEffectNoSchedule},
			},
		}},
	} {
		mustCreate(e, class)
	}
	_, err := e.create(with("a", "nosuch", nil))
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "a" is forbidden: pod rejected: RuntimeClass "nosuch" not found`)
	if p := mustCreate(e, with("a", "runc", nil)); p.Spec.Overhead != nil {
		t.Errorf("overhead %v", p.Spec.Overhead)
	}
	_, err = e.create(with("b", "runc", func(p *corev1.Pod) { p.Spec.Overhead = overhead }))
	wantErr(t, err, metav1.StatusReasonForbidden, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	if p := mustCreate(e, with("b", "heavy", nil)); !p.Spec.Overhead.Cpu().Equal(overhead["cpu"]) || !p.Spec.Overhead.Memory().Equal(overhead["memory"]) {
		t.Errorf("overhead %v", p.Spec.Overhead)
	}
	_, err = e.create(with("c", "heavy", func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("11m")} }))
	wantErr(t, err, metav1.StatusReasonForbidden, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")

	_, err = e.create(with("d", "picky", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kvm": "no"} }))
	wantErr(t, err, metav1.StatusReasonForbidden, "conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no")
	p := mustCreate(e, with("d", "picky", func(p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{"zone": "a"}
		p.Spec.Tolerations = []corev1.Toleration{
			{Key: "kvm", Operator: corev1.TolerationOpEqual, Value: "x", Effect: corev1.TaintEffectNoSchedule}, // less than the class's
			{Key: "disk", Operator: corev1.TolerationOpExists},                                                 // more than the class's
		}
	}))
	if diff := cmp.Diff(map[string]string{"zone": "a", "kvm": "yes"}, p.Spec.NodeSelector); diff != "" {
		t.Error(diff)
	}
	seconds := ptr(int64(10))
	want := []corev1.Toleration{
		{Key: "disk", Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds},
		{Key: "kvm", Operator: corev1.TolerationOpExists},
	}
	if diff := cmp.Diff(want, p.Spec.Tolerations); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultStorageClass(t *testing.T) {
	e := start(t)
	claim := func(name string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
			},
		}
	}
	if c := mustCreate(e, claim("none")); c.Spec.StorageClassName != nil {
		t.Errorf("class %q out of nowhere", *c.Spec.StorageClassName)
	}
	for _, name := range []string{"a", "b", "c"} {
		class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: "p"}
		if name != "a" {
			class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		}
		mustCreate(e, class)
	}
	// Made in the same second the first by name counts, else the newest.
	if c := mustCreate(e, claim("default")); *c.Spec.StorageClassName == "a" {
		t.Errorf("class %q", *c.Spec.StorageClassName)
	}
	empty := claim("static")
	empty.Spec.StorageClassName = ptr("")
	if c := mustCreate(e, empty); *c.Spec.StorageClassName != "" {
		t.Errorf("class %q where none was wanted", *c.Spec.StorageClassName)
	}
	old := claim("old")
	old.Annotations = map[string]string{corev1.BetaStorageClassAnnotation: "a"}
	if c := mustCreate(e, old); c.Spec.StorageClassName != nil {
		t.Errorf("class %q beside the annotation", *c.Spec.StorageClassName)
	}
}
