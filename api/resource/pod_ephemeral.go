package resource

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// ephemeralFields are what appliers own who apply through pods/ephemeralcontainers.
var ephemeralFields = fieldpath.NewIncludeMatcherFilter(fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers"))

// preparePodEphemeral lets a write through pods/ephemeralcontainers (kubectl debug) change nothing but those, as Kubernetes'
// own strategy does.
func preparePodEphemeral(obj, old Object) {
	pod, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	next := before.DeepCopy()
	next.Name, next.Namespace, next.UID, next.ResourceVersion = pod.Name, pod.Namespace, pod.UID, pod.ResourceVersion
	next.Spec.EphemeralContainers = pod.Spec.EphemeralContainers
	next.ManagedFields = pod.ManagedFields
	*pod = *next
	dropDisabledPodFields(pod, before)
	keepGeneration(pod, before, differ(pod.Spec, before.Spec))
}

var validatePodEphemeral = validateChange(func(in, old *core.Pod) field.ErrorList {
	return validation.ValidatePodEphemeralContainersUpdate(in, old, podOptions(in, old))
})
