package persistentvolume

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/scheduler"
)

// maxFileName is NAME_MAX of Linux' file systems, in bytes.
const maxFileName = 255

// provision makes a volume for the claim, if its class is ours, or says who else is to make it.
func (o *outcome) provision(w world, claim *corev1.PersistentVolumeClaim, node *corev1.Node) {
	class := w.class
	switch {
	case class.Provisioner == "kubernetes.io/no-provisioner" && node != nil:
		o.reselect(w, claim, "no persistent volume for this claim can be reached from node %q any more", node.Name)
		return
	case class.Provisioner == "kubernetes.io/no-provisioner":
		o.tell(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
		return
	case class.Provisioner != Provisioner:
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annProvisionerOld, class.Provisioner)
		o.tell(corev1.EventTypeNormal, "ExternalProvisioning",
			"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.",
			class.Provisioner)
		return
	}
	fail := func(format string, args ...any) {
		o.tell(corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: "+format, append([]any{class.Name}, args...)...)
	}
	if why := unfit(claim); why != "" {
		fail("%s", why)
		return
	}
	if node == nil {
		fail("a directory of a node can only be chosen when the pod's node is known: give the class volumeBindingMode: WaitForFirstConsumer")
		return
	}
	dir := node.Annotations[NodeDir]
	if dir == "" {
		fail("node %q does not say where it keeps volumes (annotation %s): its agent is older than the master", node.Name, NodeDir)
		return
	}
	v := newVolume(w, claim, node, dir)
	o.bind(w, claim, v)
	o.made = true
	o.tell(corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", v.Name)
}

// unfit says why a directory of one node cannot be what the claim asks for.
func unfit(claim *corev1.PersistentVolumeClaim) string {
	for _, m := range claim.Spec.AccessModes {
		if m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany {
			return string(m) + " cannot be had: such a volume is a directory of one node; use ReadWriteOnce, or a volume that all nodes reach"
		}
	}
	switch {
	case scheduler.Block(claim.Spec.VolumeMode):
		return "volumeMode Block cannot be had: such a volume is a directory"
	case claim.Spec.Selector != nil:
		return "claim.Spec.Selector is not supported"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "claim.Spec.DataSource is not supported"
	}
	return ""
}

func newVolume(w world, claim *corev1.PersistentVolumeClaim, node *corev1.Node, dir string) *corev1.PersistentVolume {
	class := w.class
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	filesystem := corev1.PersistentVolumeFilesystem
	name := "pvc-" + string(claim.UID)
	host := node.Labels[corev1.LabelHostname]
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{annProvisionedBy: Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes: claim.Spec.AccessModes, PersistentVolumeReclaimPolicy: policy, StorageClassName: scheduler.ClassOf(claim), VolumeMode: &filesystem,
			VolumeAttributesClassName: claim.Spec.VolumeAttributesClassName, MountOptions: class.MountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: path.Join(dir, dirName(name, claim))},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}
}

// dirName tells people who look at the disk whose data it is.
func dirName(volume string, claim *corev1.PersistentVolumeClaim) string {
	name := strings.Join([]string{volume, claim.Namespace, claim.Name}, "_")
	return name[:min(len(name), maxFileName)]
}

// DefaultClass is the class of claims that name none, on a cluster that has nothing but its nodes' disks.
func DefaultClass() *storagev1.StorageClass {
	wait, policy, expand := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete, true
	return &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{
			Name: "local", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		Provisioner: Provisioner, VolumeBindingMode: &wait, ReclaimPolicy: &policy, AllowVolumeExpansion: &expand,
	}
}
