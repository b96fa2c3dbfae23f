package binding

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// preempt deletes the pods that have to leave a node for a more important one, each with the time that it has to end. The
// pods of a lower priority that were to have the node look for another.
func preempt(tx *registry.Tx, d *decision) error {
	for _, victim := range d.Victims {
		pod, err := registry.Get[*corev1.Pod](tx, victim.Namespace, victim.Name)
		if apierrors.IsNotFound(err) || err == nil && (pod.UID != victim.UID || pod.DeletionTimestamp != nil) {
			continue
		}
		if err != nil {
			return err
		}
		marked := pod.DeepCopy()
		podstate.SetCondition(marked, time.Now(), corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message: component + ": preempting to accommodate a higher priority pod", ObservedGeneration: pod.Generation,
		})
		if _, err := registry.PutStatus(tx, marked); err != nil {
			return err
		}
		if err := tx.Delete(pod, registry.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		d.evicted = append(d.evicted, pod)
	}
	for _, lower := range d.displaced {
		pod, err := registry.Get[*corev1.Pod](tx, lower.Namespace, lower.Name)
		if err != nil || pod.UID != lower.UID || pod.Status.NominatedNodeName == "" {
			continue
		}
		pod = pod.DeepCopy()
		pod.Status.NominatedNodeName = ""
		if _, err := registry.PutStatus(tx, pod); err != nil {
			return err
		}
	}
	return nil
}

// tellVictims says whom they had to give way to, and has those look for another node that were to have this one.
func (c *Controller) tellVictims(d *decision) {
	for _, pod := range d.evicted {
		c.log.Info("pod preempted", "pod", pod.Namespace+"/"+pod.Name, "node", d.Nominated, "by", d.pod.Namespace+"/"+d.pod.Name)
		c.cfg.Registry.Record(pod, corev1.EventTypeNormal, "Preempted",
			fmt.Sprintf("Preempted by pod %s on node %s", d.pod.UID, d.Nominated), component)
	}
	for _, lower := range d.displaced {
		if c.snapshot.Nominated(lower.UID) != d.Nominated {
			continue
		}
		c.hear(c.snapshot.Denominate(lower.UID))
		if it := c.queue.items[lower.UID]; it != nil {
			it.nominated = ""
			c.queue.retry(it)
		}
	}
}

// nominate takes over what a waiting pod's status says about the node that is to be its own. What we have written ourselves
// and have not been told of yet stands.
func (c *Controller) nominate(it *item) {
	node := it.pod.Status.NominatedNodeName
	switch {
	case it.nominated != "" && node == "":
		return
	case node == "":
		if c.snapshot.Nominated(it.pod.UID) != "" {
			c.hear(c.snapshot.Denominate(it.pod.UID))
			c.queue.retry(it)
		}
		return
	}
	it.nominated = ""
	c.hear(c.snapshot.Nominate(it.pod, node))
}
