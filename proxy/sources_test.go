package proxy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSources(t *testing.T) {
	for _, test := range []struct {
		field      []string
		annotation string
		guarded    bool
		want       string
	}{
		{nil, "", false, "[]"},
		{[]string{"198.51.100.7/24", " 192.0.2.1/32 "}, "", true, "[198.51.100.0/24 192.0.2.1/32]"},
		{nil, " 198.51.100.0/24, 192.0.2.0/24", true, "[198.51.100.0/24 192.0.2.0/24]"},
		{[]string{"198.51.100.0/24"}, "192.0.2.0/24", true, "[198.51.100.0/24]"},
		{nil, "2001:db8::/32", true, "[]"}, // somebody wants few to come: nobody does
		{nil, "  ", false, "[]"},
	} {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: test.annotation}},
			Spec:       corev1.ServiceSpec{LoadBalancerSourceRanges: test.field},
		}
		if got := fmt.Sprint(sources(svc)); got != test.want || len(sourceRanges(svc)) > 0 != test.guarded {
			t.Errorf("%q, %q: %s, guarded %v", test.field, test.annotation, got, len(sourceRanges(svc)) > 0)
		}
	}
}
