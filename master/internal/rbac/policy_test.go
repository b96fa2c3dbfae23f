package rbac

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// upstream reads what Kubernetes' API server makes at its start, from the module that the table of kinds is made of.
func upstream[T any](t *testing.T, file string) map[string]T {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []runtime.RawExtension }
	if err := yaml.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	out := map[string]T{}
	for _, raw := range list.Items {
		var meta struct {
			metav1.ObjectMeta `json:"metadata"`
		}
		var obj T
		if err := yaml.Unmarshal(raw.Raw, &meta); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(raw.Raw, &obj); err != nil {
			t.Fatal(err)
		}
		out[meta.Name] = obj
	}
	return out
}

// TestDefaultsAreKubernetes: what the default policy has, it has as Kubernetes has it, word for word.
func TestDefaultsAreKubernetes(t *testing.T) {
	unordered := cmp.Options{
		cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b string) bool { return a < b }), cmpopts.IgnoreTypes(metav1.TypeMeta{}),
	}
	theirs := upstream[rbacv1.ClusterRole](t, "cluster-roles.yaml")
	// metrics-server's own, as its manifest has it, but for the label that says so.
	reader := defaultMeta("system:aggregated-metrics-reader")
	reader.Labels["rbac.authorization.k8s.io/aggregate-to-view"] = "true"
	theirs[reader.Name] = rbacv1.ClusterRole{ObjectMeta: reader, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"metrics.k8s.io"}, Resources: []string{"nodes", "pods"}, Verbs: []string{"get", "list", "watch"}},
	}}
	for _, r := range defaultRoles() {
		want, ok := theirs[r.name]
		if !ok {
			t.Errorf("Kubernetes has no role %s", r.name)
		}
		if diff := cmp.Diff(want, *r.object(), unordered); diff != "" {
			t.Error(r.name, diff)
		}
	}
	bindings := upstream[rbacv1.ClusterRoleBinding](t, "cluster-role-bindings.yaml")
	for name, groups := range defaultBindings() {
		if diff := cmp.Diff(bindings[name], *bindingOf(name, groups), unordered); diff != "" {
			t.Error(name, diff)
		}
		if !slices.ContainsFunc(defaultRoles(), func(r role) bool { return r.name == name }) {
			t.Errorf("no role %s to bind", name)
		}
	}
}

func TestEnsureDefaults(t *testing.T) {
	e := newEnv(t)
	e.transact(EnsureDefaults)
	const name = "system:discovery"
	first := get[*rbacv1.ClusterRole](e, "", name)
	binding := get[*rbacv1.ClusterRoleBinding](e, "", name)

	e.transact(EnsureDefaults)
	if again := get[*rbacv1.ClusterRole](e, "", name); again.ResourceVersion != first.ResourceVersion {
		t.Error("a second start wrote what was complete")
	}

	// What was taken away comes back; what was added stays.
	change(e, "", name, func(r *rbacv1.ClusterRole) {
		r.Rules = []rbacv1.PolicyRule{allowURLs("get", "/mine /api")}
		delete(r.Labels, bootstrapLabel)
		r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}
	})
	change(e, "", name, func(b *rbacv1.ClusterRoleBinding) { b.Subjects = []rbacv1.Subject{user("jane")} })
	change(e, "", "view", func(r *rbacv1.ClusterRole) {
		r.AggregationRule.ClusterRoleSelectors[0].MatchLabels = map[string]string{"mine": yes}
	})
	change(e, "", "edit", func(r *rbacv1.ClusterRole) { r.AggregationRule = nil })
	e.transact(EnsureDefaults)
	r := get[*rbacv1.ClusterRole](e, "", name)
	if !slices.Equal(r.Rules[0].NonResourceURLs, []string{"/mine", "/api"}) || len(r.Rules) != len(first.Rules[0].NonResourceURLs) ||
		r.Labels[bootstrapLabel] != bootstrapValue || r.AggregationRule != nil {
		t.Errorf("%+v", r)
	}
	if b := get[*rbacv1.ClusterRoleBinding](e, "", name); !slices.Equal(b.Subjects, []rbacv1.Subject{user("jane"), group("system:authenticated")}) {
		t.Error(b.Subjects)
	}
	if s := get[*rbacv1.ClusterRole](e, "", "view").AggregationRule.ClusterRoleSelectors; len(s) != 2 {
		t.Error(s)
	}
	if s := get[*rbacv1.ClusterRole](e, "", "edit").AggregationRule.ClusterRoleSelectors; len(s) != 1 {
		t.Error(s)
	}

	// An admin who says so keeps it as it is.
	change(e, "", name, func(r *rbacv1.ClusterRole) { r.Rules, r.Annotations[rbacv1.AutoUpdateAnnotationKey] = nil, "false" })
	change(e, "", name, func(b *rbacv1.ClusterRoleBinding) {
		b.Subjects, b.Annotations[rbacv1.AutoUpdateAnnotationKey] = nil, "false"
	})
	e.transact(EnsureDefaults)
	if r := get[*rbacv1.ClusterRole](e, "", name); len(r.Rules) != 0 {
		t.Error(r.Rules)
	}
	if b := get[*rbacv1.ClusterRoleBinding](e, "", name); len(b.Subjects) != 0 || b.UID != binding.UID {
		t.Errorf("%+v", b)
	}

	// A binding of another role is made anew.
	e.transact(func(tx *registry.Tx) error {
		b, err := registry.Get[*rbacv1.ClusterRoleBinding](tx, "", "system:basic-user")
		if err != nil {
			return err
		}
		return tx.Delete(b, registry.DeleteOptions{})
	})
	add(e, clusterBinding("system:basic-user", "cluster-admin", user("jane")))
	e.transact(EnsureDefaults)
	if b := get[*rbacv1.ClusterRoleBinding](e, "", "system:basic-user"); b.RoleRef.Name != "system:basic-user" || len(b.Subjects) != 1 {
		t.Errorf("%+v", b)
	}
}
