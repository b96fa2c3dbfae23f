package resource

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// resizeFields are what appliers own who apply through pods/resize.
var resizeFields = fieldpath.NewIncludeMatcherFilter(
	fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resources"),
	fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
	fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resources"),
	fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
)

// preparePodResize lets a write through pods/resize change nothing but resources and resize policies, as Kubernetes' own
// strategy does. Containers that were added, removed or renamed stay as the client wrote them, for validation to refuse.
func preparePodResize(obj, old Object) {
	pod, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	if len(pod.Spec.Containers) == len(before.Spec.Containers) && len(pod.Spec.InitContainers) == len(before.Spec.InitContainers) {
		spec := before.Spec.DeepCopy()
		spec.Containers = resized(pod.Spec.Containers, spec.Containers)
		spec.InitContainers = resized(pod.Spec.InitContainers, spec.InitContainers)
		spec.Resources = pod.Spec.Resources
		pod.Spec = *spec
		pod.Status = before.Status
		metav1.ResetObjectMetaForStatus(pod, before)
	}
	dropDisabledPodFields(pod, before)
	keepGeneration(pod, before, differ(pod.Spec, before.Spec))
}

// resized gives the old containers with the resources of the new ones; the new ones alone when a name differs.
func resized(containers, before []corev1.Container) []corev1.Container {
	named := func(a, b corev1.Container) bool { return a.Name == b.Name }
	if !slices.EqualFunc(containers, before, named) {
		return containers
	}
	for i := range containers {
		before[i].Resources, before[i].ResizePolicy = containers[i].Resources, containers[i].ResizePolicy
	}
	return before
}

var validatePodResize = validateChange(func(in, old *core.Pod) field.ErrorList {
	return validation.ValidatePodResize(in, old, podOptions(in, old))
})
