package job

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// history is a Job in a real store whose controller has its turns when the test likes, and what is true of its pods.
type history struct {
	*ct.Env
	c    *Controller
	name string
	// skew is how much time the test has let pass.
	skew time.Duration
	// The book of pods that have ended, by UID; what a turn of the controller must have counted when it is through.
	succeeded, failed map[types.UID]bool
	// born are the indexes of all pods that ever were, by UID.
	born map[types.UID]int
}

func (h *history) key() registry.Key { return keyOf("default", h.name) }

func (h *history) now() time.Time { return time.Now().Add(h.skew) }

func (h *history) job() *batchv1.Job { return ct.Get[*batchv1.Job](h.Env, "default", h.name) }

func (h *history) pods() (out []*corev1.Pod) {
	for _, p := range ct.List[*corev1.Pod](h.Env, "default") {
		if p.Annotations["of"] == h.name {
			out = append(out, p)
		}
	}
	return out
}

func (h *history) newController() {
	h.c = New(Config{Registry: h.Registry, Logger: h.Logger})
	h.c.now = h.now
}

// ours says that the Job has a pod to count: it is not lost, and not nobody's, which nobody adopts once its deletion has begun.
func ours(p *corev1.Pod) bool {
	return hasFinalizer(p) && p.Labels["lost"] == "" && (metav1.GetControllerOf(p) != nil || p.DeletionTimestamp == nil)
}

// book notes what is true of the pods, in the moment before a turn.
func (h *history) book() {
	for _, p := range h.pods() {
		if !ours(p) || h.succeeded[p.UID] || h.failed[p.UID] {
			continue
		}
		if p.Status.Phase == corev1.PodSucceeded {
			h.succeeded[p.UID] = true
		} else if hasFailed(h.job(), p) {
			h.failed[p.UID] = true
		}
	}
}

// turn lets the controller work until it has nothing more to do at once.
func (h *history) turn(t *rapid.T) {
	for range 5 {
		h.book()
		before := h.job()
		var running []types.UID
		for _, p := range h.pods() {
			if ours(p) && !podstate.Ended(p) {
				running = append(running, p.UID)
			}
		}
		after, err := h.c.reconcile(h.Ctx, h.key())
		if err != nil {
			t.Fatalf("reconcile: %v", err)
		}
		for _, p := range h.pods() {
			if _, err := h.c.reconcile(h.Ctx, podKey(p)); err != nil {
				t.Fatalf("reconcile %s: %v", p.Name, err)
			}
		}
		job := h.job()
		if ended(before) == nil && holds(&before.Status, batchv1.JobFailureTarget) == nil && holds(&job.Status, batchv1.JobFailureTarget) != nil {
			for _, uid := range running { // what had not ended when the Job failed has failed
				h.failed[uid] = true
			}
		}
		h.check(t)
		if after != again { // there is nothing to do, or to wait for
			return
		}
	}
	t.Fatal("the controller asks for turn after turn")
}

