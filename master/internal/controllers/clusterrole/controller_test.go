package clusterrole

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func rule(resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}
}

func role(name, label string, resources ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
	for _, res := range resources {
		r.Rules = append(r.Rules, rule(res))
	}
	return r
}

func gathering(r *rbacv1.ClusterRole, labels ...string) *rbacv1.ClusterRole {
	r.AggregationRule = &rbacv1.AggregationRule{}
	for _, l := range labels {
		r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{l: "true"}})
	}
	return r
}

func resources(rules []rbacv1.PolicyRule) (out []string) {
	for _, r := range rules {
		out = append(out, r.Resources[0])
	}
	return out
}

func TestGather(t *testing.T) {
	all := []*rbacv1.ClusterRole{
		role("a", "x", "pods", "services"), role("b", "y", "nodes"), role("c", "x", "pods", "secrets"),
		gathering(role("self", "x", "events"), "x"),
	}
	for _, test := range []struct {
		name   string
		labels []string
		want   []string
	}{
		{"by name, each rule once, not its own", []string{"x"}, []string{"pods", "services", "secrets"}},
		{"selector by selector", []string{"y", "x"}, []string{"nodes", "pods", "services", "secrets"}},
		{"nothing", []string{"z"}, nil},
	} {
		got, err := gather(gathering(role("self", "x"), test.labels...), slices.Values(all))
		if diff := cmp.Diff(test.want, resources(got)); diff != "" || err != nil {
			t.Error(test.name, err, diff)
		}
	}
	bad := gathering(role("self", "x"), "x")
	bad.AggregationRule.ClusterRoleSelectors[0].MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}
	if _, err := gather(bad, slices.Values(all)); err == nil {
		t.Error("a selector that means nothing found something")
	}
}

// A role gathers from one that gathers itself, and follows what comes, changes and goes.
func TestAggregation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		controllertest.Create(e, gathering(role("admin", "none", "stale"), "to-admin"))
		controllertest.Create(e, gathering(role("edit", "to-admin"), "to-edit"))
		controllertest.Create(e, role("pods", "to-edit", "pods"))
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		check := func(want ...string) {
			t.Helper()
			controllertest.Settle(time.Second)
			if diff := cmp.Diff(want, resources(controllertest.Get[*rbacv1.ClusterRole](e, "", "admin").Rules)); diff != "" {
				t.Error(diff)
			}
		}
		check("pods")
		controllertest.Create(e, role("crd", "to-edit", "whales"))
		check("whales", "pods")
		controllertest.Change(e, "", "pods", func(r *rbacv1.ClusterRole) { r.Rules = append(r.Rules, rule("services")) })
		check("whales", "pods", "services")
		controllertest.Change(e, "", "admin", func(r *rbacv1.ClusterRole) { r.Rules = append(r.Rules, rule("secrets")) })
		check("whales", "pods", "services")
		controllertest.Delete[*rbacv1.ClusterRole](e, "", "pods", registry.DeleteOptions{})
		check("whales")
		// What is not aggregated is left alone, and nothing is written when nothing is due.
		before := controllertest.Get[*rbacv1.ClusterRole](e, "", "admin").ResourceVersion
		controllertest.Create(e, role("alone", "none", "nodes"))
		check("whales")
		if after := controllertest.Get[*rbacv1.ClusterRole](e, "", "admin").ResourceVersion; after != before {
			t.Error("written again without need")
		}
		if _, err := New(Config{Registry: e.Registry, Logger: e.Logger}).reconcile(context.Background(), registry.Key{Resource: resource, Name: "gone"}); err != nil {
			t.Error(err)
		}
	})
}
