package registry_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func TestDeleteGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		for _, c := range []struct {
			name   string
			spec   *int64 // the pod's own
			asked  *int64
			phase  corev1.PodPhase
			free   bool
			want   int64
			atOnce bool
		}{
			{name: "default", want: 30},
			{name: "own", spec: ptr(int64(5)), want: 5},
			{name: "asked", asked: ptr(int64(7)), want: 7},
			{name: "now", asked: ptr(int64(0)), atOnce: true},
			{name: "negative", asked: ptr(int64(-1)), want: 1},
			{name: "negative-own", spec: ptr(int64(-4)), want: 1},
			{name: "unscheduled", free: true, atOnce: true},
			{name: "succeeded", phase: corev1.PodSucceeded, atOnce: true},
			{name: "failed", phase: corev1.PodFailed, asked: ptr(int64(9)), atOnce: true},
			{name: "running", phase: corev1.PodRunning, want: 30},
		} {
			p := pod(c.name)
			p.Spec.TerminationGracePeriodSeconds = c.spec
			p = mustCreate(e, p)
			if !c.free {
				if err := e.Transact(e.ctx, func(tx *registry.Tx) error { return tx.Bind(p, "n1") }); err != nil {
					t.Fatal(err)
				}
			}
			if c.phase != "" {
				mustChange(e, "status", p, func(p *corev1.Pod) { p.Status.Phase = c.phase })
			}
			done, err := e.delete(p, server.DeleteOptions{GracePeriodSeconds: c.asked})
			if err != nil || done != c.atOnce {
				t.Errorf("%s: done %v, %v", c.name, done, err)
			}
			if c.atOnce {
				if _, err := get(e, p); err == nil {
					t.Errorf("%s: still there", c.name)
				}
				continue
			}
			got := mustGet(e, p)
			in := time.Until(got.DeletionTimestamp.Time).Seconds()
			if *got.DeletionGracePeriodSeconds != c.want || in > float64(c.want) || in < float64(c.want)-1 || got.Generation != p.Generation+1 {
				t.Errorf("%s: grace %d, at %v from now, generation %d → %d", c.name, *got.DeletionGracePeriodSeconds, in, p.Generation, got.Generation)
			}
		}
	})
}

func TestDeleteAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		p := e.bound("web")
		del := func(grace *int64) (bool, *corev1.Pod) {
			t.Helper()
			done, err := e.delete(p, server.DeleteOptions{GracePeriodSeconds: grace})
			if err != nil {
				t.Fatal(err)
			}
			got, _ := get(e, p)
			return done, got
		}
		_, first := del(ptr(int64(60)))
		time.Sleep(2 * time.Second)
		if _, got := del(nil); *got.DeletionGracePeriodSeconds != 60 || got.ResourceVersion != first.ResourceVersion {
			t.Error("a second deletion without a grace period changed the first")
		}
		if _, got := del(ptr(int64(90))); *got.DeletionGracePeriodSeconds != 60 {
			t.Error("a second deletion lengthened the first")
		}
		_, got := del(ptr(int64(10)))
		if *got.DeletionGracePeriodSeconds != 10 || got.DeletionTimestamp.Sub(first.DeletionTimestamp.Time) != -50*time.Second || got.Generation != first.Generation {
			t.Errorf("shortened: %+v", got.ObjectMeta)
		}
		// Its containers have ended; its agent takes it away, not the impatient user.
		mustChange(e, "status", p, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		if done, _ := del(nil); done {
			t.Error("a third deletion without a grace period took the pod away")
		}
		if done, got := del(ptr(int64(0))); !done || got != nil {
			t.Error("a forced deletion left the pod")
		}
	})
}

func TestDeleteFinalizers(t *testing.T) {
	e := start(t)
	for policy, want := range map[metav1.DeletionPropagation][]string{
		metav1.DeletePropagationForeground: {"example.com/own", metav1.FinalizerDeleteDependents},
		metav1.DeletePropagationOrphan:     {"example.com/own", metav1.FinalizerOrphanDependents},
		metav1.DeletePropagationBackground: {"example.com/own"},
	} {
		c := configMap("a")
		c.Finalizers = []string{"example.com/own", metav1.FinalizerOrphanDependents}
		c = mustCreate(e, c)
		if done, err := e.delete(c, server.DeleteOptions{Propagation: &policy}); done || err != nil {
			t.Fatal(done, err)
		}
		if got := mustGet(e, c); !slices.Equal(got.Finalizers, want) {
			t.Errorf("%s: finalizers %v", policy, got.Finalizers)
		}
		mustChange(e, "", c, func(c *corev1.ConfigMap) { c.Finalizers = nil })
	}
	plain := mustCreate(e, configMap("b"))
	if done, err := e.delete(plain, server.DeleteOptions{Propagation: ptr(metav1.DeletePropagationBackground)}); !done || err != nil {
		t.Error(done, err)
	}
}

