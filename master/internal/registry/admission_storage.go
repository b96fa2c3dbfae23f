package registry

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// Annotations that make a StorageClass the default, today's and the one of old clusters.
const (
	defaultClassAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultClassAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// admitClaim does what Kubernetes' DefaultStorageClass admission does: a claim that names no class gets the default one.
func admitClaim(v *View, claim *corev1.PersistentVolumeClaim) {
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named || claim.Spec.StorageClassName != nil {
		return
	}
	if class := defaultStorageClass(v); class != nil {
		name := class.Name
		claim.Spec.StorageClassName = &name
	}
}

// defaultStorageClass is nil when no class is the default; of several the newest counts, of equally old ones the first by
// name.
func defaultStorageClass(v Viewer) *storagev1.StorageClass {
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
