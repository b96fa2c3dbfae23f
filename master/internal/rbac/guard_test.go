package rbac

import (
	"context"
	"net/http"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

func (e *env) create(u server.User, obj resource.Object) error {
	r := resourceOf(obj)
	_, err := e.backend.Create(context.Background(), r, obj.GetNamespace(), obj.DeepCopyObject().(resource.Object), server.WriteOptions{User: u})
	return err
}

func (e *env) update(u server.User, obj resource.Object, change func(resource.Object)) error {
	o := server.UpdateOptions{WriteOptions: server.WriteOptions{User: u}, CreateOnUpdate: true}
	_, _, err := e.backend.Update(context.Background(), resourceOf(obj), "", obj.GetNamespace(), obj.GetName(), o,
		func(current resource.Object) (resource.Object, error) {
			if current == nil {
				current = obj.DeepCopyObject().(resource.Object)
			}
			change(current)
			return current, nil
		})
	return err
}

func resourceOf(obj resource.Object) *resource.Resource {
	r, ok := testTable().ByKind(rbacv1.SchemeGroupVersion.WithKind(kindOf(obj)))
	if !ok {
		panic("not served")
	}
	return r
}

func kindOf(obj resource.Object) string {
	switch obj.(type) {
	case *rbacv1.Role:
		return "Role"
	case *rbacv1.ClusterRole:
		return "ClusterRole"
	case *rbacv1.RoleBinding:
		return "RoleBinding"
	}
	return "ClusterRoleBinding"
}

// wants checks an error: its code and a part of its text; "" for none.
func wants(t *testing.T, err error, code int32, text string) {
	t.Helper()
	if text == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Code != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v\nwant %d %s", err, code, text)
	}
}

const forbidden = http.StatusForbidden

