package cronjob

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

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "cronjob-controller"
	resource  = "cronjobs.batch"
	workers   = 2
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller makes Jobs by the clock.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop

	mu sync.Mutex
	// changed is when the schedule of a CronJob was changed, told what its last turn told the user.
	changed map[controller.Key]time.Time
	told    map[controller.Key][]note
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{
		registry: cfg.Registry, log: cfg.Logger.With("component", component),
		changed: map[controller.Key]time.Time{}, told: map[controller.Key][]note{},
	}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{resource, "jobs.batch"}, Keys: c.keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: resource, Namespace: namespace, Name: name}
}

func all(v *registry.View, add func(controller.Key)) {
	for cron := range registry.List[*batchv1.CronJob](v, "") {
		add(keyOf(cron.Namespace, cron.Name))
	}
}

// keys: CronJobs, and the owners of Jobs.
func (c *Controller) keys(_ *registry.View, e registry.Event, add func(controller.Key)) {
	switch o := e.Object.(type) {
	case *batchv1.CronJob:
		c.observe(e)
		add(e.Key)
	case *batchv1.Job:
		addOwner(o, add)
		if before, _ := e.Prev.(*batchv1.Job); before != nil {
			addOwner(before, add)
		}
	}
}

func addOwner(job *batchv1.Job, add func(controller.Key)) {
	if ref := metav1.GetControllerOfNoCopy(job); ref != nil && ref.Kind == kind.Kind {
		add(keyOf(job.Namespace, ref.Name))
	}
}

// observe remembers when a schedule changed, and forgets CronJobs that are gone.
func (c *Controller) observe(e registry.Event) {
	cron := e.Object.(*batchv1.CronJob)
	before, _ := e.Prev.(*batchv1.CronJob)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.Deleted:
		delete(c.changed, e.Key)
		delete(c.told, e.Key)
	case before != nil && !sameSchedule(&before.Spec, &cron.Spec):
		c.changed[e.Key] = time.Now()
	}
}

func (c *Controller) since(key controller.Key) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed[key]
}

func (c *Controller) read(v registry.Viewer, key controller.Key) (*plan, error) {
	cron, err := registry.Get[*batchv1.CronJob](v, key.Namespace, key.Name)
	if err != nil {
		return nil, err
	}
	var jobs []*batchv1.Job
	for job := range registry.ByIndex[*batchv1.Job](v, registry.IndexOwner, string(cron.UID)) {
		if job.Namespace == cron.Namespace && metav1.IsControlledBy(job, cron) {
			jobs = append(jobs, job)
		}
	}
	exists := func(ref corev1.ObjectReference) bool {
		job, err := registry.Get[*batchv1.Job](v, key.Namespace, ref.Name)
		return err == nil && job.UID == ref.UID
	}
	return makePlan(time.Now(), c.since(key), cron, jobs, exists), nil
}

func (p *plan) idle() bool {
	return p.create == nil && len(p.remove) == 0 && apiequality.Semantic.DeepEqual(p.status, p.cron.Status)
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var p *plan
	var failure error
	err := c.registry.View(func(v *registry.View) (err error) {
		p, err = c.read(v, key)
		return err
	})
	if err == nil && !p.idle() {
		err = c.registry.Transact(ctx, func(tx *registry.Tx) (err error) {
			if p, err = c.read(tx, key); err == nil {
				failure, err = p.act(tx)
			}
			return err
		})
	}
	if err != nil {
		if apierrors.IsNotFound(err) {
			return 0, nil
		}
		return 0, err
	}
	c.tell(key, p)
	if failure != nil {
		return 0, failure
	}
	return p.after, nil
}

// act deletes and makes Jobs and writes the status. A Job that cannot be made is no reason to lose the rest: it is the
// failure that comes back.
func (p *plan) act(tx *registry.Tx) (failure, err error) {
	background := metav1.DeletePropagationBackground
	for _, job := range p.remove {
		if err := tx.Delete(job, registry.DeleteOptions{Propagation: &background}); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	if p.create != nil {
		failure = p.make(tx)
	}
	if apiequality.Semantic.DeepEqual(p.status, p.cron.Status) {
		return failure, nil
	}
	changed := p.cron.DeepCopy()
	changed.Status = p.status
	_, err = registry.PutStatus(tx, changed)
	return failure, err
}

func (p *plan) make(tx *registry.Tx) error {
	job, err := registry.Create(tx, p.create)
	switch {
	case err == nil:
		p.started(job)
		p.note(corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	case apierrors.IsAlreadyExists(err):
		// Somebody has made a Job of this name. If it is this CronJob's, the time is served; if not, it is in the way, which
		// is left alone as in Kubernetes.
		other, err := registry.Get[*batchv1.Job](tx, p.cron.Namespace, p.create.Name)
		if err != nil {
			return err
		}
		if metav1.IsControlledBy(other, p.cron) {
			p.started(other)
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
	default:
		p.warn("FailedCreate", "Error creating job: %v", err)
		return err
	}
	return nil
}

// tell records as Events what the turn before did not tell already.
func (c *Controller) tell(key controller.Key, p *plan) {
	c.mu.Lock()
	before := c.told[key]
	if len(p.notes) == 0 {
		delete(c.told, key)
	} else {
		c.told[key] = p.notes
	}
	c.mu.Unlock()
	for _, n := range p.notes {
		if !slices.Contains(before, n) {
			c.registry.Record(p.cron, n.kind, n.reason, n.message, component)
		}
	}
}
