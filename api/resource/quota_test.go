package resource

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestQuotaRules(t *testing.T) {
	q := created(t, `{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {cpu: "2", limits.cpu: "1", requests.storage: 5Gi}}, status: {used: {cpu: "1"}}}`).(*corev1.ResourceQuota)
	if q.Status.Used != nil {
		t.Errorf("a client's status: %v", q.Status)
	}
	rules := rulesOf(t, q)
	want := []string{"ResourceQuota cpu (2) should be less than limits.cpu (1)"}
	if got := rules.Warnings(t.Context(), q, nil); !slices.Equal(got, want) {
		t.Errorf("warnings %q", got)
	}
	if got := rules.Warnings(t.Context(), q, q); got != nil {
		t.Errorf("warnings of a change: %q", got)
	}
	status := q.DeepCopy()
	status.Spec.Hard, status.Status.Hard = nil, q.Spec.Hard
	rules.PrepareStatus(status, q)
	if len(status.Spec.Hard) != 3 || len(status.Status.Hard) != 3 {
		t.Errorf("a change of the status: %+v", status)
	}
	spec := status.DeepCopy()
	spec.Status = corev1.ResourceQuotaStatus{}
	rules.PrepareUpdate(spec, status)
	if len(spec.Status.Hard) != 3 {
		t.Error("a change of the spec took the status away")
	}
	scoped := status.DeepCopy()
	scoped.ResourceVersion, status.ResourceVersion = "1", "1"
	scoped.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
	if errs := rules.ValidateUpdate(t.Context(), scoped, status); !strings.Contains(errs.ToAggregate().Error(), "spec.scopes: Invalid value") {
		t.Errorf("other scopes: %v", errs)
	}
}

func TestQuotaAndLimitWords(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"a name nobody knows", "{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {whales: 1}}}", "spec.hard[whales]: Invalid value: \"whales\""},
		{"less than nothing", "{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {pods: -1}}}", "must be greater than or equal to 0"},
		{"a scope of something else", "{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {services: 1}, scopes: [BestEffort]}}", "unsupported scope applied to resource"},
		{"a default above the maximum", "{apiVersion: v1, kind: LimitRange, metadata: {name: a}, spec: {limits: [{type: Container, max: {cpu: 1}, default: {cpu: 2}}]}}", "default value 2 is greater than max value 1"},
		{"a default for pods", "{apiVersion: v1, kind: LimitRange, metadata: {name: a}, spec: {limits: [{type: Pod, default: {cpu: 2}}]}}", "may not be specified when `type` is 'Pod'"},
		{"a type nobody knows", "{apiVersion: v1, kind: LimitRange, metadata: {name: a}, spec: {limits: [{type: Whale, max: {cpu: 1}}]}}", "must be a standard limit type or fully qualified"},
	} {
		obj := created(t, test.text)
		obj.SetNamespace("default")
		errs := rulesOf(t, obj).Validate(t.Context(), obj)
		if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want) {
			t.Errorf("%s: %v", test.name, errs)
		}
	}
	// What is said for a container goes for what is not said.
	l := created(t, "{apiVersion: v1, kind: LimitRange, spec: {limits: [{type: Container, max: {cpu: 2}}]}}").(*corev1.LimitRange)
	item := l.Spec.Limits[0]
	if item.Default.Cpu().String() != "2" || item.DefaultRequest.Cpu().String() != "2" || l.Name == "" {
		t.Errorf("defaults: %+v", l)
	}
}