// TestEscalation: nobody gives away what they do not have, unless they may escalate or bind.
func TestEscalation(t *testing.T) {
	e := newEnv(t)
	e.transact(EnsureDefaults)
	add(e, nsRole("a", "owner", allow(read+" "+write, rbacv1.GroupName, "roles rolebindings"), allow("get list", core, "pods")))
	add(e, nsBinding("a", "owner", kindRole, "owner", user("mari")))
	add(e, clusterRole("writer", allow(read+" "+write, rbacv1.GroupName, "*"), allow("get", core, "nodes")))
	add(e, clusterBinding("writer", "writer", user("jane")))
	binder := allow(verbBind, rbacv1.GroupName, "clusterroles")
	binder.ResourceNames = []string{"cluster-admin"}
	add(e, clusterRole("binder", binder, allow("create", rbacv1.GroupName, "rolebindings")))
	add(e, nsBinding("a", "binder", kindClusterRole, "binder", user("bob")))
	add(e, clusterRole("escalator", allow(verbEscalate, rbacv1.GroupName, "roles")))
	add(e, nsBinding("a", "escalator", kindClusterRole, "escalator", user("eve")))
	add(e, clusterBinding("all", "cluster-admin", user("root")))

	mari, bob, eve, root := who("mari", "devs"), who("bob"), who("eve"), who("root")
	admin := who("admin", groupMasters)
	more := nsRole("a", "x", allow("get list delete", core, "pods secrets"), allow("get", core, "pods/log"))
	const missing = `roles.rbac.authorization.k8s.io "x" is forbidden: user "mari" (groups=["devs"]) is attempting to grant RBAC permissions not currently held:` + "\n" +
		`{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}` + "\n" +
		`{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}` + "\n" +
		`{APIGroups:[""], Resources:["secrets"], Verbs:["delete" "get" "list"]}`
	gathering := clusterRole("x")
	gathering.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	jane := who("jane")
	for _, test := range []struct {
		name string
		user server.User
		obj  resource.Object
		code int32
		want string
	}{
		{"a role with less", mari, nsRole("a", "less", allow("get", core, "pods")), 0, ""},
		{"a role with more", mari, more, forbidden, missing},
		{"a role elsewhere", mari, nsRole("b", "less", allow("get", core, "pods")), forbidden, `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
		{"a role with more, by a master", admin, nsRole("a", "admin", more.Rules...), 0, ""},
		{"a role with more, by who may escalate", eve, nsRole("a", "eve", more.Rules...), 0, ""},
		{"not elsewhere", eve, nsRole("b", "eve", more.Rules...), forbidden, "not currently held"},
		{"a role with everything, by who has it", root, clusterRole("root", allow("*", "*", "*"), allowURLs("*", "*")), 0, ""},
		{"a URL", jane, clusterRole("x", allowURLs("get", "/metrics")), forbidden, `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"a name", jane, clusterRole("x", rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{"n"}}),
			forbidden, `{APIGroups:[""], Resources:["pods"], ResourceNames:["n"], Verbs:["get"]}`},
		{"a gathering role", jane, gathering, forbidden, `clusterroles.rbac.authorization.k8s.io "x" is forbidden: must have cluster-admin privileges to use the aggregationRule`},
		{"a gathering role, by who has everything", root, gathering, 0, ""},

		{"a binding to what one has", mari, nsBinding("a", "ok", kindRole, "owner", user("x")), 0, ""},
		{"a binding to more", mari, nsBinding("a", "x", kindClusterRole, "cluster-admin", user("mari")), forbidden,
			`rolebindings.rbac.authorization.k8s.io "x" is forbidden: user "mari" (groups=["devs"]) is attempting to grant RBAC permissions not currently held:` + "\n" +
				`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}` + "\n" + `{NonResourceURLs:["*"], Verbs:["*"]}`},
		{"a binding to nothing", mari, nsBinding("a", "x", kindRole, "gone", user("x")), http.StatusNotFound, `roles.rbac.authorization.k8s.io "gone" not found`},
		{"a binding to nothing, by a master", admin, nsBinding("a", "gone", kindRole, "gone", user("x")), 0, ""},
		{"a binding to more, by who may bind it", bob, nsBinding("a", "bob", kindClusterRole, "cluster-admin", user("bob2")), 0, ""},
		{"not for all namespaces", bob, clusterBinding("x", "cluster-admin", user("bob2")), forbidden, "not currently held"},
		{"not another role", bob, nsBinding("a", "x", kindClusterRole, "writer", user("bob2")), forbidden, "not currently held"},
		{"a cluster's binding to more", jane, clusterBinding("x", "cluster-admin", user("jane")), forbidden, "clusterrolebindings.rbac.authorization.k8s.io \"x\" is forbidden"},
		{"a cluster's binding to what one has", jane, clusterBinding("ok", "writer", user("x")), 0, ""},
		{"a binding to another kind", mari, nsBinding("a", "x", "Pod", "x", user("x")), http.StatusUnprocessableEntity, `roleRef.kind: Unsupported value: "Pod"`},
		{"a cluster's binding to a role", jane, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "x"}, RoleRef: ref(kindRole, "x")}, http.StatusUnprocessableEntity, "roleRef.kind"},
	} {
		t.Run(test.name, func(t *testing.T) { wants(t, e.create(test.user, test.obj), test.code, test.want) })
	}

	// Updates: the same, but for what only lets an object go; and no way around by making objects through an update.
	add(e, nsRole("a", "strong", allow("get", core, "secrets")))
	strong := nsRole("a", "strong")
	wants(t, e.update(mari, strong, func(o resource.Object) { o.SetFinalizers([]string{"example.com/x"}) }), 0, "")
	wants(t, e.update(mari, strong, func(o resource.Object) { o.SetLabels(map[string]string{"x": "y"}) }), forbidden, "not currently held")
	wants(t, e.update(mari, strong, func(o resource.Object) { o.(*rbacv1.Role).Rules = nil }), 0, "")
	wants(t, e.update(mari, nsRole("a", "new"), func(o resource.Object) { o.(*rbacv1.Role).Rules = more.Rules }), forbidden, "not currently held")
	wants(t, e.update(mari, nsRole("a", "new"), func(o resource.Object) { o.(*rbacv1.Role).Rules = more.Rules[:0] }), 0, "")
	binding := nsBinding("a", "binder", kindClusterRole, "binder")
	wants(t, e.update(mari, binding, func(o resource.Object) { o.(*rbacv1.RoleBinding).Subjects = []rbacv1.Subject{user("mari")} }), forbidden, "not currently held")
	wants(t, e.update(admin, binding, func(o resource.Object) { o.(*rbacv1.RoleBinding).RoleRef.Name = "view" }), http.StatusUnprocessableEntity, "cannot change roleRef")
	aggregated := clusterRole("view")
	wants(t, e.update(jane, aggregated, func(o resource.Object) { o.(*rbacv1.ClusterRole).AggregationRule = nil }), forbidden, "must have cluster-admin privileges")
	wants(t, e.update(root, aggregated, func(o resource.Object) { o.SetLabels(nil) }), 0, "")
}
