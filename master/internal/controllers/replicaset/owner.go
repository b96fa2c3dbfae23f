package replicaset

import (
	"iter"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// owner is a kind that keeps pods. A ReplicationController says the same as a ReplicaSet with other types, so it is read
// as one, as Kubernetes' own controller manager does; what is written, and what Events are about, is the object itself.
type owner struct {
	component, resource string
	kind                schema.GroupVersionKind
	// get gives the object and how it reads as a ReplicaSet.
	get func(v registry.Viewer, namespace, name string) (registry.Object, *appsv1.ReplicaSet, error)
	// list gives all of a namespace ("" for every one), siblings those that have an owner.
	list     func(v registry.Viewer, namespace string) iter.Seq[*appsv1.ReplicaSet]
	siblings func(v registry.Viewer, uid string) iter.Seq[*appsv1.ReplicaSet]
	// put writes the status.
	put func(tx *registry.Tx, obj registry.Object, status appsv1.ReplicaSetStatus) error
	// terminating: the kind's status counts terminating pods.
	terminating bool
}

var replicaSets = &owner{
	component: "replicaset-controller", resource: "replicasets.apps", kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
	get: func(v registry.Viewer, namespace, name string) (registry.Object, *appsv1.ReplicaSet, error) {
		rs, err := registry.Get[*appsv1.ReplicaSet](v, namespace, name)
		return rs, rs, err
	},
	list: registry.List[*appsv1.ReplicaSet],
	siblings: func(v registry.Viewer, uid string) iter.Seq[*appsv1.ReplicaSet] {
		return registry.ByIndex[*appsv1.ReplicaSet](v, registry.IndexOwner, uid)
	},
	put: func(tx *registry.Tx, obj registry.Object, status appsv1.ReplicaSetStatus) error {
		changed := obj.(*appsv1.ReplicaSet).DeepCopy()
		changed.Status = status
		_, err := registry.PutStatus(tx, changed)
		return err
	},
	terminating: true,
}

var replicationControllers = &owner{
	component: "replication-controller", resource: "replicationcontrollers",
	kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
	get: func(v registry.Viewer, namespace, name string) (registry.Object, *appsv1.ReplicaSet, error) {
		rc, err := registry.Get[*corev1.ReplicationController](v, namespace, name)
		if err != nil {
			return nil, nil, err
		}
		return rc, asReplicaSet(rc), nil
	},
	list: func(v registry.Viewer, namespace string) iter.Seq[*appsv1.ReplicaSet] {
		return converted(registry.List[*corev1.ReplicationController](v, namespace))
	},
	siblings: func(v registry.Viewer, uid string) iter.Seq[*appsv1.ReplicaSet] {
		return converted(registry.ByIndex[*corev1.ReplicationController](v, registry.IndexOwner, uid))
	},
	put: func(tx *registry.Tx, obj registry.Object, status appsv1.ReplicaSetStatus) error {
		changed := obj.(*corev1.ReplicationController).DeepCopy()
		changed.Status = fromReplicaSet(status)
		_, err := registry.PutStatus(tx, changed)
		return err
	},
}

func converted(all iter.Seq[*corev1.ReplicationController]) iter.Seq[*appsv1.ReplicaSet] {
	return func(yield func(*appsv1.ReplicaSet) bool) {
		for rc := range all {
			if !yield(asReplicaSet(rc)) {
				return
			}
		}
	}
}

// asReplicaSet shares the object's memory: neither may be changed.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas: rc.Spec.Replicas, MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector: &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas: rc.Status.ReadyReplicas, AvailableReplicas: rc.Status.AvailableReplicas,
			ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil { // validation refuses nil at the door
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

func fromReplicaSet(s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	out := corev1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeledReplicas,
		ReadyReplicas: s.ReadyReplicas, AvailableReplicas: s.AvailableReplicas, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}