func TestDeletePreconditions(t *testing.T) {
	e := start(t)
	c := mustCreate(e, configMap("a"))
	_, err := e.delete(c, server.DeleteOptions{UID: ptr(types.UID("other"))})
	wantErr(t, err, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: other, UID in object meta: "+string(c.UID))
	_, err = e.delete(c, server.DeleteOptions{ResourceVersion: ptr("1")})
	wantErr(t, err, metav1.StatusReasonConflict, "Precondition failed: ResourceVersion in precondition: 1")
	if done, err := e.delete(c, server.DeleteOptions{WriteOptions: server.WriteOptions{DryRun: true}}); !done || err != nil {
		t.Error(done, err)
	}
	if done, err := e.delete(c, server.DeleteOptions{UID: &c.UID, ResourceVersion: &c.ResourceVersion}); !done || err != nil {
		t.Error(done, err)
	}
	_, err = e.delete(c, server.DeleteOptions{})
	wantErr(t, err, metav1.StatusReasonNotFound, `configmaps "a" not found`)
	_, err = e.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, server.DeleteOptions{})
	wantErr(t, err, metav1.StatusReasonForbidden, `namespaces "default" is forbidden: this namespace may not be deleted`)
}

func TestDeleteCollection(t *testing.T) {
	e := start(t)
	for i := range 20 {
		c := configMap(fmt.Sprintf("c%02d", i))
		c.Labels = map[string]string{"half": fmt.Sprint(i % 2)}
		if i == 4 {
			c.Finalizers = []string{"example.com/wait"}
		}
		mustCreate(e, c)
	}
	q := server.ListQuery{Namespace: "default", Labels: labels.SelectorFromSet(labels.Set{"half": "0"})}
	if _, err := e.Registry.DeleteCollection(e.ctx, res("configmaps"), q, server.DeleteOptions{WriteOptions: server.WriteOptions{DryRun: true}}); err != nil {
		t.Fatal(err)
	}
	gone, err := e.Registry.DeleteCollection(e.ctx, res("configmaps"), q, server.DeleteOptions{})
	if err != nil || len(gone) != 10 {
		t.Fatal(len(gone), err)
	}
	left, err := e.List(e.ctx, res("configmaps"), server.ListQuery{Namespace: "default"})
	if err != nil || len(left.Items) != 11 {
		t.Errorf("%d left, %v", len(left.Items), err)
	}
}

func TestBinding(t *testing.T) {
	e := start(t)
	bind := func(name string, b corev1.Binding) error {
		_, err := e.Act(e.ctx, res("pods"), "binding", "default", name, &b, server.WriteOptions{})
		return err
	}
	to := func(node string) corev1.Binding {
		return corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	}
	p := mustCreate(e, pod("web"))
	wantErr(t, bind("nobody", to("n1")), metav1.StatusReasonNotFound, `pods "nobody" not found`)
	wantErr(t, bind("web", corev1.Binding{}), metav1.StatusReasonBadRequest, "target")
	wrong := to("n1")
	wrong.UID = "other"
	wantErr(t, bind("web", wrong), metav1.StatusReasonConflict, "Precondition failed: UID in precondition: other")
	good := to("n1")
	good.UID, good.Annotations = p.UID, map[string]string{"by": "me"}
	if err := bind("web", good); err != nil {
		t.Fatal(err)
	}
	got := mustGet(e, p)
	if got.Spec.NodeName != "n1" || got.Annotations["by"] != "me" || got.Status.Conditions[0].Type != corev1.PodScheduled || got.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("bound: %+v", got)
	}
	wantErr(t, bind("web", to("n2")), metav1.StatusReasonConflict, `Operation cannot be fulfilled on pods/binding "web": pod web is already assigned to node "n1"`)

	gated := pod("gated")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	mustCreate(e, gated)
	wantErr(t, bind("gated", to("n1")), metav1.StatusReasonConflict, "has non-empty .spec.schedulingGates")
	held := pod("held")
	held.Finalizers = []string{"example.com/wait"}
	held = mustCreate(e, held)
	if _, err := e.delete(held, server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, bind("held", to("n1")), metav1.StatusReasonConflict, "pod held is being deleted, cannot be assigned to a host")
}

func TestEviction(t *testing.T) {
	e := start(t)
	p := e.bound("web")
	evict := func(ev policyv1.Eviction) error {
		_, err := e.Act(e.ctx, res("pods"), "eviction", "default", "web", &ev, server.WriteOptions{})
		return err
	}
	wantErr(t, evict(policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "other"}}), metav1.StatusReasonBadRequest, "name in URL does not match name in Eviction object")
	wantErr(t, evict(policyv1.Eviction{DeleteOptions: metav1.NewPreconditionDeleteOptions("other")}), metav1.StatusReasonConflict, "the UID in the precondition (other) does not match the UID in record")
	dry := policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}}
	if err := evict(dry); err != nil || mustGet(e, p).ResourceVersion != p.ResourceVersion {
		t.Error("dry run", err)
	}
	if err := evict(policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(3)), Preconditions: &metav1.Preconditions{ResourceVersion: &p.ResourceVersion}}}); err != nil {
		t.Fatal(err)
	}
	got := mustGet(e, p)
	last := got.Status.Conditions[len(got.Status.Conditions)-1]
	if got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 3 || last.Type != corev1.DisruptionTarget || last.Reason != "EvictionByEvictionAPI" {
		t.Errorf("evicted: %+v %+v", got.ObjectMeta, got.Status.Conditions)
	}
	if err := evict(policyv1.Eviction{}); err != nil {
		t.Error("a second eviction:", err)
	}
	if _, err := e.delete(p, server.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, evict(policyv1.Eviction{}), metav1.StatusReasonNotFound, `pods "web" not found`)
}
