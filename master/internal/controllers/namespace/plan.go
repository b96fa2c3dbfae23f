package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions say how far the deletion has come, in the types and reasons that kubectl users know.
func conditions(now time.Time, old []corev1.NamespaceCondition, l left) []corev1.NamespaceCondition {
	want := []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionDiscoveryFailure, Status: corev1.ConditionFalse, Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
		{Type: corev1.NamespaceDeletionGVParsingFailure, Status: corev1.ConditionFalse, Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
		{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse, Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
		{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionFalse, Reason: "ContentRemoved", Message: "All content successfully removed"},
		{Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionFalse, Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
	}
	if len(l.objects) > 0 {
		want[3].Status, want[3].Reason = corev1.ConditionTrue, "SomeResourcesRemain"
		want[3].Message = "Some resources are remaining: " + counted(l.objects, "%s has %d resource instances")
	}
	if len(l.finalizers) > 0 {
		want[4].Status, want[4].Reason = corev1.ConditionTrue, "SomeFinalizersRemain"
		want[4].Message = "Some content in the namespace has finalizers remaining: " + counted(l.finalizers, "%s in %d resource instances")
	}
	for i := range want {
		want[i].LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		for _, o := range old {
			if o.Type == want[i].Type && o.Status == want[i].Status {
				want[i].LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return want
}

func counted(counts map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		label := name
		if !strings.Contains(name, ".") && !strings.Contains(name, "/") {
			label += "." // as Kubernetes writes the core group
		}
		parts = append(parts, fmt.Sprintf(format, label, counts[name]))
	}
	return strings.Join(parts, ", ")
}
