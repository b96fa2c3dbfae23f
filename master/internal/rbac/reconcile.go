package rbac

import (
	"fmt"
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// protected is the value of rbac.authorization.kubernetes.io/autoupdate that keeps an object as it is.
const protected = "false"

// EnsureDefaults makes the default policy, and adds to what is there of it what is missing: rules, subjects, labels. What an
// admin added stays. Kubernetes' API server does this at each start, and only then: who deletes a default binding is in
// peace until the next one.
func EnsureDefaults(tx *registry.Tx) error {
	for _, r := range defaultRoles() {
		if err := ensure(tx, r.object(), completeRole); err != nil {
			return fmt.Errorf("clusterrole %s: %w", r.name, err)
		}
	}
	bindings := defaultBindings()
	for _, name := range slices.Sorted(maps.Keys(bindings)) {
		if err := ensureBinding(tx, bindingOf(name, bindings[name])); err != nil {
			return fmt.Errorf("clusterrolebinding %s: %w", name, err)
		}
	}
	return nil
}

// ensure creates an object, or writes what complete makes of the one that is there.
func ensure[T registry.Object](tx *registry.Tx, want T, complete func(have, want T)) error {
	have, err := registry.Get[T](tx, "", want.GetName())
	if apierrors.IsNotFound(err) {
		_, err = registry.Create(tx, want)
		return err
	}
	if err != nil || have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == protected {
		return err
	}
	next := have.DeepCopyObject().(T)
	next.SetLabels(merged(want.GetLabels(), next.GetLabels()))
	next.SetAnnotations(merged(want.GetAnnotations(), next.GetAnnotations()))
	complete(next, want)
	_, err = registry.Put(tx, next) // which writes nothing when nothing changed
	return err
}

// ensureBinding is ensure, and makes a binding anew that is of another role: that cannot be changed.
func ensureBinding(tx *registry.Tx, want *rbacv1.ClusterRoleBinding) error {
	have, err := registry.Get[*rbacv1.ClusterRoleBinding](tx, "", want.Name)
	if err == nil && have.RoleRef != want.RoleRef && have.Annotations[rbacv1.AutoUpdateAnnotationKey] != protected {
		if err := tx.Delete(have, registry.DeleteOptions{}); err != nil {
			return err
		}
		if gone, err := registry.Get[*rbacv1.ClusterRoleBinding](tx, "", want.Name); err == nil && gone.DeletionTimestamp != nil {
			return nil // somebody's finalizer holds it; the next start makes it
		}
	}
	return ensure(tx, want, completeBinding)
}

// merged is want with what is there already, which wins.
func merged(want, have map[string]string) map[string]string {
	out := maps.Clone(want)
	maps.Copy(out, have)
	return out
}

func completeRole(have, want *rbacv1.ClusterRole) {
	if !apiequality.Semantic.DeepEqual(have.Rules, want.Rules) {
		if _, missing := validation.Covers(have.Rules, want.Rules); len(missing) > 0 {
			have.Rules = append(have.Rules, missing...)
		}
	}
	if want.AggregationRule == nil {
		have.AggregationRule = nil
		return
	}
	if have.AggregationRule == nil {
		have.AggregationRule = &rbacv1.AggregationRule{}
	}
	for _, s := range want.AggregationRule.ClusterRoleSelectors {
		same := func(o metav1.LabelSelector) bool { return apiequality.Semantic.DeepEqual(o, s) }
		if !slices.ContainsFunc(have.AggregationRule.ClusterRoleSelectors, same) {
			have.AggregationRule.ClusterRoleSelectors = append(have.AggregationRule.ClusterRoleSelectors, s)
		}
	}
}

func completeBinding(have, want *rbacv1.ClusterRoleBinding) {
	for _, s := range want.Subjects {
		if !slices.Contains(have.Subjects, s) {
			have.Subjects = append(have.Subjects, s)
		}
	}
}
