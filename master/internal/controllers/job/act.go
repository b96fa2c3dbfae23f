package job

import (
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// again asks for the next turn at once: burst has cut the work short.
const again = time.Millisecond

// turn is what one reconcile has done, told to the user after it is committed.
type turn struct {
	job              *batchv1.Job
	created, deleted []string
	notes            []note
	failure          error
	reason           string
	streak           streak
	over             bool
	after            time.Duration
}

// act carries a plan out in one transaction: what is counted, what is deleted and made, and the status that results.
func (c *Controller) act(tx *registry.Tx, key controller.Key) (*turn, error) {
	job, p, err := c.read(tx, key)
	if err != nil || p == nil {
		return nil, err
	}
	t := &turn{job: job, streak: p.streak, after: p.after}
	for _, pod := range p.release {
		pod = pod.DeepCopy()
		podstate.DropOwner(pod, job)
		dropFinalizer(pod)
		if _, err := registry.Put(tx, pod); err != nil {
			return nil, err
		}
	}
	for _, m := range p.members {
		if err := m.treat(tx, job, t); err != nil {
			return nil, err
		}
	}
	t.create(tx, p)
	var n counts
	for _, pod := range owned(tx, job) {
		n.add(pod)
	}
	status, notes := p.result(n)
	t.notes = notes
	if p.more {
		t.after = again
	}
	changed := job.DeepCopy()
	changed.Status = status
	t.over = ended(changed) != nil
	if t.over {
		t.after = 0 // its own event brings it back for what is left to do
	}
	if apiequality.Semantic.DeepEqual(status, job.Status) {
		return t, nil
	}
	_, err = registry.PutStatus(tx, changed)
	return t, err
}

// treat writes what becomes of one pod. The finalizer goes before the pod, so that it need not linger.
func (m *member) treat(tx *registry.Tx, job *batchv1.Job, t *turn) error {
	pod := m.pod
	if m.adopt || m.untrack {
		pod = pod.DeepCopy()
		if m.adopt {
			podstate.SetController(pod, job, kind)
		}
		switch {
		case m.untrack:
			dropFinalizer(pod)
		case !hasFinalizer(pod):
			pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
		}
		var err error
		if pod, err = registry.Put(tx, pod); err != nil {
			return err
		}
	}
	if !m.remove {
		return nil
	}
	t.deleted = append(t.deleted, pod.Name)
	return ignoreGone(tx.Delete(pod, registry.DeleteOptions{}))
}

// create makes the pods of a plan until one cannot be made.
func (t *turn) create(tx *registry.Tx, p *plan) {
	for _, w := range p.create {
		wanted := podFor(p.job, w)
		pod, err := registry.Create(tx, wanted)
		if err != nil {
			t.failure = err
			// Without the generated name, the next failure has the same words and is folded into a count.
			t.reason = strings.ReplaceAll(err.Error(), strconv.Quote(wanted.Name), strconv.Quote(wanted.GenerateName))
			return
		}
		t.created = append(t.created, pod.Name)
	}
}

// indexEnv tells a container its index.
const indexEnv = "JOB_COMPLETION_INDEX"

// podFor makes a pod of a Job: with the finalizer, and for an index with its annotation, label, host name, name and
// environment.
func podFor(job *batchv1.Job, w creation) *corev1.Pod {
	pod := podstate.FromTemplate(&job.Spec.Template, job, kind)
	if !hasFinalizer(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if w.index == noIndex {
		return pod
	}
	index := strconv.Itoa(w.index)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = index
	pod.Spec.Hostname = job.Name + "-" + index
	pod.GenerateName = indexPrefix(job.Name, index)
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			tellIndex(&list[i])
		}
	}
	if job.Spec.BackoffLimitPerIndex != nil {
		carryFailures(job, pod, w.replaces)
	}
	return pod
}

// maxPrefix is how much of a generated name's prefix is kept (names.MaxGeneratedNameLength).
const maxPrefix = 58

func indexPrefix(name, index string) string {
	end := "-" + index + "-"
	if len(name)+len(end) > maxPrefix {
		name = name[:maxPrefix-len(end)]
	}
	return name + end
}

func tellIndex(c *corev1.Container) {
	for i := range c.Env {
		if c.Env[i].Name == indexEnv {
			return
		}
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
	}})
}

// carryFailures writes on a pod how often its index has failed before it.
func carryFailures(job *batchv1.Job, pod, before *corev1.Pod) {
	var counted, ignored int32
	if before != nil {
		counted, ignored = failuresBefore(before)
		if rule(job.Spec.PodFailurePolicy, before).counts() {
			counted++
		} else {
			ignored++
		}
	}
	pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(counted))
	if ignored > 0 {
		pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(int(ignored))
	}
}

// tell records what was committed as Events, in Kubernetes' words.
func (c *Controller) tell(t *turn) {
	for _, name := range t.created {
		c.registry.Record(t.job, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name, component)
	}
	for _, name := range t.deleted {
		c.registry.Record(t.job, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+name, component)
	}
	if t.failure != nil && !apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		c.registry.Record(t.job, corev1.EventTypeWarning, "FailedCreate", "Error creating: "+t.reason, component)
	}
	for _, n := range t.notes {
		c.registry.Record(t.job, n.kind, n.reason, n.message, component)
	}
}
