package resource

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Webhook is one webhook of a configuration of either kind, with what both kinds have.
type Webhook struct {
	Configuration, Name string
	Mutating            bool
	ClientConfig        admissionv1.WebhookClientConfig
	Rules               []admissionv1.RuleWithOperations
	FailurePolicy       *admissionv1.FailurePolicyType
	MatchPolicy         *admissionv1.MatchPolicyType
	NamespaceSelector   *metav1.LabelSelector
	ObjectSelector      *metav1.LabelSelector
	SideEffects         *admissionv1.SideEffectClass
	TimeoutSeconds      *int32
	ReviewVersions      []string
	// Reinvocation is of mutating webhooks only.
	Reinvocation    *admissionv1.ReinvocationPolicyType
	MatchConditions []admissionv1.MatchCondition
}

// Webhooks of a configuration, which is not changed.
func Webhooks(config Object) []Webhook {
	var out []Webhook
	switch c := config.(type) {
	case *admissionv1.MutatingWebhookConfiguration:
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out = append(out, Webhook{c.Name, w.Name, true, w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector,
				w.ObjectSelector, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.ReinvocationPolicy, w.MatchConditions})
		}
	case *admissionv1.ValidatingWebhookConfiguration:
		for i := range c.Webhooks {
			w := &c.Webhooks[i]
			out = append(out, Webhook{c.Name, w.Name, false, w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.NamespaceSelector,
				w.ObjectSelector, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, nil, w.MatchConditions})
		}
	}
	return out
}
