package resource

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/rbac"
	rbacvalidation "k8s.io/kubernetes/pkg/apis/rbac/validation"
)

// The four kinds of role based access control. Who may write them is not a rule of the kind: see master/internal/rbac.

func roles() *Resource {
	return &Resource{
		Name: "roles", Singular: "role", Kind: "Role", ListKind: "RoleList", Namespaced: true,
		Storage: rbacV1, Served: served(rbacV1), Verbs: allVerbs,
		rules: Rules{
			Validate:                 validate(rbacvalidation.ValidateRole),
			ValidateUpdate:           validateChange(rbacvalidation.ValidateRoleUpdate),
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}

func roleBindings() *Resource {
	return &Resource{
		Name: "rolebindings", Singular: "rolebinding", Kind: "RoleBinding", ListKind: "RoleBindingList", Namespaced: true,
		Storage: rbacV1, Served: served(rbacV1), Verbs: allVerbs,
		rules: Rules{
			Validate:                 validate(rbacvalidation.ValidateRoleBinding),
			ValidateUpdate:           validateChange(rbacvalidation.ValidateRoleBindingUpdate),
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}

func clusterRoles() *Resource {
	return &Resource{
		Name: "clusterroles", Singular: "clusterrole", Kind: "ClusterRole", ListKind: "ClusterRoleList",
		Storage: rbacV1, Served: served(rbacV1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(func(in *rbac.ClusterRole) field.ErrorList {
				return rbacvalidation.ValidateClusterRole(in, rbacvalidation.ClusterRoleValidationOptions{})
			}),
			ValidateUpdate: validateChange(func(in, old *rbac.ClusterRole) field.ErrorList {
				return rbacvalidation.ValidateClusterRoleUpdate(in, old, rbacvalidation.ClusterRoleValidationOptions{
					AllowInvalidLabelValueInSelector: hasInvalidSelector(old),
				})
			}),
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}

func clusterRoleBindings() *Resource {
	return &Resource{
		Name: "clusterrolebindings", Singular: "clusterrolebinding", Kind: "ClusterRoleBinding", ListKind: "ClusterRoleBindingList",
		Storage: rbacV1, Served: served(rbacV1), Verbs: allVerbs,
		rules: Rules{
			Validate:                 validate(rbacvalidation.ValidateClusterRoleBinding),
			ValidateUpdate:           validateChange(rbacvalidation.ValidateClusterRoleBindingUpdate),
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}

// hasInvalidSelector says whether a stored role selects by a label that would be refused today; it may keep it.
func hasInvalidSelector(role *rbac.ClusterRole) bool {
	if role.AggregationRule == nil {
		return false
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		if len(validation.ValidateLabelSelector(&role.AggregationRule.ClusterRoleSelectors[i], validation.LabelSelectorValidationOptions{}, nil)) > 0 {
			return true
		}
	}
	return false
}
