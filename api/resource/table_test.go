package resource

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	extensionsv1beta1 "k8s.io/api/extensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/google/go-cmp/cmp"
)

var table = NewTable()

// readManifest decodes a file of testdata as the API server does: without defaults.
func readManifest(t testing.TB, name string) []runtime.Object {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var objs []runtime.Object
	for docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objs
		}
		if err != nil {
			t.Fatal(err)
		}
		obj, gvk, err := table.Codecs().UniversalDeserializer().Decode(doc, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		obj.GetObjectKind().SetGroupVersionKind(*gvk)
		objs = append(objs, obj)
	}
}

func TestGroupVersions(t *testing.T) {
	var got []string
	for _, gv := range table.GroupVersions() {
		got = append(got, gv.String())
	}
	want := []string{
		"v1", "apiregistration.k8s.io/v1", "apps/v1", "apps/v1beta2", "apps/v1beta1", "events.k8s.io/v1", "autoscaling/v2", "autoscaling/v1", "batch/v1", "batch/v1beta1", "certificates.k8s.io/v1",
		"networking.k8s.io/v1", "networking.k8s.io/v1beta1", "policy/v1", "policy/v1beta1", "rbac.authorization.k8s.io/v1", "storage.k8s.io/v1", "admissionregistration.k8s.io/v1",
		"apiextensions.k8s.io/v1", "scheduling.k8s.io/v1", "coordination.k8s.io/v1", "node.k8s.io/v1", "discovery.k8s.io/v1", "resource.k8s.io/v1", "extensions/v1beta1",
		"metrics.k8s.io/v1beta1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLookup(t *testing.T) {
	for _, test := range []struct {
		gv     schema.GroupVersion
		plural string
		key    string
	}{
		{coreV1, "pods", "pods"},
		{coreV1, "events", "events"},
		{eventsV1, "events", "events"},
		{appsV1, "deployments", "deployments.apps"},
		{appsV1beta1, "deployments", "deployments.apps"},
		{appsV1beta2, "deployments", "deployments.apps"},
		{extensionsV1, "deployments", "deployments.apps"},
		{extensionsV1, "replicasets", "replicasets.apps"},
		{appsV1beta1, "replicasets", ""},
		{extensionsV1, "ingresses", "ingresses.networking.k8s.io"},
		{networkingV1beta1, "ingresses", "ingresses.networking.k8s.io"},
		{networkingV1beta1, "networkpolicies", ""},
		{coreV1, "deployments", ""},
		{schema.GroupVersion{Group: "example.com", Version: "v1"}, "pods", ""},
	} {
		r, ok := table.Lookup(test.gv, test.plural)
		if got := ok; got != (test.key != "") {
			t.Errorf("%s %s: found %v", test.gv, test.plural, ok)
			continue
		}
		if ok && r.Key() != test.key {
			t.Errorf("%s %s: key %s, want %s", test.gv, test.plural, r.Key(), test.key)
		}
	}
}

// A kind is only offered with all its rules.
func TestRulesAreComplete(t *testing.T) {
	for _, r := range table.All() {
		rules := r.Rules()
		if rules.Validate == nil || rules.ValidateUpdate == nil {
			t.Errorf("%s is not validated", r.Key())
		}
		if _, ok := r.Subresources["status"]; ok {
			if rules.PrepareCreate == nil || rules.PrepareUpdate == nil || rules.PrepareStatus == nil || rules.ValidateStatus == nil ||
				rules.Reset[""] == nil || rules.Reset["status"] == nil {
				t.Errorf("%s has a status without rules for it", r.Key())
			}
		}
		if _, ok := r.Subresources["scale"]; ok != (rules.Scale != nil) {
			t.Errorf("%s: scale %v, rules for it %v", r.Key(), ok, rules.Scale != nil)
		}
	}
}

// Every kind can be made, listed, encoded, decoded and shown in every version, and so can its subresources' bodies.
func TestEveryKind(t *testing.T) {
	codec := table.StorageCodec()
	for _, r := range table.All() {
		t.Run(r.Key(), func(t *testing.T) {
			if _, ok := table.ByKey(r.Key()); !ok {
				t.Error("not found by key")
			}
			obj := r.New()
			obj.SetName("a")
			if got := r.NewList().GetObjectKind().GroupVersionKind().Kind; got != r.ListKind {
				t.Errorf("list kind %q", got)
			}
			data, err := codec.Encode(r.Key(), obj)
			if err != nil {
				t.Fatal(err)
			}
			back, err := codec.Decode(r.Key(), data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(obj, back); diff != "" {
				t.Error(diff)
			}
			for _, gv := range r.Served {
				versioned, err := table.FromStorage(obj, gv)
				if err != nil {
					t.Fatal(err)
				}
				if got := versioned.GetObjectKind().GroupVersionKind(); got != gv.WithKind(r.Kind) {
					t.Errorf("%s: got %s", gv, got)
				}
				if _, err := table.ToStorage(versioned.DeepCopyObject()); err != nil {
					t.Errorf("%s: %v", gv, err)
				}
				for name, sub := range r.SubresourcesIn(gv) {
					if _, err := table.NewServed(sub.Kind); err != nil {
						t.Errorf("%s/%s: %v", gv, name, err)
					}
				}
			}
			if _, err := table.Table(r, []Object{obj}, TableOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOldGroupsBecomeApps(t *testing.T) {
	objs := readManifest(t, "app-wordpress3.yml")
	obj, err := table.ToStorage(objs[2])
	if err != nil {
		t.Fatal(err)
	}
	d := obj.(*appsv1.Deployment)
	if d.APIVersion != "apps/v1" || d.Kind != "Deployment" {
		t.Errorf("is %s %s", d.APIVersion, d.Kind)
	}
	labels := map[string]string{"app": "wordpress"}
	if diff := cmp.Diff(&metav1.LabelSelector{MatchLabels: labels}, d.Spec.Selector); diff != "" {
		t.Error("selector:", diff)
	}
	if diff := cmp.Diff(labels, d.Labels); diff != "" {
		t.Error("labels:", diff)
	}
	if got := d.Spec.Strategy.RollingUpdate; got == nil || got.MaxSurge.IntVal != 1 || got.MaxUnavailable.IntVal != 1 {
		t.Errorf("strategy %+v", got)
	}
	d.Labels["changed"] = "yes"
	if len(d.Spec.Selector.MatchLabels) != 1 || len(d.Spec.Template.Labels) != 1 {
		t.Error("labels, selector and template share a map")
	}
	delete(d.Labels, "changed")
	before := d.DeepCopy()
	old, err := table.FromStorage(d, extensionsV1)
	if err != nil {
		t.Fatal(err)
	}
	if e := old.(*extensionsv1beta1.Deployment); e.APIVersion != "extensions/v1beta1" || *e.Spec.Replicas != 2 {
		t.Errorf("as extensions/v1beta1: %+v", e)
	}
	if diff := cmp.Diff(before, d); diff != "" {
		t.Error("FromStorage changed the object:", diff)
	}
}

func TestFromStorageKeepsObject(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	out, err := table.FromStorage(pod, coreV1)
	if err != nil {
		t.Fatal(err)
	}
	if pod.Kind != "" || out.(*corev1.Pod).Kind != "Pod" {
		t.Errorf("object %q, result %q", pod.Kind, out.(*corev1.Pod).Kind)
	}
	pod.TypeMeta = out.(*corev1.Pod).TypeMeta
	if again, _ := table.FromStorage(pod, coreV1); again != runtime.Object(pod) {
		t.Error("a complete object is copied")
	}
}

func TestUnknownKinds(t *testing.T) {
	pod := &corev1.Pod{}
	pod.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Pod"})
	if _, err := table.ToStorage(pod); !runtime.IsNotRegisteredError(err) {
		t.Error(err)
	}
	if _, err := table.FromStorage(&corev1.Pod{}, appsV1); !runtime.IsNotRegisteredError(err) {
		t.Error(err)
	}
	if _, err := table.ToStorage(&metav1.Status{}); err == nil {
		t.Error("a Status can be stored")
	}
	if _, err := table.StorageCodec().Encode("pods", &corev1.Secret{}); err == nil {
		t.Error("a Secret is stored as a pod")
	}
	if _, err := table.StorageCodec().Decode("unicorns", nil); err == nil {
		t.Error("unicorns exist")
	}
}
