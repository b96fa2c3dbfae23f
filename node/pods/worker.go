package pods

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/pods/image"
	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
)

// inbox is what others tell a worker between its turns.
type inbox struct {
	pod      *corev1.Pod
	gone     bool
	observed *runtime.Pod
	seq      int64 // of observed
	stale    bool
	refresh  bool
	// republish the status although it has not changed.
	republish bool
	// away: the engine's events have ended; until observed is there nobody says what ends.
	away   bool
	evict  *Eviction
	events []runtime.Event
	// purge: remove the containers of a pod that has ended, and close these.
	purge []chan struct{}
}

// worker owns one pod. Fields below the line belong to its goroutine alone.
type worker struct {
	m    *Manager
	uid  string
	ref  runtime.PodRef
	log  *slog.Logger
	wake chan struct{}
	// wasReady: what was told of the pod last, before this agent started, is that it is ready.
	wasReady bool
	// seq counts what this worker made the engine do, so that a list taken before is not believed after.
	seq atomic.Int64

	mu         sync.Mutex
	in         inbox
	refs       []string
	holdsPlace bool
	shared     *corev1.Pod // as the master has it; what others may read
	placed     *corev1.Pod // with what it takes up on the node
	answered   *answer     // to the last resize that it asked for
	view       view
	over       bool // nothing is left of the pod; only the object remains

	// ----
	ctx      context.Context // of run, for what a report has to ask the engine
	pod      *corev1.Pod     // with what it has been granted
	wish     *corev1.Pod     // as the master has it
	gone     bool
	orphan   bool // never desired since this agent started: only the engine knows it
	observed runtime.Pod
	stale    bool
	refresh  bool
	away     bool

	admitted bool
	verdict  *status.Reason
	evicted  *Eviction
	purges   []chan struct{}
	rejected bool
	last     corev1.PodStatus
	reported bool
	unsaved  bool      // the disk refused last
	savedAt  time.Time // when to try that again
	anew     bool      // all containers are being ended to be restarted
	finished bool      // an ended pod's sandbox and volumes are gone

	volumes    volume.Result
	mounted    bool
	mountError retry
	attached   string // sandbox ID
	podIPs     []string
	sandboxErr retry
	waiting    map[string]status.Reason
	crashes    map[string]*crash
	jobs       map[string]*image.Job // by container name, or volumeJob
	unpacks    map[string]*unpack    // by volume
	retries    map[string]*retry     // by container name: the engine refused to create it
	kills      map[string]*kill
	draining   *draining // nil unless the pod was deleted while a Service sent requests to it
	drainBegan bool
	hooks      map[string]*hook
	held       bool // a container before the one that is seen to is on its way
	fetching   bool // an image is not here yet that the one that is seen to needs
	probes     map[string]*probing
	messages   map[string]string
	granted    *grant                                 // nil until the pod is let in
	actuated   map[string]corev1.ResourceRequirements // by container ID: what it runs with
	pending    *corev1.PodCondition                   // of a resize that waits for room
	progress   *corev1.PodCondition                   // of a resize that is under way
	asked      int64                                  // the generation whose resize was asked for; 0 when none waits
	resizeErr  retry
	errs       retry
	next       time.Time
	again      bool
}

// retry is a back-off for what fails as a whole.
type retry struct {
	delay time.Duration
	at    time.Time
}

// failed notes a failure and returns when to try again.
func (r *retry) failed(first, most time.Duration) time.Time {
	if r.delay == 0 {
		r.delay = first
	} else {
		r.delay = min(2*r.delay, most)
	}
	r.at = time.Now().Add(r.delay)
	return r.at
}

func newWorker(m *Manager, pod *corev1.Pod, observed runtime.Pod) *worker {
	w := &worker{
		m: m, uid: observed.Ref.UID, ref: observed.Ref, wake: make(chan struct{}, 1), observed: observed,
		waiting: map[string]status.Reason{}, crashes: map[string]*crash{}, jobs: map[string]*image.Job{}, unpacks: map[string]*unpack{}, retries: map[string]*retry{},
		kills: map[string]*kill{}, hooks: map[string]*hook{}, probes: map[string]*probing{}, messages: map[string]string{},
		actuated: map[string]corev1.ResourceRequirements{},
	}
	w.log = m.log.With("pod", observed.Ref.Namespace+"/"+observed.Ref.Name, "uid", w.uid)
	if pod == nil {
		w.orphan, w.pod = true, orphanPod(observed)
	} else {
		w.last = pod.Status
	}
	if saved, ok := m.loadStatus(w.uid); ok {
		w.last = saved
	}
	if pod != nil {
		w.recallGrant(pod)
		w.take(pod)
		// It has its place already, whoever takes the first turn.
		w.holdsPlace = w.known() && !w.ending() && !w.isOver()
	}
	w.recall()
	w.wasReady = isReady(w.last)
	w.wake <- struct{}{}
	return w
}

