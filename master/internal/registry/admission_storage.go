package registry

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Annotations that make a StorageClass the default, today's and the one of old clusters.
const (
	defaultClassAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClassAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// Finalizers by which Kubernetes' StorageObjectInUseProtection admission keeps what is in use; the controller
// persistentvolume takes them away.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"
)

func protect(obj Object, finalizer string) {
	if have := obj.GetFinalizers(); !slices.Contains(have, finalizer) {
		obj.SetFinalizers(append(slices.Clone(have), finalizer))
	}
}

// admitResizeOfClaim does what Kubernetes' PersistentVolumeClaimResize admission does: only a bound claim whose class allows it
// may ask for more than before.
func admitResizeOfClaim(v Viewer, claim *corev1.PersistentVolumeClaim, old Object) error {
	before, ok := old.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	size, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], before.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(was) <= 0 {
		return nil
	}
	forbidden := func(why string) error {
		return apierrors.NewForbidden(corev1.Resource("persistentvolumeclaims"), claim.Name, errorf("%s", why))
	}
	if before.Status.Phase != corev1.ClaimBound {
		return forbidden("Only bound persistent volume claims can be expanded")
	}
	if name := before.Spec.StorageClassName; name != nil {
		class, err := Get[*storagev1.StorageClass](v, "", *name)
		if err == nil && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
			return nil
		}
	}
	return forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
}

// admitClaim does what Kubernetes' DefaultStorageClass admission does: a claim that names no class gets the default one.
func admitClaim(v *View, claim *corev1.PersistentVolumeClaim) {
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named || claim.Spec.StorageClassName != nil {
		return
	}
	if class := DefaultStorageClass(v); class != nil {
		name := class.Name
		claim.Spec.StorageClassName = &name
	}
}

// DefaultStorageClass is nil when no class is the default; of several the newest counts, of equally old ones the first by
// name.
func DefaultStorageClass(v Viewer) *storagev1.StorageClass {
	var found *storagev1.StorageClass
	for class := range List[*storagev1.StorageClass](v, "") {
		if class.Annotations[defaultClassAnnotation] != "true" && class.Annotations[betaDefaultClassAnnotation] != "true" {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&class.CreationTimestamp) {
			found = class
		}
	}
	return found
}
