package resource

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReplicationControllerDefaults: labels and selector come from the template, one replica is wanted, and what comes
// from the template is not the template's own map.
func TestReplicationControllerDefaults(t *testing.T) {
	table := NewTable()
	r, _ := table.Lookup(coreV1, "replicationcontrollers")
	obj, err := table.ToStorage(&corev1.ReplicationController{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"},
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ReplicationControllerSpec{Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx"}}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	rules := r.Rules()
	rules.PrepareCreate(obj)
	rc := obj.(*corev1.ReplicationController)
	if *rc.Spec.Replicas != 1 || rc.Spec.Selector["app"] != "web" || rc.Labels["app"] != "web" || rc.Generation != 1 {
		t.Errorf("labels %v, generation %d, spec %+v", rc.Labels, rc.Generation, rc.Spec)
	}
	if errs := rules.Validate(t.Context(), rc); len(errs) > 0 {
		t.Error(errs)
	}
	rc.Labels["more"] = "x"
	if len(rc.Spec.Selector) != 1 || len(rc.Spec.Template.Labels) != 1 {
		t.Errorf("a label more became one of the selector %v and the template %v", rc.Spec.Selector, rc.Spec.Template.Labels)
	}
	if spec, _, selector := rules.Scale.Get(rc); spec != 1 || selector != "app=web" {
		t.Errorf("scale: %d replicas of %q", spec, selector)
	}
	bare := rc.DeepCopy()
	bare.Spec.Template = nil
	rules.PrepareUpdate(bare, rc)
	if errs := rules.ValidateUpdate(t.Context(), bare, rc); len(errs) == 0 {
		t.Error("a spec without a template is accepted")
	}
	if w := rules.Warnings(t.Context(), bare, rc); w != nil {
		t.Errorf("warnings %q", w)
	}
}