// orphanPod is all that is known of a pod that only the engine has.
func orphanPod(p runtime.Pod) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Ref.Namespace, Name: p.Ref.Name, UID: types.UID(p.Ref.UID)}}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	labels := []map[string]string{}
	for _, s := range p.Sandboxes {
		labels = append(labels, s.Labels)
	}
	for _, c := range p.Containers {
		labels = append(labels, c.Labels)
	}
	for _, l := range labels {
		if _, err := fmt.Sscan(l[spec.LabelGrace], &grace); err == nil {
			break
		}
	}
	pod.Spec.TerminationGracePeriodSeconds = &grace
	return pod
}

// take a new version of the pod.
func (w *worker) take(pod *corev1.Pod) {
	w.wish = pod
	w.pod = w.granted.restarting(w.granted.over(pod))
	refs := volume.Refs(pod)
	for _, c := range allContainers(pod) {
		refs = append(refs, env.Refs(c)...)
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		refs = append(refs, "secret/"+s.Name)
	}
	slices.Sort(refs)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs, w.shared = slices.Compact(refs), pod
	if a := w.answered; a == nil || a.no != nil || a.generation != pod.Generation { // else it has been granted all of this
		w.placed = w.pod
	}
}

// allContainers of every kind.
func allContainers(pod *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for i := range pod.Spec.InitContainers {
		out = append(out, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		out = append(out, &c)
	}
	return out
}

func (w *worker) container(name string) *corev1.Container {
	for _, c := range allContainers(w.pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (w *worker) refersTo(changed map[string]bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.refs {
		kind, name, _ := cut(r)
		if changed[kind+"/"+w.ref.Namespace+"/"+name] {
			return true
		}
	}
	return false
}

// post changes the inbox and wakes the worker. It never blocks.
func (w *worker) post(fn func(*inbox)) {
	w.mu.Lock()
	fn(&w.in)
	w.mu.Unlock()
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// update tells of a new version of the pod, unless it is the one the worker has.
func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	same := w.shared == pod && w.in.pod == nil || w.in.pod == pod
	over := w.over
	w.mu.Unlock()
	if same {
		return
	}
	if over { // it was told again, so the master has not heard
		w.mu.Lock()
		w.shared = pod
		w.mu.Unlock()
		w.m.cfg.Report.Gone(w.name(), w.uid)
		return
	}
	w.post(func(in *inbox) { in.pod, in.gone = pod, false })
}

func (w *worker) name() types.NamespacedName {
	return types.NamespacedName{Namespace: w.ref.Namespace, Name: w.ref.Name}
}

// observe tells what a list showed.
func (w *worker) observe(p runtime.Pod, seq int64) {
	w.post(func(in *inbox) { in.observed, in.seq = &p, seq })
}

func (w *worker) retired() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

// run takes turns until nothing is left of the pod or ctx ends.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends pulls, hooks and probes
	w.ctx = ctx
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		for w.again = true; w.again && ctx.Err() == nil; {
			w.again, w.next = false, time.Time{}
			if w.turn(ctx) {
				w.retire()
				return
			}
		}
		timer.Stop()
		if !w.next.IsZero() {
			timer.Reset(max(time.Until(w.next), 0))
		}
	}
}

// wakeAt asks for a turn at that time, or before.
func (w *worker) wakeAt(t time.Time) {
	if !t.IsZero() && (w.next.IsZero() || t.Before(w.next)) {
		w.next = t
	}
}

func (w *worker) event(container, eventType, reason, message string) {
	if w.orphan {
		return // there is no object to hang it on
	}
	w.m.cfg.Record.Event(w.pod, eventType, reason, message, fieldPath(w.pod, container))
}

func (w *worker) normal(container, reason, message string) {
	w.event(container, corev1.EventTypeNormal, reason, message)
}

func (w *worker) warn(container, reason, message string) {
	w.event(container, corev1.EventTypeWarning, reason, message)
}
