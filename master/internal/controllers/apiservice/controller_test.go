package apiservice

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func definition(versions ...string) *apiextensionsv1.CustomResourceDefinition {
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "whales.sea.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "sea.example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "whales", Singular: "whale", Kind: "Whale", ListKind: "WhaleList"},
		},
	}
	for i, v := range versions {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: v, Served: true, Storage: i == 0,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
		})
	}
	return crd
}

func external(group, version string) *apiregistrationv1.APIService {
	port := int32(443)
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: version + "." + group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: group, Version: version, GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "api", Port: &port},
		},
	}
}

var builtin = []schema.GroupVersion{
	{Version: "v1"}, {Group: "apps", Version: "v1"}, {Group: "apiregistration.k8s.io", Version: "v1"}, {Group: metricsGroup, Version: "v1beta1"},
}

func names(e *controllertest.Env) (out []string) {
	controllertest.Settle(time.Second)
	for _, s := range controllertest.List[*apiregistrationv1.APIService](e, "") {
		out = append(out, s.Name)
	}
	slices.Sort(out)
	return out
}

func start(e *controllertest.Env) (stop func()) {
	return e.Start(New(Config{Registry: e.Registry, Builtin: builtin, Logger: e.Logger}).Run)
}

// There is one for each version that the master serves; what people made is theirs; what they changed or deleted stays so
// until the next start, but for custom kinds.
func TestLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		controllertest.Create(e, external("example.com", "v1"))
		stale := external("old.example.com", "v1")
		stale.Labels, stale.Spec.Service, stale.Spec.InsecureSkipTLSVerify = map[string]string{labelManaged: managedStart}, nil, false
		controllertest.Create(e, stale)
		stop := start(e)
		want := []string{"v1.", "v1.apps", "v1.example.com", "v1beta1.metrics.k8s.io"}
		check := func(what string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, names(e)); diff != "" {
				t.Error(what, diff)
			}
		}
		check("at the start", want...)
		core := controllertest.Get[*apiregistrationv1.APIService](e, "", "v1.")
		if c := core.Status.Conditions; len(c) != 1 || c[0].Status != apiregistrationv1.ConditionTrue || c[0].Reason != "Local" || core.Spec.GroupPriorityMinimum != 18000 {
			t.Errorf("%+v", core)
		}
		controllertest.Create(e, definition("v1", "v1alpha1"))
		check("a definition", "v1.", "v1.apps", "v1.example.com", "v1.sea.example.com", "v1alpha1.sea.example.com", "v1beta1.metrics.k8s.io")
		controllertest.Delete[*apiregistrationv1.APIService](e, "", "v1.sea.example.com", registry.DeleteOptions{})
		controllertest.Change(e, "", "whales.sea.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec.Versions[1].Served = false })
		check("a version less, another deleted by hand", "v1.", "v1.apps", "v1.example.com", "v1.sea.example.com", "v1beta1.metrics.k8s.io")
		controllertest.Delete[*apiregistrationv1.APIService](e, "", "v1.apps", registry.DeleteOptions{})
		check("a built-in one deleted by hand", "v1.", "v1.example.com", "v1.sea.example.com", "v1beta1.metrics.k8s.io")
		stop()
		start(e)
		check("the next start", "v1.", "v1.apps", "v1.example.com", "v1.sea.example.com", "v1beta1.metrics.k8s.io")
	})
}

// Whoever installs metrics-server has it until it is deleted, also over restarts of the master.
func TestMetricsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		stop := start(e)
		names(e)
		controllertest.Change(e, "", "v1beta1.metrics.k8s.io", func(s *apiregistrationv1.APIService) { s.Spec = external(metricsGroup, "v1beta1").Spec })
		service := func() *apiregistrationv1.ServiceReference {
			controllertest.Settle(time.Second)
			return controllertest.Get[*apiregistrationv1.APIService](e, "", "v1beta1.metrics.k8s.io").Spec.Service
		}
		if service() == nil {
			t.Error("metrics-server's registration was taken back")
		}
		stop()
		start(e)
		if service() == nil {
			t.Error("metrics-server's registration was taken back at the start")
		}
		controllertest.Delete[*apiregistrationv1.APIService](e, "", "v1beta1.metrics.k8s.io", registry.DeleteOptions{})
		if service() != nil {
			t.Error("metrics are nobody's after metrics-server was deleted")
		}
	})
}

// What is there at the start is known to be, before the first of it can have its turn.
func TestStartIsKnownBeforeTurns(t *testing.T) {
	e := controllertest.New(t)
	c := New(Config{Registry: e.Registry, Builtin: builtin, Logger: e.Logger})
	turns := 0
	err := e.Registry.View(func(v *registry.View) error {
		c.all(v, func(k controller.Key) {
			if turns++; !c.isFirst(k.Name) {
				t.Errorf("%s may have its turn and does not count as the first", k.Name)
			}
		})
		return nil
	})
	if err != nil || turns == 0 {
		t.Errorf("%d turns, %v", turns, err)
	}
}