// aborted has a turn that is rolled back at its end: nothing may stay of it, in the store or in memory.
func (h *history) aborted(t *rapid.T) {
	before := h.job()
	broken := errors.New("broken off")
	err := h.Registry.Transact(h.Ctx, func(tx *registry.Tx) error {
		if _, err := h.c.act(tx, h.key()); err != nil {
			return err
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if after := h.job(); after.ResourceVersion != before.ResourceVersion {
		t.Fatal("a transaction that was rolled back has changed the Job")
	}
}

// check holds what is always true after a turn.
func (h *history) check(t *rapid.T) {
	job := h.job()
	s := job.Status
	if len(s.UncountedTerminatedPods.Succeeded)+len(s.UncountedTerminatedPods.Failed) > 0 {
		t.Fatalf("half counted: %+v", s.UncountedTerminatedPods)
	}
	active, tracked := 0, 0
	indexesActive := map[int]bool{}
	for _, p := range h.pods() {
		if _, old := h.born[p.UID]; !old {
			if ended(job) != nil {
				t.Fatal("a pod was made for a Job that is over")
			}
			h.born[p.UID] = indexOf(p)
		}
		if p.Labels["lost"] != "" {
			continue
		}
		if hasFinalizer(p) {
			tracked++
			if podstate.Ended(p) {
				t.Fatalf("%s has ended and is not counted", p.Name)
			}
		}
		if podstate.Active(p) {
			active++
			if i := indexOf(p); indexed(job) && (indexesActive[i] || i >= completions(job)) {
				t.Fatalf("index %d twice, or beyond %d", i, completions(job))
			}
			indexesActive[indexOf(p)] = true
		}
	}
	if active != int(s.Active) {
		t.Fatalf("%d active, status says %d", active, s.Active)
	}
	if active > int(*job.Spec.Parallelism) || suspended(job) && active > 0 || ended(job) != nil && active+tracked > 0 {
		t.Fatalf("%d active and %d tracked; parallelism %d, %s", active, tracked, *job.Spec.Parallelism, state(job))
	}
	if int(s.Failed) != len(h.failed) {
		t.Fatalf("%d failed, status says %s", len(h.failed), state(job))
	}
	h.checkSuccesses(t, job, active)
}

func (h *history) checkSuccesses(t *rapid.T, job *batchv1.Job, active int) {
	s := job.Status
	want := len(h.succeeded)
	if indexed(job) {
		done := map[int]bool{}
		for uid := range h.succeeded {
			done[h.born[uid]] = true
		}
		want = len(done)
		if got := parseIndexes(s.CompletedIndexes, completions(job)); got.total() != want {
			t.Fatalf("indexes %v succeeded, status says %s", slices.Sorted(maps.Keys(done)), s.CompletedIndexes)
		}
	}
	if int(s.Succeeded) != want || want+active > completions(job) {
		t.Fatalf("%d succeeded and %d run of %d, status says %s", want, active, completions(job), state(job))
	}
	complete, lost := holds(&s, batchv1.JobComplete), holds(&s, batchv1.JobFailed)
	switch {
	case complete != nil && lost != nil:
		t.Fatal("complete and failed")
	case complete != nil && (holds(&s, batchv1.JobSuccessCriteriaMet) == nil || want < completions(job) || s.CompletionTime == nil):
		t.Fatalf("complete too early: %s", state(job))
	case lost != nil && holds(&s, batchv1.JobFailureTarget) == nil:
		t.Fatalf("failed without a target: %s", state(job))
	}
}

// some pod that a question is true of.
func (h *history) some(t *rapid.T, is func(*corev1.Pod) bool) *corev1.Pod {
	var all []*corev1.Pod
	for _, p := range h.pods() {
		if p.Labels["lost"] == "" && is(p) {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		t.Skip("no such pod")
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, "pod")]
}

// remove does what a node does with a pod that is being deleted: it says how the pod ended, and lets go of it. The pod stays
// for as long as it has the finalizer.
func (h *history) remove(p *corev1.Pod) {
	if p.Spec.NodeName != "" && !podstate.Ended(p) {
		endAt(h.Env, h.now(), p, 143)
	}
	ct.Delete[*corev1.Pod](h.Env, "default", p.Name, registry.DeleteOptions{GracePeriodSeconds: new(int64)})
}

func notEnded(p *corev1.Pod) bool { return !podstate.Ended(p) }

func (h *history) change(fn func(*batchv1.Job)) {
	if ended(h.job()) == nil {
		ct.Change(h.Env, "default", h.name, fn)
	}
}

func (h *history) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"turn":        h.turn,
		"aborted":     h.aborted,
		"restart":     func(*rapid.T) { h.newController() },
		"time passes": func(t *rapid.T) { h.skew += time.Duration(rapid.IntRange(1, 700).Draw(t, "s")) * time.Second },
		"succeeds":    func(t *rapid.T) { endAt(h.Env, h.now(), h.some(t, notEnded), 0) },
		"fails":       func(t *rapid.T) { endAt(h.Env, h.now(), h.some(t, notEnded), 1) },
		"bound": func(t *rapid.T) {
			bind(h.Env, h.some(t, func(p *corev1.Pod) bool { return podstate.Active(p) && p.Spec.NodeName == "" }))
		},
		"ready": func(t *rapid.T) { ct.SetReady(h.Env, "default", h.some(t, podstate.Active).Name, "10.244.0.9", true) },
		"deleted": func(t *rapid.T) {
			ct.Delete[*corev1.Pod](h.Env, "default", h.some(t, podstate.Active).Name, registry.DeleteOptions{})
		},
		"gone": func(t *rapid.T) { // the node has removed it
			h.remove(h.some(t, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }))
		},
		"orphaned": func(t *rapid.T) {
			p := h.some(t, podstate.Active)
			ct.Change(h.Env, "default", p.Name, func(p *corev1.Pod) { p.OwnerReferences = nil })
		},
		"released": func(t *rapid.T) {
			p := h.some(t, podstate.Active)
			ct.Change(h.Env, "default", p.Name, func(p *corev1.Pod) { p.Labels = map[string]string{"lost": "yes"} })
		},
		"suspend": func(*rapid.T) { h.change(func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }) },
		"resume":  func(*rapid.T) { h.change(func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(false) }) },
		"parallel": func(t *rapid.T) {
			h.change(func(j *batchv1.Job) { j.Spec.Parallelism = ptr.To(rapid.Int32Range(0, 5).Draw(t, "parallelism")) })
		},
		"touched": func(*rapid.T) {
			h.change(func(j *batchv1.Job) { metav1.SetMetaDataAnnotation(&j.ObjectMeta, "touched", time.Now().String()) })
		},
	}
}

