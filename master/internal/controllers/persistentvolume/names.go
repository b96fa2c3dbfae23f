package persistentvolume

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations of Kubernetes' volume controllers (k8s.io/component-helpers/storage/volume).
const (
	annBindCompleted  = "pv.kubernetes.io/bind-completed"
	annBoundByUs      = "pv.kubernetes.io/bound-by-controller"
	annProvisionedBy  = "pv.kubernetes.io/provisioned-by"
	annSelectedNode   = "volume.kubernetes.io/selected-node"
	annProvisioner    = "volume.kubernetes.io/storage-provisioner"
	annProvisionerOld = "volume.beta.kubernetes.io/storage-provisioner"
)

// Finalizers of what may be in use.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"
)

// Provisioner is the one that is built in: a volume is a directory of the node that its first pod runs on.
const Provisioner = "whalepod.io/local"

// NodeDir is the annotation by which an agent says where its node keeps such volumes.
const NodeDir = "whalepod.io/local-volumes"

func has(meta *metav1.ObjectMeta, annotation string) bool {
	return metav1.HasAnnotation(*meta, annotation)
}
