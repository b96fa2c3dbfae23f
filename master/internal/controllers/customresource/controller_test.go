package customresource

import (
	"testing"
	"testing/synctest"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

type definition = apiextensionsv1.CustomResourceDefinition

var exampleV1 = schema.GroupVersion{Group: "example.com", Version: "v1"}

func crd(plural, kind string) *definition {
	d := &definition{ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"}}
	d.Spec.Group, d.Spec.Scope = exampleV1.Group, apiextensionsv1.NamespaceScoped
	d.Spec.Names = names4(plural, plural[:len(plural)-1], kind, kind+"List")
	d.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
		Name: "v1", Served: true, Storage: true,
		Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
	}}
	return d
}

// start runs the controller in a bubble, on a table that is as before in the end.
func start(t *testing.T) *ct.Env {
	e := ct.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	t.Cleanup(func() { ct.Table().SetCustom(nil) })
	return e
}

func served(plural string) bool {
	_, ok := ct.Table().Lookup(exampleV1, plural)
	return ok
}

func TestNamesAreServedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, crd("widgets", "Widget"))
		ct.Settle(time.Second)
		if d := ct.Get[*definition](e, "", "widgets.example.com"); !isTrue(d, apiextensionsv1.Established) || !served("widgets") {
			t.Fatalf("%+v", d.Status)
		}
		ct.Create(e, crd("gadgets", "Widget"))
		ct.Settle(time.Second)
		if d := ct.Get[*definition](e, "", "gadgets.example.com"); isTrue(d, apiextensionsv1.NamesAccepted) || isTrue(d, apiextensionsv1.Established) || served("gadgets") {
			t.Fatalf("%+v", d.Status)
		}
		// The kind is free once the first one has gone.
		ct.Delete[*definition](e, "", "widgets.example.com", registry.DeleteOptions{})
		ct.Settle(time.Second)
		if _, err := ct.Find[*definition](e, "", "widgets.example.com"); !apierrors.IsNotFound(err) || served("widgets") {
			t.Fatal("still there", err)
		}
		if d := ct.Get[*definition](e, "", "gadgets.example.com"); !isTrue(d, apiextensionsv1.Established) || !served("gadgets") {
			t.Fatalf("%+v", d.Status)
		}
	})
}

func TestObjectsGoBeforeTheirDefinition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, crd("widgets", "Widget"))
		ct.Settle(time.Second)
		for name, finalizer := range map[string]string{"free": "", "held": "example.com/hold"} {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(exampleV1.WithKind("Widget"))
			u.SetNamespace("default")
			u.SetName(name)
			if finalizer != "" {
				u.SetFinalizers([]string{finalizer})
			}
			ct.Create(e, u)
		}
		ct.Delete[*definition](e, "", "widgets.example.com", registry.DeleteOptions{})
		ct.Settle(time.Second)
		d := ct.Get[*definition](e, "", "widgets.example.com")
		if c := find(d, apiextensionsv1.Terminating); c == nil || c.Status != apiextensionsv1.ConditionTrue || c.Reason != "InstanceDeletionInProgress" {
			t.Fatalf("%+v", d.Status)
		}
		if r, ok := ct.Table().Lookup(exampleV1, "widgets"); !ok || !r.Terminating() {
			t.Error("new objects would be taken")
		}
		var left []string
		e.Update(func(tx *registry.Tx) error {
			left = nil
			for o := range tx.List("widgets.example.com", "", registry.Key{}) {
				left = append(left, o.GetName())
				u := o.DeepCopyObject().(*unstructured.Unstructured)
				u.SetFinalizers(nil)
				if _, err := registry.Put(tx, u); err != nil {
					return err
				}
			}
			return nil
		})
		if len(left) != 1 || left[0] != "held" {
			t.Errorf("left are %v", left)
		}
		ct.Settle(time.Second)
		if _, err := ct.Find[*definition](e, "", "widgets.example.com"); !apierrors.IsNotFound(err) {
			t.Error("the definition is still there", err)
		}
	})
}
