package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1conversion "k8s.io/kubernetes/pkg/apis/core/v1"
)

// templateWarnings are those of a kind that makes pods from a template: the name when it is new, the template when it
// changed.
func templateWarnings(template func(Object) *corev1.PodTemplateSpec) func(context.Context, Object, Object) []string {
	return func(ctx context.Context, obj, old Object) []string {
		var out []string
		var before *core.PodTemplateSpec
		switch {
		case old == nil:
			if msgs := utilvalidation.IsDNS1123Label(obj.GetName()); len(msgs) > 0 {
				out = append(out, fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
			}
		case obj.GetGeneration() == old.GetGeneration():
			return nil
		default:
			before = new(core.PodTemplateSpec)
			if corev1conversion.Convert_v1_PodTemplateSpec_To_core_PodTemplateSpec(template(old), before, nil) != nil {
				return nil
			}
		}
		var in core.PodTemplateSpec
		if corev1conversion.Convert_v1_PodTemplateSpec_To_core_PodTemplateSpec(template(obj), &in, nil) != nil {
			return out
		}
		path := field.NewPath("spec", "template")
		return append(out, podutil.GetWarningsForPodTemplate(ctx, path, &in, before)...)
	}
}

// selectorText is a label selector as the status of a Scale says it; "" for one that cannot be read.
func selectorText(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return selector.String()
}

// replicasOf is the number a spec asks for; defaults make it 1.
func replicasOf(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}
