package job

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "job-controller"
	resource  = "jobs.batch"
	workers   = 4
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller runs Jobs.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
	now      func() time.Time

	mu      sync.Mutex
	streaks map[controller.Key]remembered
}

// remembered is the streak of failures of the Job that has this UID.
type remembered struct {
	uid types.UID
	streak
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", component), now: time.Now, streaks: map[controller.Key]remembered{}}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{resource, "pods"}, Keys: keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: resource, Namespace: namespace, Name: name}
}

func podKey(pod *corev1.Pod) controller.Key {
	return controller.Key{Resource: "pods", Namespace: pod.Namespace, Name: pod.Name}
}

func all(v *registry.View, add func(controller.Key)) {
	for job := range registry.List[*batchv1.Job](v, "") {
		add(keyOf(job.Namespace, job.Name))
	}
	for pod := range registry.List[*corev1.Pod](v, "") {
		if hasFinalizer(pod) && stray(v, pod) {
			add(podKey(pod))
		}
	}
}

// keys: Jobs, the Jobs of pods, Jobs that may adopt a pod, and pods whose finalizer nobody will take away.
func keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	pod, ok := e.Object.(*corev1.Pod)
	if !ok {
		add(e.Key)
		if e.Deleted {
			for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, string(e.Object.GetUID())) {
				if hasFinalizer(pod) {
					add(podKey(pod))
				}
			}
		}
		return
	}
	if before, _ := e.Prev.(*corev1.Pod); before != nil {
		addOwner(before, add)
	}
	addOwner(pod, add)
	if e.Deleted {
		return
	}
	if metav1.GetControllerOfNoCopy(pod) == nil && pod.DeletionTimestamp == nil {
		for _, job := range adopters(v, pod) {
			add(keyOf(job.Namespace, job.Name))
		}
	}
	if hasFinalizer(pod) && stray(v, pod) {
		add(podKey(pod))
	}
}

func addOwner(pod *corev1.Pod, add func(controller.Key)) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == kind.Kind {
		add(keyOf(pod.Namespace, ref.Name))
	}
}

func hasFinalizer(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// adopters are the Jobs that want a pod which no controller owns.
func adopters(v registry.Viewer, pod *corev1.Pod) (out []*batchv1.Job) {
	if len(pod.Labels) == 0 {
		return nil
	}
	for job := range registry.List[*batchv1.Job](v, pod.Namespace) {
		s, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
		if err == nil && !s.Empty() && s.Matches(labels.Set(pod.Labels)) && job.DeletionTimestamp == nil && ended(job) == nil && !elsewhere(job) {
			out = append(out, job)
		}
	}
	return out
}

// stray says of a pod with the finalizer that no Job counts it: there is none any more, or it is over.
func stray(v registry.Viewer, pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return pod.DeletionTimestamp != nil || len(adopters(v, pod)) == 0
	}
	if ref.Kind != kind.Kind || ref.APIVersion != kind.GroupVersion().String() {
		return false
	}
	job, err := registry.Get[*batchv1.Job](v, pod.Namespace, ref.Name)
	if err != nil || job.UID != ref.UID {
		return apierrors.IsNotFound(err) || err == nil
	}
	return ended(job) != nil && !elsewhere(job)
}

// free takes the finalizer of a stray pod away.
func (c *Controller) free(ctx context.Context, key controller.Key) error {
	return c.registry.Transact(ctx, func(tx *registry.Tx) error {
		pod, err := registry.Get[*corev1.Pod](tx, key.Namespace, key.Name)
		if err != nil || !hasFinalizer(pod) || !stray(tx, pod) {
			return err
		}
		pod = pod.DeepCopy()
		dropFinalizer(pod)
		_, err = registry.Put(tx, pod)
		return err
	})
}

