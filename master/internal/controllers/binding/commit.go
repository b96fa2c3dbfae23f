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

// ownerOf is whose pods may ask for the same: a ReplicaSet or Job.
func ownerOf(pod *corev1.Pod) (types.UID, bool) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" && ref.Kind != "Job" || scheduler.Claims(pod) { // claims can be a pod's own
		return "", false
	}
	return ref.UID, true
}

// decision is what was found for a pod, and what became of it.
type decision struct {
	*item
	scheduler.Decision
	waiting *scheduler.Waiting
	// evicted are the victims that were still to be deleted; displaced the pods of a lower priority that had the node reserved.
	evicted, displaced []*corev1.Pod
	result             result
}

type result int

const (
	// gone: the pod has been deleted or bound meanwhile; the watch brings its state.
	gone result = iota
	// done: what was decided is committed.
	done
	// again: the node, or what the pod wants there, has changed meanwhile; decide anew.
	again
	// held: the pod's claims get their volumes for the node that was chosen; then it is bound.
	held
)

// scheduleBatch decides for the next pods and commits the decisions in one transaction.
func (c *Controller) scheduleBatch(ctx context.Context) {
	batch := c.queue.pop(batchSize)
	c.inBatch = true
	defer c.catchUp()
	decisions, began := make([]*decision, len(batch)), time.Now()
	for i, it := range batch {
		decisions[i] = c.decide(it, began)
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
		c.settle(d, now)
	}
}

// hopeless is what was found for a pod that fits nowhere, and that nobody's leaving would help. It is believed for as long as
// a parked pod is: the net below the hints is one for all of an owner's pods.
type hopeless struct {
	scheduler.Decision
	pod     *corev1.Pod
	waiting *scheduler.Waiting
	since   time.Time
}

// maxHopeless bounds what is remembered: beyond, all is forgotten, and learned again from the pods that still wait.
const maxHopeless = 1000

// known is what was found for another pod that asks for the same as this one; nil when there is none.
func (c *Controller) known(owner types.UID, pod *corev1.Pod, now time.Time) *hopeless {
	h := c.hopeless[owner]
	if h == nil || now.Sub(h.since) >= flushAfter || !c.snapshot.Alike(h.pod, pod) {
		return nil
	}
	return h
}

// decide asks the scheduler and counts the pod on its node at once, for the decisions that follow; one that is to have
// another's place has a reservation for it.
func (c *Controller) decide(it *item, now time.Time) *decision {
	d := &decision{item: it}
	owner, shares := ownerOf(it.pod)
	if shares = shares && c.snapshot.Nominated(it.pod.UID) == ""; shares {
		if known := c.known(owner, it.pod, now); known != nil {
			d.Decision, d.waiting = known.Decision, known.waiting
			return d
		}
	}
	c.asked.Add(1)
	d.Decision = scheduler.Schedule(c.snapshot, it.pod)
	if d.Node != "" {
		c.hear(c.snapshot.Assume(it.pod, d.Node))
		return d
	}
	d.waiting = scheduler.NewWaiting(it.pod, &d.Decision)
	switch {
	case d.Nominated != "":
		d.displaced = c.snapshot.NominatedBelow(it.pod, d.Nominated)
		it.nominated = d.Nominated
		c.hear(c.snapshot.Nominate(it.pod, d.Nominated))
	case !d.Waits:
		it.nominated = ""
		c.hear(c.snapshot.Denominate(it.pod.UID))
	}
	if shares && d.Nominated == "" {
		if len(c.hopeless) >= maxHopeless {
			clear(c.hopeless)
		}
		c.hopeless[owner] = &hopeless{d.Decision, it.pod, d.waiting, now}
	}
	return d
}

// commit writes one decision. The node is counted afresh from the transaction's own state, since the snapshot may be
// behind it.
func (c *Controller) commit(tx *registry.Tx, d *decision) error {
	d.result, d.evicted = gone, nil
	pod, err := registry.Get[*corev1.Pod](tx, d.pod.Namespace, d.pod.Name)
	if err != nil || pod.UID != d.pod.UID || !waits(pod) {
		return nil
	}
	if d.Node == "" {
		d.result = done
		if err := preempt(tx, d); err != nil {
			return err
		}
		return markUnschedulable(tx, pod, &d.Decision)
	}
	node, err := registry.Get[*corev1.Node](tx, "", d.Node)
	if err != nil {
		d.result = again
		return nil
	}
	current := c.snapshot.Recount(node, registry.ByIndex[*corev1.Pod](tx, registry.IndexNode, node.Name))
	if fits, _ := scheduler.Fits(current, pod); !fits || c.snapshot.InUse(pod, registry.List[*corev1.Pod](tx, pod.Namespace)) {
		d.result = again
		return nil
	}
	if claims := c.snapshot.Delayed(pod); len(claims) > 0 {
		ok, err := c.selectNode(tx, claims, node)
		if d.result = held; !ok {
			d.result = again
		}
		return err
	}
	if err := tx.Bind(pod, d.Node); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	d.result = done
	return nil
}

// markUnschedulable tells why on the pod, and where it will have its place.
func markUnschedulable(tx *registry.Tx, pod *corev1.Pod, d *scheduler.Decision) error {
	changed := pod.DeepCopy()
	news := podstate.SetCondition(changed, time.Now(), corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable,
		Message: d.Message, ObservedGeneration: pod.Generation,
	})
	if !d.Waits && changed.Status.NominatedNodeName != d.Nominated {
		changed.Status.NominatedNodeName = d.Nominated
		news = true
	}
	if !news {
		return nil
	}
	_, err := registry.PutStatus(tx, changed)
	return err
}

// settle brings the queue and the snapshot in line with what was committed, and tells the user.
func (c *Controller) settle(d *decision, now time.Time) {
	pod := d.pod
	switch {
	case d.result == done && d.Node != "":
		c.queue.remove(pod.UID)
		c.hear(scheduler.Came(pod))
		c.cfg.Registry.Record(pod, corev1.EventTypeNormal, "Scheduled",
			fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, d.Node), component)
	case d.result == done:
		c.queue.park(d.item, d.waiting, now)
		c.cfg.Registry.Record(pod, corev1.EventTypeWarning, "FailedScheduling", d.Message, component)
		c.tellVictims(d)
	case d.result == held:
		c.hear(c.snapshot.RemovePod(pod.UID))
		c.hear(c.snapshot.Nominate(pod, d.Node)) // its place is kept for as long as that takes
		c.queue.park(d.item, scheduler.WaitingForClaims(pod), now)
	case d.result == gone:
		c.queue.remove(pod.UID)
		c.hear(c.snapshot.RemovePod(pod.UID))
	default:
		c.hear(c.snapshot.RemovePod(pod.UID))
		d.item.nominated = ""
		// Tried again after a moment, by when the watch has told what has changed, or the disk has recovered.
		c.queue.park(d.item, nil, now)
		c.queue.retry(d.item)
	}
}
