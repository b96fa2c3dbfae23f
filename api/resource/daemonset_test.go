package resource

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
)

const oldDaemonSet = `
apiVersion: extensions/v1beta1
kind: DaemonSet
metadata: {name: logs}
spec:
  template:
    metadata: {labels: {app: logs}}
    spec: {containers: [{name: c, image: busybox}]}
`

func TestDaemonSetOfOldPosts(t *testing.T) {
	ds := created(t, oldDaemonSet).(*appsv1.DaemonSet)
	table.Default(ds)
	if ds.Spec.Selector.MatchLabels["app"] != "logs" || ds.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType ||
		ds.Generation != 1 || ds.Annotations[appsv1.DeprecatedTemplateGeneration] != "1" {
		t.Errorf("%+v %+v", ds.ObjectMeta, ds.Spec)
	}
	if errs := rulesOf(t, ds).Validate(context.Background(), ds); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestTemplateGeneration(t *testing.T) {
	old := created(t, oldDaemonSet).(*appsv1.DaemonSet)
	table.Default(old)
	old.ResourceVersion = "1"
	// Another image, by a client that knows nothing of the annotation.
	next := update(t, strings.Replace(oldDaemonSet, "busybox", "busybox:2", 1), old).(*appsv1.DaemonSet)
	if next.Generation != 2 || next.Annotations[appsv1.DeprecatedTemplateGeneration] != "2" {
		t.Errorf("another template: %+v", next.ObjectMeta)
	}
	table.Default(next)
	if errs := rulesOf(t, next).ValidateUpdate(context.Background(), next, old); len(errs) > 0 {
		t.Error(errs)
	}
	// Something else of the spec counts for one generation only.
	same := next.DeepCopy()
	same.Spec.MinReadySeconds = 5
	same.Annotations = nil
	rulesOf(t, next).PrepareUpdate(same, next)
	if same.Generation != 3 || same.Annotations[appsv1.DeprecatedTemplateGeneration] != "2" {
		t.Errorf("another minReadySeconds: %+v", same.ObjectMeta)
	}
	bad := created(t, strings.Replace(oldDaemonSet, "name: logs}\nspec", `name: logs, annotations: {deprecated.daemonset.template.generation: x}}`+"\nspec", 1))
	table.Default(bad)
	if n, err := templateGeneration(bad.(*appsv1.DaemonSet)); err != nil || n != 1 {
		t.Errorf("a templateGeneration that comes with an old version is a field, not the annotation: %d, %v", n, err)
	}
}

func TestBudgetOfOldPosts(t *testing.T) {
	budget := func(version, selector string) *policyv1.PodDisruptionBudget {
		return created(t, "apiVersion: policy/"+version+"\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 1, selector: "+selector+"}\n").(*policyv1.PodDisruptionBudget)
	}
	if b := budget("v1beta1", "{matchLabels: {app: web}}"); b.Spec.Selector.MatchLabels["app"] != "web" || b.Spec.MinAvailable.IntValue() != 1 || b.Generation != 1 {
		t.Errorf("%+v", b)
	}
	// Empty meant nothing, and means everything.
	if b := budget("v1beta1", "{}"); len(b.Spec.Selector.MatchExpressions) != 1 {
		t.Errorf("v1beta1: %+v", b.Spec.Selector)
	}
	if b := budget("v1", "{}"); len(b.Spec.Selector.MatchExpressions) != 0 {
		t.Errorf("v1: %+v", b.Spec.Selector)
	}
	b := budget("v1", "{}")
	changed := b.DeepCopy()
	changed.Status.CurrentHealthy = -1
	status := rulesOf(t, b).ValidateStatus
	if errs := status(context.Background(), changed, b); len(errs) != 1 || errs[0].Field != "status.currentHealthy" {
		t.Errorf("v1: %v", errs)
	}
	if errs := status(WithVersion(context.Background(), policyV1beta1), changed, b); len(errs) != 0 {
		t.Errorf("v1beta1: %v", errs)
	}
}