func dropFinalizer(pod *corev1.Pod) {
	pod.Finalizers = slices.DeleteFunc(pod.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	if key.Resource == "pods" {
		return 0, ignoreGone(c.free(ctx, key))
	}
	var job *batchv1.Job
	var p *plan
	idle := false
	err := c.registry.View(func(v *registry.View) (err error) {
		if job, p, err = c.read(v, key); err == nil && p != nil {
			idle = p.idle() && apiequality.Semantic.DeepEqual(p.settledStatus(), job.Status)
		}
		return err
	})
	switch {
	case err != nil:
		c.forget(key)
		return 0, ignoreGone(err)
	case p == nil:
		return c.over(ctx, key, job)
	case idle:
		return p.after, nil
	}
	var t *turn
	err = c.registry.Transact(ctx, func(tx *registry.Tx) (err error) {
		t, err = c.act(tx, key)
		return err
	})
	if err != nil || t == nil {
		return 0, ignoreGone(err)
	}
	c.remember(key, t)
	c.tell(t)
	if t.failure != nil && !apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		return 0, t.failure
	}
	return t.after, nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// settledStatus is the status when nothing else changes.
func (p *plan) settledStatus() batchv1.JobStatus {
	var n counts
	for _, m := range p.members {
		n.add(m.pod)
	}
	status, _ := p.result(n)
	return status
}

// read makes the plan of a Job. There is none for one that is over or that somebody else manages.
func (c *Controller) read(v registry.Viewer, key controller.Key) (*batchv1.Job, *plan, error) {
	job, err := registry.Get[*batchv1.Job](v, key.Namespace, key.Name)
	if err != nil {
		return nil, nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil || selector.Empty() || ended(job) != nil || elsewhere(job) {
		return job, nil, nil // validation refuses such selectors at the door
	}
	pods := owned(v, job)
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOrphan, job.Namespace) {
		pods = append(pods, pod)
	}
	return job, makePlan(c.now(), job, selector, pods, c.recall(key, job)), nil
}

func owned(v registry.Viewer, job *batchv1.Job) (pods []*corev1.Pod) {
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, string(job.UID)) {
		if pod.Namespace == job.Namespace && metav1.IsControlledBy(pod, job) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (c *Controller) recall(key controller.Key, job *batchv1.Job) *streak {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.streaks[key]; ok && r.uid == job.UID {
		return &r.streak
	}
	return nil
}

func (c *Controller) remember(key controller.Key, t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.over {
		delete(c.streaks, key)
	} else {
		c.streaks[key] = remembered{t.job.UID, t.streak}
	}
}

func (c *Controller) forget(key controller.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streaks, key)
}

// over does what is left of a Job that has ended: pods that still have the finalizer lose it, and the Job goes when its time
// has come.
func (c *Controller) over(ctx context.Context, key controller.Key, job *batchv1.Job) (time.Duration, error) {
	end := ended(job)
	if end == nil {
		return 0, nil
	}
	c.forget(key)
	var pods []*corev1.Pod
	_ = c.registry.View(func(v *registry.View) error {
		pods = owned(v, job)
		return nil
	})
	for _, pod := range pods {
		if hasFinalizer(pod) && !elsewhere(job) {
			c.loop.Add(podKey(pod))
		}
	}
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil || end.LastTransitionTime.IsZero() {
		return 0, nil
	}
	if left := end.LastTransitionTime.Add(podstate.Seconds(*job.Spec.TTLSecondsAfterFinished)).Sub(c.now()); left > 0 {
		return left, nil
	}
	err := c.registry.Transact(ctx, func(tx *registry.Tx) error {
		fresh, err := registry.Get[*batchv1.Job](tx, key.Namespace, key.Name)
		if err != nil || fresh.ResourceVersion != job.ResourceVersion {
			return err // changed: it has another turn
		}
		foreground := metav1.DeletePropagationForeground
		return tx.Delete(fresh, registry.DeleteOptions{Propagation: &foreground})
	})
	if err == nil {
		c.log.Debug("finished job deleted", "job", key.Name, "namespace", key.Namespace)
	}
	return 0, ignoreGone(err)
}
