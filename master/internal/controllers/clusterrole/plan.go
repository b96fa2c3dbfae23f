package clusterrole

import (
	"iter"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// gather gives the rules that an aggregated role should have: selector by selector, role by role in the order of all (that of
// names), each rule once.
func gather(role *rbacv1.ClusterRole, all iter.Seq[*rbacv1.ClusterRole]) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for other := range all {
			if other.Name != role.Name && selector.Matches(labels.Set(other.Labels)) {
				rules = addMissing(rules, other.Rules)
			}
		}
	}
	return rules, nil
}

func addMissing(rules, more []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	for _, r := range more {
		if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, r) }) {
			rules = append(rules, r)
		}
	}
	return rules
}
