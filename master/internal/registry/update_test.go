package registry_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// put replaces an object as a client's PUT does: the same body however often it is asked for.
func put[T resource.Object](e *env, o T, opts server.UpdateOptions) (T, bool, error) {
	out, created, err := e.Update(e.ctx, resOf(o), "", o.GetNamespace(), o.GetName(), opts,
		func(resource.Object) (resource.Object, error) { return o.DeepCopyObject().(resource.Object), nil })
	if err != nil {
		var none T
		return none, false, err
	}
	return out.(T), created, nil
}

func TestUpdateConflicts(t *testing.T) {
	e := start(t)
	first := mustCreate(e, configMap("a"))
	mustChange(e, "", first, func(c *corev1.ConfigMap) { c.Data = map[string]string{"k": "1"} })
	stale := first.DeepCopy()
	stale.Data = map[string]string{"k": "2"}
	_, _, err := put(e, stale, server.UpdateOptions{})
	wantErr(t, err, metav1.StatusReasonConflict,
		`Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`)
	stale.ResourceVersion, stale.UID = "", "another"
	_, _, err = put(e, stale, server.UpdateOptions{})
	wantErr(t, err, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: another, UID in object meta: "+string(first.UID))
	stale.UID = ""
	if got, _, err := put(e, stale, server.UpdateOptions{}); err != nil || got.Data["k"] != "2" || got.UID != first.UID || got.CreationTimestamp != first.CreationTimestamp {
		t.Errorf("without a resourceVersion: %v %v", got, err)
	}
	_, err = change(e, "", configMap("nobody"), func(*corev1.ConfigMap) {})
	wantErr(t, err, metav1.StatusReasonNotFound, `configmaps "nobody" not found`)

	broken := errors.New("no")
	if _, _, err := e.Update(e.ctx, res("configmaps"), "", "default", "a", server.UpdateOptions{}, func(resource.Object) (resource.Object, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("the change's own error: %v", err)
	}
}

func TestUpdateNothingCostsNothing(t *testing.T) {
	e := start(t)
	c := mustCreate(e, configMap("a"))
	before := e.revision()
	got := mustChange(e, "", c, func(*corev1.ConfigMap) {})
	if got.ResourceVersion != c.ResourceVersion || e.revision() != before {
		t.Errorf("resourceVersion %s → %s, revision %d → %d", c.ResourceVersion, got.ResourceVersion, before, e.revision())
	}
}

// A client that writes tolerations of its own need not know of those that every pod gets.
func TestUpdateKeepsDefaultTolerations(t *testing.T) {
	e := start(t)
	p := mustCreate(e, pod("a"))
	p = mustChange(e, "", p, func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "mine", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	})
	if len(p.Spec.Tolerations) != 3 || p.Spec.Tolerations[0].Key != "mine" || p.Generation != 2 {
		t.Errorf("generation %d, tolerations %v", p.Generation, p.Spec.Tolerations)
	}
}

func TestUpdateDryRun(t *testing.T) {
	e := start(t)
	c := mustCreate(e, configMap("a"))
	dry := server.UpdateOptions{WriteOptions: server.WriteOptions{DryRun: true}}
	wish := c.DeepCopy()
	wish.Data = map[string]string{"k": "1"}
	got, _, err := put(e, wish, dry)
	if err != nil {
		t.Fatal(err)
	}
	// `kubectl diff` shows what a dry run returns: nothing but the change may differ.
	if got.Data["k"] != "1" || got.ResourceVersion != c.ResourceVersion {
		t.Errorf("dry run gives %+v", got)
	}
	if now := mustGet(e, c); len(now.Data) != 0 || now.ResourceVersion != c.ResourceVersion {
		t.Errorf("a dry run was kept: %+v", now)
	}
	dry.CreateOnUpdate = true
	if _, created, err := put(e, configMap("b"), dry); err != nil || !created {
		t.Error(created, err)
	}
	if _, err := get(e, configMap("b")); err == nil {
		t.Error("a dry run made an object")
	}
}

func TestUpdateUnconditional(t *testing.T) {
	e := start(t)
	svc := mustCreate(e, service("web", corev1.ServiceTypeClusterIP, 80))
	again := service("web", corev1.ServiceTypeClusterIP, 80)
	got, _, err := put(e, again, server.UpdateOptions{})
	if err != nil || got.Spec.ClusterIP != svc.Spec.ClusterIP || got.ResourceVersion != svc.ResourceVersion {
		t.Errorf("the manifest again: %v %v", got, err)
	}
}

func TestCreateOnUpdate(t *testing.T) {
	e := start(t)
	upsert := server.UpdateOptions{CreateOnUpdate: true}
	got, created, err := put(e, configMap("a"), upsert)
	if err != nil || !created || got.UID == "" {
		t.Fatal(got, created, err)
	}
	if _, created, err = put(e, configMap("a"), upsert); err != nil || created {
		t.Error(created, err)
	}
	gone := configMap("b")
	gone.UID = "was"
	_, _, err = put(e, gone, upsert)
	wantErr(t, err, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: was, UID in object meta: ")
	// Many at once: one makes it, the others update it.
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			_, _, err := e.Update(e.ctx, res("configmaps"), "", "default", "race", upsert, func(cur resource.Object) (resource.Object, error) {
				if cur == nil {
					cur = configMap("race")
				}
				c := cur.(*corev1.ConfigMap)
				if c.Data == nil {
					c.Data = map[string]string{}
				}
				c.Data[fmt.Sprint(i)] = "x"
				return c, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if c := mustGet(e, configMap("race")); len(c.Data) != 16 {
		t.Errorf("%d of 16 writes are there", len(c.Data))
	}
}

func TestUpdateSubresources(t *testing.T) {
	e := start(t)
	p := e.bound("web")
	got := mustChange(e, "status", p, func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		p.Spec.NodeName = "elsewhere"
	})
	if got.Status.Phase != corev1.PodRunning || got.Spec.NodeName != "n1" {
		t.Errorf("status wrote %s %s", got.Status.Phase, got.Spec.NodeName)
	}
	got = mustChange(e, "", p, func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodFailed
		p.Spec.Containers[0].Image = "nginx:2"
	})
	if got.Status.Phase != corev1.PodRunning || got.Spec.Containers[0].Image != "nginx:2" || got.Generation != p.Generation+1 {
		t.Errorf("update wrote %s %s, generation %d → %d", got.Status.Phase, got.Spec.Containers[0].Image, p.Generation, got.Generation)
	}
	_, err := change(e, "", p, func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} })
	wantErr(t, err, metav1.StatusReasonInvalid, "pod updates may not change fields other than")
	_, err = change(e, "", p, func(p *corev1.Pod) { p.Name = "other" })
	if err == nil {
		t.Error("a pod was renamed")
	}
}

func TestUpdateCompletesDeletion(t *testing.T) {
	e := start(t)
	c := configMap("a")
	c.Finalizers = []string{"example.com/wait"}
	c = mustCreate(e, c)
	if done, err := e.delete(c, server.DeleteOptions{}); done || err != nil {
		t.Fatal(done, err)
	}
	c = mustGet(e, c)
	if c.DeletionTimestamp == nil || *c.DeletionGracePeriodSeconds != 0 {
		t.Fatalf("%+v", c.ObjectMeta)
	}
	_, err := change(e, "", c, func(c *corev1.ConfigMap) { c.Finalizers = append(c.Finalizers, "example.com/more") })
	wantErr(t, err, metav1.StatusReasonInvalid, "no new finalizers can be added if the object is being deleted")
	if got := mustChange(e, "", c, func(c *corev1.ConfigMap) { c.DeletionTimestamp = nil }); got.DeletionTimestamp == nil {
		t.Error("a deletion was taken back")
	}
	mustChange(e, "", c, func(c *corev1.ConfigMap) { c.Finalizers = nil })
	if _, err := get(e, c); err == nil {
		t.Error("the object is still there without finalizers")
	}
}
