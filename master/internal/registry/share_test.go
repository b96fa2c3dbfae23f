package registry

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func replica(i int, image string) *corev1.Pod {
	yes := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprint("web-", i), Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprint("node-", i),
			Containers: []corev1.Container{{Name: "web", Image: image, Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")},
			}}},
			Tolerations: []corev1.Toleration{{Key: "a"}},
		},
		Status: corev1.PodStatus{PodIP: fmt.Sprint("10.244.0.", i)},
	}
}

func TestShare(t *testing.T) {
	var templates podTemplates
	first, second := replica(1, "web:1"), replica(2, "web:1")
	templates.share(nil, first)
	templates.share(nil, second)
	if diff := cmp.Diff(replica(2, "web:1"), second); diff != "" {
		t.Errorf("sharing changed the pod: %s", diff)
	}
	if &first.Spec.Containers[0] != &second.Spec.Containers[0] || &first.OwnerReferences[0] != &second.OwnerReferences[0] {
		t.Error("two replicas do not share their containers and owners")
	}

	// A change of one pod leaves the other alone.
	changed := second.DeepCopy()
	changed.Spec.Containers[0].Image = "web:2"
	changed.Status.Phase = corev1.PodRunning
	templates.share(second, changed)
	if first.Spec.Containers[0].Image != "web:1" || changed.Spec.Containers[0].Image != "web:2" || second.Status.Phase != "" {
		t.Error("a change of one pod is seen in another")
	}
	if &changed.Spec.Tolerations[0] != &second.Spec.Tolerations[0] {
		t.Error("a pod does not share with its former state what it did not change")
	}

	other := replica(3, "web:3")
	templates.share(nil, other)
	if other.Spec.Containers[0].Image != "web:3" {
		t.Error("a pod took another's image")
	}
	for i := range 3 * maxTemplates {
		templates.share(nil, replica(i, fmt.Sprint("image:", i)))
	}
	if n := len(templates.recent); n > maxTemplates {
		t.Errorf("%d templates are kept", n)
	}
}