// finish lets all that is left succeed: the Job must come to its end, and no pod may be held.
func (h *history) finish(t *rapid.T) {
	h.change(func(j *batchv1.Job) { j.Spec.Suspend, j.Spec.Parallelism = ptr.To(false), ptr.To[int32](3) })
	for range 60 {
		h.turn(t)
		for _, p := range h.pods() {
			if p.Labels["lost"] == "" && !podstate.Ended(p) {
				if p.DeletionTimestamp != nil {
					h.remove(p)
				} else {
					endAt(h.Env, h.now(), p, 0)
				}
			}
		}
		if ended(h.job()) != nil {
			break
		}
		h.skew += 11 * time.Minute
	}
	if ended(h.job()) == nil {
		t.Fatalf("not over: %s", state(h.job()))
	}
	for _, p := range h.pods() {
		if hasFinalizer(p) && p.Labels["lost"] == "" {
			t.Fatalf("%s still has the finalizer: %s", p.Name, state(h.job()))
		}
	}
}

// TestCountsAreExact: whatever order pods end, are deleted, orphaned and released in, whenever the controller has a turn, dies
// or has a transaction broken off: each pod is counted once or, where it does not count, never; no more run than may, and
// nothing is done twice.
func TestCountsAreExact(t *testing.T) {
	env := ct.New(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		h := &history{Env: env, name: fmt.Sprintf("job%d", n), succeeded: map[types.UID]bool{}, failed: map[types.UID]bool{}, born: map[types.UID]int{}}
		h.newController()
		ct.Create(env, manifest(h.name, rapid.Int32Range(0, 4).Draw(t, "parallelism"), rapid.Int32Range(0, 6).Draw(t, "completions"), func(j *batchv1.Job) {
			j.Spec.Template.Annotations = map[string]string{"of": h.name}
			j.Spec.BackoffLimit = ptr.To(rapid.Int32Range(0, 8).Draw(t, "backoffLimit"))
			j.Spec.Suspend = ptr.To(rapid.Bool().Draw(t, "suspended"))
			if rapid.Bool().Draw(t, "indexed") {
				byIndex(j)
			}
			if rapid.Bool().Draw(t, "onlyFailed") {
				j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
			}
		}))
		h.turn(t)
		t.Repeat(h.actions())
		h.turn(t)
		h.finish(t)
		for _, p := range h.pods() {
			ct.Change(env, "default", p.Name, func(p *corev1.Pod) { p.Finalizers = nil })
			ct.Delete[*corev1.Pod](env, "default", p.Name, registry.DeleteOptions{GracePeriodSeconds: new(int64)})
		}
		ct.Delete[*batchv1.Job](env, "default", h.name, registry.DeleteOptions{})
	})
}

// The sets of indexes, against maps.
func TestIndexSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const completions = 30
		draw := func(name string) (indexes, map[int]bool) {
			list := rapid.SliceOf(rapid.IntRange(0, completions-1)).Draw(t, name)
			m := map[int]bool{}
			for _, i := range list {
				m[i] = true
			}
			return indexes(nil).with(list...), m
		}
		a, inA := draw("a")
		b, inB := draw("b")
		both, common := a.union(b), 0
		var missing []int
		for i := range completions {
			if a.has(i) != inA[i] || both.has(i) != (inA[i] || inB[i]) {
				t.Fatalf("%v, %v: %d", a, b, i)
			}
			if inA[i] && inB[i] {
				common++
			}
			if !inA[i] {
				missing = append(missing, i)
			}
		}
		if a.total() != len(inA) || a.common(b) != common || !slices.Equal(a.missing(completions, completions), missing) {
			t.Fatalf("%v and %v: total %d, common %d, missing %v", a, b, a.total(), a.common(b), a.missing(completions, completions))
		}
		if again := parseIndexes(a.String(), completions); !slices.Equal(again, a) {
			t.Fatalf("%v is read from %q", again, a)
		}
		if cut := parseIndexes(a.String(), completions/2); cut.total() != a.common(indexes{{0, completions/2 - 1}}) {
			t.Fatalf("%q up to %d: %v", a, completions/2, cut)
		}
	})
	if got := parseIndexes("1,x,5-3,-2,4-,7-9,2", 8).String(); got != "1,2,7" {
		t.Errorf("what cannot be read: %s", got)
	}
	if strings.Contains(indexes{{0, 1}, {3, 5}}.String(), "0-1") {
		t.Error("two in a row are written with a comma")
	}
}
