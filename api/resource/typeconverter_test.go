package resource

import (
	"runtime"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"github.com/google/go-cmp/cmp"
)

func TestTypeConverterKnowsEveryKind(t *testing.T) {
	converter := table.TypeConverter()
	for _, r := range table.All() {
		for _, gv := range r.Served {
			obj, err := table.FromStorage(r.New(), gv)
			if err != nil {
				t.Fatal(err)
			}
			value, err := converter.ObjectToTyped(obj)
			if err != nil {
				t.Errorf("%s: %v", gv.WithKind(r.Kind), err)
				continue
			}
			if _, err := converter.TypedToObject(value); err != nil {
				t.Errorf("%s: %v", gv.WithKind(r.Kind), err)
			}
		}
	}
	ghost := &unstructured.Unstructured{}
	ghost.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Ghost"})
	if _, err := converter.ObjectToTyped(ghost); !kruntime.IsNotRegisteredError(err) {
		t.Error(err)
	}
}

func manager(t testing.TB, gvk schema.GroupVersionKind) *managedfields.FieldManager {
	t.Helper()
	r, ok := table.ByKind(gvk)
	if !ok {
		t.Fatalf("%s is not served", gvk)
	}
	m, err := managedfields.NewDefaultFieldManager(table.TypeConverter(), viaInternal{table}, table.Scheme(), table.Scheme(),
		gvk, r.Storage, "", fieldpath.NewExcludeFilterSetMap(r.ResetFields("")))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// viaInternal converts between any two versions of a kind, with the storage version as the hub.
type viaInternal struct{ t *Table }

func (c viaInternal) Convert(in, out, context any) error { return c.t.scheme.Convert(in, out, context) }

func (c viaInternal) ConvertToVersion(in kruntime.Object, target kruntime.GroupVersioner) (kruntime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	if _, ok := in.(kruntime.Unstructured); ok {
		typed, err := c.t.scheme.ConvertToVersion(in, gvk.GroupVersion())
		if err != nil {
			return nil, err
		}
		in = typed
	}
	if want, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk}); ok && want == gvk {
		return in, nil
	}
	internal, err := c.t.scheme.UnsafeConvertToVersion(in, kruntime.InternalGroupVersioner)
	if err != nil {
		return nil, err
	}
	return c.t.scheme.UnsafeConvertToVersion(internal, target)
}

func (c viaInternal) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return c.t.scheme.ConvertFieldLabel(gvk, label, value)
}

func parsed(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &out.Object); err != nil {
		t.Fatal(err)
	}
	return out
}

// Two appliers own different fields of one Deployment, one of them through an old version.
func TestServerSideApply(t *testing.T) {
	const first = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: b}, spec: {replicas: 2, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i, env: [{name: A, value: b}]}]}}}}"
	gvk := appsV1.WithKind("Deployment")
	m := manager(t, gvk)
	live := &appsv1.Deployment{}
	live.SetGroupVersionKind(gvk)
	obj, err := m.Apply(live, parsed(t, first), "one", false)
	if err != nil {
		t.Fatal(err)
	}
	d := obj.(*appsv1.Deployment)
	if *d.Spec.Replicas != 2 || len(d.ManagedFields) != 1 {
		t.Fatalf("%+v", d)
	}
	second := "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: b}, spec: {template: {spec: {containers: [{name: c, env: [{name: C, value: d}]}, {name: d, image: j}]}}}}"
	if obj, err = m.Apply(d, parsed(t, second), "two", false); err != nil {
		t.Fatal(err)
	}
	d = obj.(*appsv1.Deployment)
	want := []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "C", Value: "d"}}
	if diff := cmp.Diff(want, d.Spec.Template.Spec.Containers[0].Env); diff != "" || len(d.Spec.Template.Spec.Containers) != 2 {
		t.Error(diff)
	}
	_, err = m.Apply(d, parsed(t, strings.Replace(first, "replicas: 2", "replicas: 3", 1)), "three", false)
	if err == nil || !strings.Contains(err.Error(), `Apply failed with 1 conflict: conflict with "one": .spec.replicas`) {
		t.Error(err)
	}
	// An update by hand is tracked as well.
	changed := d.DeepCopy()
	n := int32(7)
	changed.Spec.Replicas = &n
	updated, err := m.Update(d, changed, "kubectl-edit")
	if err != nil {
		t.Fatal(err)
	}
	var managers []string
	for _, f := range updated.(metav1.Object).GetManagedFields() {
		managers = append(managers, f.Manager+" "+string(f.Operation))
	}
	if diff := cmp.Diff([]string{"one Apply", "two Apply", "kubectl-edit Update"}, managers); diff != "" {
		t.Error(diff)
	}
}

// The live object is of the storage version, the applied one of an old group.
func TestServerSideApplyOldGroup(t *testing.T) {
	const text = "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: a}, spec: {replicas: 2, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}"
	m := manager(t, extensionsV1.WithKind("Deployment"))
	r, _ := table.ByKey("deployments.apps")
	obj, err := m.Apply(r.New(), parsed(t, text), "one", false)
	if err != nil {
		t.Fatal(err)
	}
	d := obj.(*appsv1.Deployment)
	if d.Spec.Selector == nil || len(d.ManagedFields) != 1 || d.ManagedFields[0].APIVersion != "extensions/v1beta1" {
		t.Errorf("%+v", d)
	}
	before := d.DeepCopy()
	_, err = manager(t, appsV1.WithKind("Deployment")).Apply(d.DeepCopy(),
		parsed(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 3}}"), "two", false)
	if err == nil || !strings.Contains(err.Error(), `conflict with "one": .spec.replicas`) {
		t.Error(err)
	}
	if diff := cmp.Diff(before, d); diff != "" {
		t.Error(diff)
	}
}

// The figures of reading the schema; see docs.
func TestTypeConverterMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	types, err := mergeTypes()
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 10<<20 {
		t.Errorf("the schema takes %d bytes", grown)
	}
	if len(types.byKind) == 0 {
		t.Error("no types")
	}
}
