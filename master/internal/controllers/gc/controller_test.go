package gc

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func configMap(name string, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	for _, o := range owners {
		block := true
		cm.OwnerReferences = append(cm.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: &block,
		})
	}
	return cm
}

func names(e *ct.Env) (out []string) {
	for _, cm := range ct.List[*corev1.ConfigMap](e, "default") {
		out = append(out, cm.Name)
	}
	slices.Sort(out)
	return out
}

func start(t *testing.T) *ct.Env {
	e := ct.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

func expect(t *testing.T, e *ct.Env, want ...string) {
	t.Helper()
	ct.Settle(time.Second)
	if got := names(e); !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

// An object's dependents go although its kind went with it: its UID is enough to know that it is gone. Of other owners whose kind
// nobody serves nothing is known, so what belongs to them stays.
func TestOwnersKindIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		c := New(Config{Registry: e.Registry, Logger: e.Logger})
		e.Start(c.Run)
		for name, owners := range map[string][]types.UID{"one": {"gone"}, "other": {"unknown"}, "both": {"gone", "unknown"}} {
			cm := configMap(name)
			for _, uid := range owners {
				cm.OwnerReferences = append(cm.OwnerReferences, metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Widget", Name: string(uid), UID: uid})
			}
			ct.Create(e, cm)
		}
		ct.Create(e, configMap("below", ct.Get[*corev1.ConfigMap](e, "default", "one")))
		expect(t, e, "below", "both", "one", "other")
		c.loop.Add(registry.Key{Resource: byOwner, Name: "gone"})
		expect(t, e, "both", "other")
	})
}

func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		a := ct.Create(e, configMap("a"))
		b := ct.Create(e, configMap("b", a))
		ct.Create(e, configMap("c", b))
		other := ct.Create(e, configMap("other"))
		ct.Create(e, configMap("shared", a, other))
		expect(t, e, "a", "b", "c", "other", "shared")
		ct.Delete[*corev1.ConfigMap](e, "default", "a", registry.DeleteOptions{})
		expect(t, e, "other", "shared")
		if refs := ct.Get[*corev1.ConfigMap](e, "default", "shared").OwnerReferences; len(refs) != 1 || refs[0].Name != "other" {
			t.Errorf("references %v", refs)
		}
	})
}

func TestAbsentOwnerAndNamesakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		a := ct.Create(e, configMap("a"))
		ghost := a.DeepCopy()
		ghost.UID = "another one of the same name"
		ct.Create(e, configMap("b", ghost))
		foreign := configMap("c", a)
		foreign.OwnerReferences[0].Kind, foreign.OwnerReferences[0].APIVersion = "Unknown", "example.com/v1"
		ct.Create(e, foreign)
		expect(t, e, "a", "c")
	})
}

func TestForeground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		a := ct.Create(e, configMap("a"))
		held := configMap("b", a)
		held.Finalizers = []string{"example.com/hold"}
		b := ct.Create(e, held)
		ct.Create(e, configMap("c", b))
		fg := metav1.DeletePropagationForeground
		ct.Delete[*corev1.ConfigMap](e, "default", "a", registry.DeleteOptions{Propagation: &fg})
		expect(t, e, "a", "b")
		ct.Change(e, "default", "b", func(cm *corev1.ConfigMap) { cm.Finalizers = nil })
		expect(t, e)
	})
}

func TestOrphan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		a := ct.Create(e, configMap("a"))
		ct.Create(e, configMap("b", a))
		o := metav1.DeletePropagationOrphan
		ct.Delete[*corev1.ConfigMap](e, "default", "a", registry.DeleteOptions{Propagation: &o})
		expect(t, e, "b")
		if refs := ct.Get[*corev1.ConfigMap](e, "default", "b").OwnerReferences; len(refs) != 0 {
			t.Errorf("references %v", refs)
		}
	})
}

func TestManyDependentsAndMissedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		a := ct.Create(e, configMap("a"))
		e.Update(func(tx *registry.Tx) error {
			for i := range 2*burst + 10 {
				if _, err := registry.Create(tx, configMap(fmt.Sprintf("d%d", i), a)); err != nil {
					return err
				}
			}
			return nil
		})
		ct.Delete[*corev1.ConfigMap](e, "default", "a", registry.DeleteOptions{})
		// Only now does the collector start: it has missed everything.
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Settle(time.Second)
		expect(t, e)
	})
}

// TestCircle: three objects that own each other in a circle do not wait for each other for ever.
func TestCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		a := ct.Create(e, configMap("a"))
		b := ct.Create(e, configMap("b", a))
		c := ct.Create(e, configMap("c", b))
		ct.Change(e, "default", "a", func(cm *corev1.ConfigMap) { cm.OwnerReferences = configMap("", c).OwnerReferences })
		fg := metav1.DeletePropagationForeground
		ct.Delete[*corev1.ConfigMap](e, "default", "a", registry.DeleteOptions{Propagation: &fg})
		expect(t, e)
	})
}
