package resource

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

const statefulSetText = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: redis, image: redis}]}}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]
`

func TestStatefulSetDefaults(t *testing.T) {
	set := created(t, statefulSetText).(*appsv1.StatefulSet)
	if s := set.Spec; *s.Replicas != 1 || s.PodManagementPolicy != appsv1.OrderedReadyPodManagement || *s.RevisionHistoryLimit != 10 ||
		s.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType || *s.UpdateStrategy.RollingUpdate.Partition != 0 ||
		s.PersistentVolumeClaimRetentionPolicy.WhenScaled != appsv1.RetainPersistentVolumeClaimRetentionPolicyType ||
		*s.VolumeClaimTemplates[0].Spec.VolumeMode != "Filesystem" || set.Generation != 1 {
		t.Errorf("apps/v1: %+v", s)
	}
	// As old posts write it: the selector comes from the template, and updates wait for deletions.
	old := created(t, "{apiVersion: apps/v1beta1, kind: StatefulSet, metadata: {name: db}, spec: {serviceName: db, template: {metadata: {labels: {app: db}}, spec: {containers: [{name: redis, image: redis}]}}}}").(*appsv1.StatefulSet)
	if s := old.Spec; s.Selector.MatchLabels["app"] != "db" || s.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType || *s.Replicas != 1 {
		t.Errorf("apps/v1beta1: %+v", s)
	}
	max := created(t, strings.Replace(statefulSetText, "serviceName: db", "serviceName: db\n  updateStrategy: {rollingUpdate: {maxUnavailable: 25%}}", 1))
	if m := max.(*appsv1.StatefulSet).Spec.UpdateStrategy.RollingUpdate.MaxUnavailable; m == nil || m.String() != "25%" {
		t.Errorf("maxUnavailable %v was dropped", m)
	}
}

func TestStatefulSetValidation(t *testing.T) {
	for _, test := range []struct{ old, new, want string }{
		{"name: db}", "name: a.b}", `metadata.name: Invalid value: "a.b": must not contain dots`},
		{"serviceName: db", "serviceName: A", `spec.serviceName: Invalid value: "A"`},
		{"image: redis}]", "image: redis}], restartPolicy: Never", `spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`},
		{"matchLabels: {app: db}", "matchLabels: {app: x}", "`selector` does not match template `labels`"},
	} {
		set := created(t, strings.Replace(statefulSetText, test.old, test.new, 1))
		if got := rulesOf(t, set).Validate(context.Background(), set).ToAggregate(); got == nil || !strings.Contains(got.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.new, got, test.want)
		}
	}
	set := created(t, statefulSetText)
	if errs := rulesOf(t, set).Validate(context.Background(), set); len(errs) > 0 {
		t.Fatal(errs)
	}
	set.SetUID("1")
	set.SetResourceVersion("1")
	set.(*appsv1.StatefulSet).Status.Replicas = 1

	scaled := update(t, strings.Replace(statefulSetText, "serviceName: db", "replicas: 3\n  serviceName: db", 1), set)
	if errs := rulesOf(t, set).ValidateUpdate(context.Background(), scaled, set); len(errs) > 0 || scaled.GetGeneration() != 2 || scaled.(*appsv1.StatefulSet).Status.Replicas != 1 {
		t.Errorf("scaled: %v, generation %d, status %+v", errs, scaled.GetGeneration(), scaled.(*appsv1.StatefulSet).Status)
	}
	moved := update(t, strings.Replace(statefulSetText, "serviceName: db", "serviceName: other", 1), set)
	got := rulesOf(t, set).ValidateUpdate(context.Background(), moved, set).ToAggregate()
	if got == nil || !strings.Contains(got.Error(), "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy'") {
		t.Errorf("serviceName changed: %v", got)
	}
	kept := strings.Replace(statefulSetText, "serviceName: db", "revisionHistoryLimit: -1\n  serviceName: db", 1)
	if w := rulesOf(t, set).Warnings(context.Background(), created(t, kept), nil); len(w) != 1 || !strings.HasPrefix(w[0], "spec.revisionHistoryLimit: a negative value retains") {
		t.Errorf("warnings %q", w)
	}
}

func TestControllerRevisionsAreForEver(t *testing.T) {
	const text = "{apiVersion: apps/v1, kind: ControllerRevision, metadata: {name: a}, revision: 1, data: {a: 1}}"
	r := created(t, text)
	if errs := rulesOf(t, r).Validate(context.Background(), r); len(errs) > 0 {
		t.Fatal(errs)
	}
	none := created(t, strings.Replace(text, ", data: {a: 1}", "", 1))
	if got := rulesOf(t, r).Validate(context.Background(), none).ToAggregate(); got == nil || !strings.Contains(got.Error(), "data: Required value: data is mandatory") {
		t.Errorf("without data: %v", got)
	}
	r.SetResourceVersion("1")
	for change, want := range map[string]string{"revision: 2": "", "data: {a: 2}": "data: Invalid value"} {
		key, _, _ := strings.Cut(change, " ")
		old := map[string]string{"revision:": "revision: 1", "data:": "data: {a: 1}"}[key]
		changed := stored(t, strings.Replace(text, old, change, 1))
		changed.SetNamespace("default")
		changed.SetResourceVersion("1")
		errs := rulesOf(t, r).ValidateUpdate(context.Background(), changed, r)
		if want == "" && len(errs) > 0 || want != "" && (len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), want)) {
			t.Errorf("%s: %v", change, errs)
		}
	}
}
