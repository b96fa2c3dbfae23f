package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const kubelet = "kubelet"

// applyStatus writes down what a node reports, in one transaction. What it says of pods that are not its own, or not there
// any more, is passed over.
func (s *Server) applyStatus(ctx context.Context, node string, b *agentv1.StatusBatch) error {
	s.recordEvents(node, b.Events)
	if len(b.Pods) == 0 && len(b.Node) == 0 {
		return nil
	}
	return s.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		if len(b.Node) > 0 {
			if err := applyNode(tx, node, b.Node); err != nil {
				return err
			}
		}
		for _, p := range b.Pods {
			err := applyPod(tx, node, p)
			if errors.Is(err, errUnreadable) {
				s.log.Error("status left out", "node", node, "namespace", p.Namespace, "pod", p.Name, "err", err)
				continue // it must not hold up the others for ever
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func applyNode(tx *registry.Tx, name string, data []byte) error {
	said := &corev1.NodeStatus{}
	if err := said.Unmarshal(data); err != nil {
		return fmt.Errorf("status of the node cannot be read: %w", err)
	}
	node, err := registry.Get[*corev1.Node](tx, "", name)
	if err != nil {
		return err // deleted: the session ends, and the agent registers again
	}
	node = node.DeepCopy()
	mergeNodeStatus(&node.Status, said)
	_, err = registry.PutStatus(tx, node)
	return err
}

var errUnreadable = errors.New("the status of a pod is in a form that cannot be read")

func applyPod(tx *registry.Tx, node string, p *agentv1.PodStatus) error {
	pod, err := registry.Get[*corev1.Pod](tx, p.Namespace, p.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if string(pod.UID) != p.Uid || pod.Spec.NodeName != node {
		return nil
	}
	if len(p.Status) > 0 {
		said := &corev1.PodStatus{}
		if err := said.Unmarshal(p.Status); err != nil {
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
		pod = pod.DeepCopy()
		mergePodStatus(&pod.Status, said)
		if pod, err = registry.PutStatus(tx, pod); err != nil {
			return err
		}
	}
	if p.Gone && pod.DeletionTimestamp != nil {
		now := int64(0)
		return tx.Delete(pod, registry.DeleteOptions{GracePeriodSeconds: &now})
	}
	return nil
}

// Conditions that an agent decides; all others (PodScheduled, DisruptionTarget, readiness gates) belong to others and stay.
var agentConditions = map[corev1.PodConditionType]bool{
	corev1.PodReadyToStartContainers: true, corev1.PodInitialized: true, corev1.ContainersReady: true, corev1.PodReady: true,
	corev1.PodResizePending: true, corev1.PodResizeInProgress: true, corev1.AllContainersRestarting: true,
}

func mergePodStatus(into, said *corev1.PodStatus) {
	old := *into
	said.DeepCopyInto(into)
	into.QOSClass, into.NominatedNodeName = old.QOSClass, old.NominatedNodeName
	if into.StartTime == nil || (old.StartTime != nil && old.StartTime.Before(into.StartTime)) {
		into.StartTime = old.StartTime
	}
	conditions := make([]corev1.PodCondition, 0, len(said.Conditions)+2)
	for _, c := range into.Conditions {
		if agentConditions[c.Type] || !hasCondition(old.Conditions, c.Type) {
			conditions = append(conditions, c)
		}
	}
	for _, c := range old.Conditions {
		if !agentConditions[c.Type] {
			conditions = append(conditions, c)
		}
	}
	into.Conditions = conditions
}

func hasCondition(all []corev1.PodCondition, kind corev1.PodConditionType) bool {
	for _, c := range all {
		if c.Type == kind {
			return true
		}
	}
	return false
}

// mayTell: a node speaks of itself, of its own pods and of what it does for Services. One that is gone, or has made room for another of its name, was its
// own as far as anybody knows: the last events of a pod come late.
func mayTell(v *registry.View, node string, e *agentv1.PodEvent) bool {
	switch e.Kind {
	case "Node":
		return true
	case "Service": // every node serves every Service
		svc, err := registry.Get[*corev1.Service](v, e.Namespace, e.Name)
		return err == nil && string(svc.UID) == e.Uid
	}
	pod, err := registry.Get[*corev1.Pod](v, e.Namespace, e.Name)
	return err != nil || string(pod.UID) != e.Uid || pod.Spec.NodeName == node
}

func (s *Server) recordEvents(node string, events []*agentv1.PodEvent) {
	_ = s.cfg.Registry.View(func(v *registry.View) error {
		events = slices.DeleteFunc(slices.Clone(events), func(e *agentv1.PodEvent) bool { return !mayTell(v, node, e) })
		return nil
	})
	for _, e := range events {
		ref := corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: e.Namespace, Name: e.Name, UID: types.UID(e.Uid), FieldPath: e.FieldPath,
		}
		switch e.Kind {
		case "Service":
			ref.Kind = e.Kind
		case "Node":
			ref = corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)}
		}
		s.cfg.Registry.RecordEvent(registry.EventInput{
			Object: ref, Type: e.Type, Reason: e.Reason, Message: e.Message, Component: kubelet, Host: node,
			Time: time.Unix(0, e.UnixNano),
		})
	}
}
