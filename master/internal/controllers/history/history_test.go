package history_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/history"
	"github.com/whalepod/whalepod/master/internal/registry"
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

func newSet(e *controllertest.Env) *appsv1.StatefulSet {
	return controllertest.Create(e, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db", Annotations: map[string]string{"kubernetes.io/change-cause": "first"}},
		Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}}, Spec: controllertest.PodSpec()},
		},
	})
}

// turn does what a controller does; live names revisions in use.
func turn(e *controllertest.Env, set *appsv1.StatefulSet, limit int32, live ...string) *history.History {
	e.T.Helper()
	var h *history.History
	e.Update(func(tx *registry.Tx) error {
		h = history.Read(tx, history.Owner{
			Object: set, Kind: kind, Selector: labels.SelectorFromSet(set.Spec.Selector.MatchLabels),
			Template: &set.Spec.Template, Collisions: set.Status.CollisionCount, HashLabel: "controller.kubernetes.io/hash",
		})
		if err := h.Resolve(); err != nil {
			return err
		}
		h.Truncate(&limit, func(r *appsv1.ControllerRevision) bool { return strings.Contains(strings.Join(live, " "), r.Name) })
		return h.Write(tx)
	})
	return h
}

func numbers(h *history.History) (out []int64) {
	for _, r := range h.Revisions {
		out = append(out, r.Revision)
	}
	return out
}

func TestRevisionsOfTemplates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		set := newSet(e).DeepCopy()
		first := turn(e, set, 10).Current
		stored := controllertest.Get[*appsv1.ControllerRevision](e, "default", first.Name)
		if stored.Revision != 1 || stored.Labels["app"] != "db" || "db-"+stored.Labels["controller.kubernetes.io/hash"] != stored.Name ||
			stored.Annotations["kubernetes.io/change-cause"] != "first" || !metav1.IsControlledBy(stored, set) {
			t.Errorf("revision %+v", stored)
		}
		if h := turn(e, set, 10); !h.Idle() || h.Current.Name != first.Name {
			t.Error("an unchanged template made work")
		}

		set.Spec.Template.Spec.Containers[0].Image = "nginx:2"
		second := turn(e, set, 10).Current
		if second.Revision != 2 || second.Name == first.Name {
			t.Errorf("second revision %+v", second)
		}
		// kubectl rollout undo sends the data as a strategic merge patch.
		text, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		patched, err := strategicpatch.StrategicMergePatch(text, stored.Data.Raw, set)
		if err != nil {
			t.Fatal(err)
		}
		var undone appsv1.StatefulSet
		if err := json.Unmarshal(patched, &undone); err != nil || undone.Spec.Template.Spec.Containers[0].Image != "nginx" {
			t.Errorf("undone: %v %+v", err, undone.Spec.Template)
		}
		set.Spec = undone.Spec
		back := turn(e, set, 10)
		if back.Current.Name != first.Name || back.Current.Revision != 3 || len(back.Revisions) != 2 {
			t.Errorf("after going back: %+v of %v", back.Current, numbers(back))
		}
		if got := controllertest.Get[*appsv1.ControllerRevision](e, "default", first.Name).Revision; got != 3 {
			t.Errorf("stored number %d", got)
		}
	})
}

func TestSameTemplateInOtherBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		set := newSet(e)
		own := turn(e, set, 10).Current
		// Spaces, and an old release's null: the same template.
		other := strings.Replace(string(own.Data.Raw), `"template":{`, `"template": {`, 1)
		other = strings.Replace(other, `"metadata":{`, `"metadata":{"creationTimestamp":null,`, 1)
		controllertest.Delete[*appsv1.ControllerRevision](e, "default", own.Name, registry.DeleteOptions{})
		controllertest.Create(e, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-old", Labels: map[string]string{"app": "db"}},
			Data:       runtime.RawExtension{Raw: []byte(other)}, Revision: 7,
		})
		h := turn(e, set, 10)
		if h.Current.Name != "db-old" || len(h.Revisions) != 1 || h.Current.Revision != 7 {
			t.Errorf("current %+v of %v", h.Current, numbers(h))
		}
		if adopted := controllertest.Get[*appsv1.ControllerRevision](e, "default", "db-old"); !metav1.IsControlledBy(adopted, set) {
			t.Error("the orphan was not adopted")
		}
	})
}

func TestTakenNameCountsCollisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		set := newSet(e)
		name := turn(e, set, 10).Current.Name
		controllertest.Delete[*appsv1.ControllerRevision](e, "default", name, registry.DeleteOptions{})
		yes := true
		controllertest.Create(e, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "x", UID: "x", Controller: &yes}}},
			Data:       runtime.RawExtension{Raw: []byte(`{"a":1}`)}, Revision: 1,
		})
		h := turn(e, set, 10)
		if h.Collisions != 1 || h.Current.Name == name || len(h.Revisions) != 1 {
			t.Errorf("collisions %d, current %s", h.Collisions, h.Current.Name)
		}
	})
}

func TestTruncateKeepsWhatIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		set := newSet(e).DeepCopy()
		first := turn(e, set, -1).Current.Name
		for _, image := range []string{"b", "c", "d", "e"} {
			set.Spec.Template.Spec.Containers[0].Image = image
			turn(e, set, -1)
		}
		h := turn(e, set, 1, first)
		if got := numbers(h); len(got) != 3 || got[0] != 1 || got[1] != 4 || got[2] != 5 {
			t.Errorf("kept %v, want the used 1, one more and the current", got)
		}
		if n := len(controllertest.List[*appsv1.ControllerRevision](e, "default")); n != 3 {
			t.Errorf("%d stored", n)
		}
		if got := numbers(turn(e, set, 0)); len(got) != 1 || got[0] != 5 {
			t.Errorf("a limit of 0 kept %v", got)
		}
	})
}

func TestOwnerThatGoesMakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		set := newSet(e).DeepCopy()
		now := metav1.Now()
		set.DeletionTimestamp = &now
		if h := turn(e, set, 0); h.Current != nil || !h.Idle() {
			t.Errorf("made %+v", h.Current)
		}
		controllertest.Create(e, &appsv1.ControllerRevision{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-old", Labels: map[string]string{"app": "db"}},
			Data:       runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}, Revision: 1,
		})
		if h := turn(e, set, 0); len(h.Revisions) != 0 {
			t.Error("adopted while being deleted")
		}
	})
}
