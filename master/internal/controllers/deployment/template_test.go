package deployment

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHashIsStable: the names of ReplicaSets that are out there must not change with a release. If this test fails, rollbacks
// still find old ReplicaSets (they compare templates), but new names are made for unchanged templates of new Deployments.
func TestHashIsStable(t *testing.T) {
	tmpl := &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "tier": "front"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	}
	one := int32(1)
	first, err := hashOf(tmpl, nil)
	if err != nil {
		t.Fatal(err)
	}
	if first != "7c6866b9dd" {
		t.Errorf("hash %q", first)
	}
	if second, _ := hashOf(tmpl, &one); second == first {
		t.Error("a collision does not change the hash")
	}
	tmpl.Labels[hashLabel] = "anything"
	if again, _ := hashOf(tmpl, nil); again != first {
		t.Errorf("the label changes the hash to %q", again)
	}
	if len(first) > 10 || strings.ContainsAny(first, "aeiou") {
		t.Errorf("hash %q is not fit for a name", first)
	}
}

func TestHistory(t *testing.T) {
	if got := history("", "1"); got != "1" {
		t.Error(got)
	}
	if got := history("1,3", "5"); got != "1,3,5" {
		t.Error(got)
	}
	long := strings.Repeat("123456789,", 199) + "123456789"
	if got := history(long, "7"); len(got) > historyLength || !strings.HasSuffix(got, ",7") {
		t.Errorf("%d characters", len(got))
	}
}
