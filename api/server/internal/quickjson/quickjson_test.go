package quickjson

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"github.com/whalepod/whalepod/api/resource"
)

// same fails the test when both encoders differ.
func same(t *testing.T, v any) {
	t.Helper()
	want, wantErr := json.Marshal(v)
	got, err := Append(nil, v, nil)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%T: error %v, encoding/json's %v", v, err, wantErr)
	}
	if err == nil && !bytes.Equal(got, want) {
		t.Fatalf("%T\n got %s\nwant %s", v, got, want)
	}
}

// filler makes random objects, with the values that such objects can have. They are many and small: with longer lists most of
// the time would go into a few pod templates of hundreds of kilobytes.
func filler(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(0.4).NumElements(0, 2).MaxDepth(20).Funcs(
		func(q *apiresource.Quantity, c randfill.Continue) {
			*q = *apiresource.NewMilliQuantity(c.Int63n(1e9), []apiresource.Format{apiresource.DecimalSI, apiresource.BinarySI, apiresource.DecimalExponent}[c.Intn(3)])
		},
		func(i *intstr.IntOrString, c randfill.Continue) {
			*i = intstr.FromInt32(c.Int31())
			if c.Bool() {
				*i = intstr.FromString(c.String(10))
			}
		},
		func(r *runtime.RawExtension, _ randfill.Continue) { r.Raw = []byte(`{"a": "b"}`) },
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte(`{"f:x": {}}`) },
		func(m *metav1.Time, c randfill.Continue) {
			if c.Bool() {
				*m = metav1.Unix(c.Int63n(4e9), c.Int63n(1e9))
			}
		},
		func(m *metav1.MicroTime, c randfill.Continue) {
			if c.Bool() {
				*m = metav1.NewMicroTime(metav1.Unix(c.Int63n(4e9), c.Int63n(1e9)).Time)
			}
		},
	)
}

// TestEveryKind compares random objects of all served kinds in all their versions, and of the meta types.
func TestEveryKind(t *testing.T) {
	table := resource.NewTable()
	fill := filler(rand.Int63())
	objs := []any{&metav1.Status{}, &metav1.Table{}, &metav1.PartialObjectMetadata{}, &metav1.APIResourceList{}, &metav1.ListMeta{}}
	for _, r := range table.All() {
		for _, gv := range r.Served {
			obj, err := table.Scheme().New(gv.WithKind(r.Kind))
			if err != nil {
				t.Fatal(err)
			}
			objs = append(objs, obj)
		}
	}
	for _, obj := range objs {
		same(t, obj)
		for range 40 {
			c := reflect.New(reflect.TypeOf(obj).Elem()).Interface()
			if _, isTable := c.(*metav1.Table); isTable {
				continue // cells are interfaces, which cannot be filled at random
			}
			fill.Fill(c)
			same(t, c)
		}
	}
}

func TestOddities(t *testing.T) {
	type base struct {
		A string `json:"a,omitempty"`
	}
	type odd struct {
		base
		*metav1.ObjectMeta
		N     int `json:"n,string"`
		F     float64
		Skip  string          `json:"-"`
		Arr   [2]bool         `json:",omitempty"`
		M     map[int]string  `json:"m"`
		Raw   json.RawMessage `json:"raw,omitempty"`
		Deep  *odd            `json:"deep,omitempty"`
		Any   any
		Bytes []byte
	}
	for _, v := range []any{nil, "a\x00\x1f\"\\<>&\u2028\u2029\xff\b\f\n\r\t é 🐳\x7f", true, 1, uint8(2), 1.5, []string(nil), []string{}, map[string]any{"b": 1, "a": []any{nil, "x"}},
		odd{}, &odd{base: base{"x"}, M: map[int]string{2: "b", 1: "a"}, Raw: json.RawMessage(`{"x": 1}`), Deep: &odd{}, Any: corev1.Pod{}, Bytes: []byte("hi")},
		[]any{"cell", int64(3), nil, 2.5, metav1.Time{}}, corev1.ResourceList(nil), map[corev1.ResourceName]string{"x": "y"},
		map[string]metav1.Time{"t": metav1.Unix(1, 0)}, corev1.Pod{}, []metav1.TableRow{{Cells: []any{"a"}}}, intstr.IntOrString{Type: 9}} {
		same(t, v)
	}
}

// FuzzString compares the writing of strings.
func FuzzString(f *testing.F) {
	f.Add("plain")
	f.Add("a\u2028<\xff")
	f.Fuzz(func(t *testing.T, s string) { same(t, s) })
}

// TestMemo writes pods that share parts, and others, one after the other.
func TestMemo(t *testing.T) {
	var memo Memo
	var pods []*corev1.Pod
	f := filler(1)
	for i := range 200 {
		p := &corev1.Pod{}
		f.Fill(p)
		if i%3 > 0 {
			p.Spec.Containers, p.Spec.Tolerations = pods[i-1].Spec.Containers, pods[i-1].Spec.Tolerations
			p.OwnerReferences = pods[i-1].OwnerReferences
		}
		if n := len(p.Spec.Containers); i%5 == 0 && n > 0 {
			p.Spec.Containers = p.Spec.Containers[:n-1] // the same array, another length
		}
		pods = append(pods, p)
	}
	for i, p := range pods {
		want, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Append([]byte("before"), p, &memo)
		if err != nil || !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Fatalf("pod %d: %v\n got %s\nwant %s", i, err, got, want)
		}
	}
}
