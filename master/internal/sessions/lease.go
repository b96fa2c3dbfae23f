package sessions

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	// The kubelet's own figures. Leases are volatile in the store: renewing one costs no fsync.
	leaseEvery    = 10 * time.Second
	leaseDuration = int32(40)
)

// renewLease shows in the node's Lease that its agent has been heard of, where Kubernetes' tools look for it.
func (s *Server) renewLease(ctx context.Context, name string) error {
	return s.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		now := metav1.NewMicroTime(time.Now())
		lease, err := registry.Get[*coordinationv1.Lease](tx, corev1.NamespaceNodeLease, name)
		if err == nil {
			lease = lease.DeepCopy()
			lease.Spec.RenewTime = &now
			_, err = registry.Put(tx, lease)
			return err
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		node, err := registry.Get[*corev1.Node](tx, "", name)
		if err != nil {
			return err
		}
		duration := leaseDuration
		_, err = registry.Create(tx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: corev1.NamespaceNodeLease, Name: name,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: name, UID: node.UID}},
			},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &duration, RenewTime: &now},
		})
		return err
	})
}
