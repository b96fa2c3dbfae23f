package resource

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func validHook() admissionv1.ValidatingWebhook {
	none, url := admissionv1.SideEffectClassNone, "https://example.com/check"
	return admissionv1.ValidatingWebhook{
		Name: "check.example.com", SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
		ClientConfig: admissionv1.WebhookClientConfig{URL: &url},
		Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"},
		}}},
	}
}

func hookConfig(hooks ...admissionv1.ValidatingWebhook) Object {
	return &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Webhooks: hooks}
}

// The words are Kubernetes' own.
func TestWebhookRules(t *testing.T) {
	r, _ := table.ByKey("validatingwebhookconfigurations.admissionregistration.k8s.io")
	if errs := r.Rules().Validate(t.Context(), hookConfig(validHook())); len(errs) > 0 {
		t.Fatal(errs)
	}
	text := func(s string) *string { return &s }
	for _, test := range []struct {
		change func(*admissionv1.ValidatingWebhook)
		want   string
	}{
		{func(w *admissionv1.ValidatingWebhook) { w.Name = "short" }, "should be a domain with at least three segments separated by dots"},
		{func(w *admissionv1.ValidatingWebhook) { w.SideEffects = nil }, "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"},
		{func(w *admissionv1.ValidatingWebhook) { s := admissionv1.SideEffectClassSome; w.SideEffects = &s }, `webhooks[0].sideEffects: Unsupported value: "Some": supported values: "None", "NoneOnDryRun"`},
		{func(w *admissionv1.ValidatingWebhook) { w.ClientConfig.URL = nil }, "exactly one of url or service is required"},
		{func(w *admissionv1.ValidatingWebhook) { w.ClientConfig.URL = text("http://example.com") }, "'https' is the only allowed URL scheme; desired format: https://host[/path]"},
		{func(w *admissionv1.ValidatingWebhook) { w.ClientConfig.URL = text("https://u@example.com?a=b#c") }, "query parameters are not permitted in the URL"},
		{func(w *admissionv1.ValidatingWebhook) {
			w.ClientConfig = admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: "s", Namespace: "d", Path: text("a//b")}}
		}, "must start with a '/'"},
		{func(w *admissionv1.ValidatingWebhook) { n := int32(31); w.TimeoutSeconds = &n }, "the timeout value must be between 1 and 30 seconds"},
		{func(w *admissionv1.ValidatingWebhook) { w.AdmissionReviewVersions = nil }, "must specify one of v1, v1beta1"},
		{func(w *admissionv1.ValidatingWebhook) { w.AdmissionReviewVersions = []string{"v2"} }, "must include at least one of v1, v1beta1"},
		{func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Resources = []string{"*", "pods"} }, "if '*' is present, must not specify other resources without subresources"},
		{func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Resources = []string{"pods/*", "pods/status"} }, "if 'pods/*' is present, must not specify pods/status"},
		{func(w *admissionv1.ValidatingWebhook) { w.Rules[0].Operations = nil }, "webhooks[0].rules[0].operations: Required value"},
		{func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "... [] bad expression"}}
		}, "compilation failed"},
		{func(w *admissionv1.ValidatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "1"}}
		}, "must evaluate to bool but got int"},
	} {
		w := validHook()
		test.change(&w)
		errs := r.Rules().Validate(t.Context(), hookConfig(w))
		if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want) {
			t.Errorf("got %v\nwant %s", errs, test.want)
		}
	}
	if errs := r.Rules().Validate(t.Context(), hookConfig(validHook(), validHook())); len(errs) != 1 || !strings.Contains(errs[0].Error(), "webhooks[1].name: Duplicate value") {
		t.Errorf("of one name: %v", errs)
	}
	// What an old configuration has, it may keep.
	old := validHook()
	some := admissionv1.SideEffectClassSome
	old.SideEffects = &some
	if errs := r.Rules().ValidateUpdate(t.Context(), hookConfig(old), hookConfig(old)); len(errs) > 0 {
		t.Errorf("unchanged: %v", errs)
	}
}
