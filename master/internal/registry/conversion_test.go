package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/resource/custom"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
)

// gadgets is a kind of two versions that a webhook converts, of the same fields.
func gadgets() *apiextensionsv1.CustomResourceDefinition {
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "gadgets.example.com", UID: "u", Generation: 1}}
	names := apiextensionsv1.CustomResourceDefinitionNames{Plural: "gadgets", Singular: "gadget", Kind: "Gadget", ListKind: "GadgetList"}
	free := true
	crd.Spec = apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Names: names,
		Conversion: &apiextensionsv1.CustomResourceConversion{
			Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{ConversionReviewVersions: []string{"v1"}},
		},
	}
	for _, version := range []string{"v1", "v2"} {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: version, Served: true, Storage: version == "v1",
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &free}},
		})
	}
	crd.Status.AcceptedNames = names
	crd.Status.Conditions = []apiextensionsv1.CustomResourceDefinitionCondition{{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue}}
	return crd
}

// slowly converts, which takes a second.
func slowly(ctx context.Context, body []byte) ([]byte, error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var r apiextensionsv1.ConversionReview
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, err
	}
	r.Response = &apiextensionsv1.ConversionResponse{UID: r.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range r.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			return nil, err
		}
		u.SetAPIVersion(r.Request.DesiredAPIVersion)
		data, err := u.MarshalJSON()
		if err != nil {
			return nil, err
		}
		r.Response.ConvertedObjects = append(r.Response.ConvertedObjects, runtime.RawExtension{Raw: data})
	}
	r.Request = nil
	return json.Marshal(&r)
}

// TestWatchThatIsInterruptedWhileItConverts: what the end of a wait cuts off is neither lost nor told to have been seen.
func TestWatchThatIsInterruptedWhileItConverts(t *testing.T) {
	table := resource.NewTable()
	table.ConvertBy(func(*apiextensionsv1.CustomResourceDefinition) (custom.Webhook, error) { return slowly, nil })
	synctest.Test(t, func(t *testing.T) {
		s, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db"), Schema: registry.Schema(table), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		r := registry.New(s, registry.Config{
			Table: table, ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), NodePortFirst: 30000, NodePortLast: 30001, Logger: slog.New(slog.DiscardHandler),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		changed, errs := table.SetCustom([]*apiextensionsv1.CustomResourceDefinition{gadgets()})
		if len(changed) != 1 || len(errs) > 0 {
			t.Fatal(errs)
		}
		changed[0].Settle(0)
		namespaces, _ := table.ByKey("namespaces")
		if _, err := r.Create(ctx, namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, server.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		in := func(version string) *resource.Resource {
			res, _ := table.Lookup(schema.GroupVersion{Group: "example.com", Version: version}, "gadgets")
			return res
		}
		w, err := r.Watch(ctx, in("v2"), server.WatchQuery{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		before := w.ResourceVersion()
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Gadget"})
		u.SetName("a")
		made, err := r.Create(ctx, in("v1"), "default", u, server.WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			turn, stop := context.WithTimeout(ctx, time.Millisecond)
			events, err := w.Next(turn)
			stop()
			if !errors.Is(err, context.DeadlineExceeded) || w.ResourceVersion() != before {
				t.Fatal(events, err, w.ResourceVersion())
			}
		}
		events, err := w.Next(ctx)
		if err != nil || len(events) != 1 || events[0].Type != "ADDED" || events[0].Object.GetName() != "a" || w.ResourceVersion() != made.GetResourceVersion() {
			t.Fatal(events, err, w.ResourceVersion())
		}
		if got := events[0].Object.GetObjectKind().GroupVersionKind().Version; got != "v2" {
			t.Error("seen in", got)
		}
	})
}
