package binding

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/scheduler"
)

// shape stands for pods that ask for the same: those of one ReplicaSet or Job.
type shape struct {
	owner      types.UID
	generation int64
}

func shapeOf(pod *corev1.Pod) (shape, bool) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" && ref.Kind != "Job" || scheduler.Claims(pod) { // claims can be a pod's own
		return shape{}, false
	}
	return shape{ref.UID, pod.Generation}, true
}

// decision is what was found for a pod, and what became of it.
type decision struct {
	*item
	node    string // empty: it fits nowhere
	message string
	result  result
}

type result int

const (
	// gone: the pod has been deleted or bound meanwhile; the watch brings its state.
	gone result = iota
	// done: what was decided is committed.
	done
	// again: the node has changed meanwhile; decide anew.
	again
)

// scheduleBatch decides for the next pods and commits the decisions in one transaction.
func (c *Controller) scheduleBatch(ctx context.Context) {
	batch := c.queue.pop(batchSize)
	decisions := make([]*decision, len(batch))
	for i, it := range batch {
		decisions[i] = c.decide(it)
	}
	err := c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		for _, d := range decisions {
			if err := c.commit(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
	now := time.Now()
	if err != nil {
		if ctx.Err() == nil {
			c.log.Error("decisions not committed", "pods", len(decisions), "err", err)
		}
		for _, d := range decisions {
			d.result = again
		}
	}
	for _, d := range decisions {
		c.settle(d, err, now)
	}
}

// decide asks the scheduler and counts the pod on its node at once, for the decisions that follow.
func (c *Controller) decide(it *item) *decision {
	d := &decision{item: it}
	s, alike := shapeOf(it.pod)
	if alike {
		if message, known := c.hopeless[s]; known {
			d.message = message
			return d
		}
	}
	found := scheduler.Schedule(c.snapshot, it.pod)
	d.node, d.message = found.Node, found.Message
	if d.node != "" {
		c.snapshot.Assume(it.pod, d.node)
	} else if alike {
		c.hopeless[s] = d.message
	}
	return d
}

// commit writes one decision. The node is counted afresh from the transaction's own state, since the snapshot may be
// behind it.
func (c *Controller) commit(tx *registry.Tx, d *decision) error {
	d.result = gone
	pod, err := registry.Get[*corev1.Pod](tx, d.pod.Namespace, d.pod.Name)
	if err != nil || pod.UID != d.pod.UID || !waits(pod) {
		return nil
	}
	if d.node == "" {
		d.result = done
		return markUnschedulable(tx, pod, d.message)
	}
	node, err := registry.Get[*corev1.Node](tx, "", d.node)
	if err != nil {
		d.result = again
		return nil
	}
	current := c.snapshot.Recount(node, registry.ByIndex[*corev1.Pod](tx, registry.IndexNode, node.Name))
	if fits, _ := scheduler.Fits(current, pod); !fits {
		d.result = again
		return nil
	}
	if err := tx.Bind(pod, d.node); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	d.result = done
	return nil
}

func markUnschedulable(tx *registry.Tx, pod *corev1.Pod, message string) error {
	changed := pod.DeepCopy()
	if !podstate.SetCondition(changed, time.Now(), corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: message, ObservedGeneration: pod.Generation,
	}) {
		return nil
	}
	_, err := registry.PutStatus(tx, changed)
	return err
}

// settle brings the queue and the snapshot in line with what was committed, and tells the user.
func (c *Controller) settle(d *decision, failed error, now time.Time) {
	switch {
	case d.result == done && d.node != "":
		c.queue.remove(d.pod.UID)
		if c.queue.placed() {
			clear(c.hopeless)
		}
		c.cfg.Registry.Record(d.pod, corev1.EventTypeNormal, "Scheduled",
			fmt.Sprintf("Successfully assigned %s/%s to %s", d.pod.Namespace, d.pod.Name, d.node), component)
		return
	case d.result == done:
		c.queue.park(d.item, now)
		c.cfg.Registry.Record(d.pod, corev1.EventTypeWarning, "FailedScheduling", d.message, component)
		return
	}
	if d.node != "" {
		c.snapshot.RemovePod(d.pod.UID)
	}
	switch {
	case d.result == gone:
		c.queue.remove(d.pod.UID)
	default:
		// Tried again after a moment, by when the watch has told what has changed, or the disk has recovered.
		c.queue.park(d.item, now)
		d.stale = true
	}
}
