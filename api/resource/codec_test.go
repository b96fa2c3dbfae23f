package resource

import (
	"bytes"
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/randfill"

	"github.com/google/go-cmp/cmp"
)

// randomObject fills an object of the storage version; the old groups' fields and times have values that survive.
func randomObject(r *Resource, seed int64) Object {
	obj := r.New()
	randfill.NewWithSeed(seed).NilChance(0.5).NumElements(0, 2).MaxDepth(12).Funcs(fillers()...).Fill(obj)
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	return obj
}

// What is stored comes back.
func TestStorageRoundTrip(t *testing.T) {
	codec := table.StorageCodec()
	for _, r := range table.All() {
		for seed := range int64(20) {
			obj := randomObject(r, seed)
			data, err := codec.Encode(r.Key(), obj)
			if err != nil {
				t.Fatal(err)
			}
			back, err := codec.Decode(r.Key(), data)
			if err != nil {
				t.Fatal(err)
			}
			again, err := codec.Encode(r.Key(), back)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, again) && differ(obj, back) {
				t.Errorf("%s, seed %d: %s", r.Key(), seed, cmp.Diff(obj, back))
			}
		}
	}
}

// An object goes to every served version and back without loss.
func TestVersionsRoundTrip(t *testing.T) {
	for _, r := range table.All() {
		for seed := range int64(20) {
			in := randomObject(r, seed)
			in.SetLabels(map[string]string{"a": "b"}) // the old groups take missing labels from the template
			if ing, ok := in.(*networkingv1.Ingress); ok {
				oneBackend(ing)
			}
			want, err := table.ToStorage(in)
			if err != nil {
				continue // an annotation that cannot be a number
			}
			for _, gv := range r.Served {
				versioned, err := table.FromStorage(want, gv)
				if err != nil {
					t.Fatal(err)
				}
				got, err := table.ToStorage(versioned.DeepCopyObject())
				if err != nil {
					t.Fatal(err)
				}
				if differ(want, got) {
					t.Errorf("%s by %s, seed %d: %s", r.Key(), gv, seed, cmp.Diff(want, got))
				}
			}
		}
	}
}

// oneBackend gives the backends of an Ingress one form, as validation wants it: the old versions have no room for two.
func oneBackend(ing *networkingv1.Ingress) {
	fix := func(b *networkingv1.IngressBackend) {
		b.Resource = nil
		b.Service = &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Name: "http"}}
	}
	if ing.Spec.DefaultBackend != nil {
		fix(ing.Spec.DefaultBackend)
	}
	for _, rule := range ing.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for i := range rule.HTTP.Paths {
			fix(&rule.HTTP.Paths[i].Backend)
			any := networkingv1.PathTypePrefix
			rule.HTTP.Paths[i].PathType = &any
		}
	}
}

// Bytes of another version of the kind, as after a change of the storage version, are read as well.
func TestDecodeOtherVersion(t *testing.T) {
	old := decoded(t, "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: a}, spec: {template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}")
	message := old.(protoMessage)
	raw := make([]byte, message.Size())
	if _, err := message.MarshalTo(raw); err != nil {
		t.Fatal(err)
	}
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "extensions/v1beta1", Kind: "Deployment"}, Raw: raw}
	body, err := unknown.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	data := append(bytes.Clone(envelope), body...)
	obj, err := table.StorageCodec().Decode("deployments.apps", data)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := obj.(*appsv1.Deployment); !ok || d.Spec.Selector == nil {
		t.Errorf("%T %+v", obj, obj)
	}
	if _, err := table.StorageCodec().Decode("pods", data); err == nil {
		t.Error("a Deployment is read as a pod")
	}
}

// Cut anywhere but behind the object's last byte, where four bytes of the envelope say "no encoding", stored bytes give an
// error.
func TestDecodeTruncated(t *testing.T) {
	codec := table.StorageCodec()
	data, err := codec.Encode("pods", runningPods(t, 1)[0])
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) - 4 {
		if _, err := codec.Decode("pods", data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken for a pod", n, len(data))
		}
	}
}

func FuzzDecode(f *testing.F) {
	codec := table.StorageCodec()
	for i, r := range table.All() {
		data, err := codec.Encode(r.Key(), randomObject(r, 1))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, data)
		f.Add(i, data[:len(data)/2])
	}
	f.Fuzz(func(t *testing.T, kind int, data []byte) {
		r := table.All()[uint(kind)%uint(len(table.All()))]
		obj, err := codec.Decode(r.Key(), data)
		if err != nil {
			return
		}
		if reflect.TypeOf(obj) != reflect.TypeOf(r.New()) {
			t.Fatalf("%s holds a %T", r.Key(), obj)
		}
		if _, err := codec.Encode(r.Key(), obj); err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		// Garbage that happens to be an object must not bring down rules either.
		r.Rules().Validate(t.Context(), obj)
		if _, err := table.Table(r, []Object{obj}, TableOptions{}); err != nil {
			t.Logf("columns: %v", err)
		}
	})
}
