package rbac

import (
	"fmt"
	"sync"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/api/server"
)

func TestRule(t *testing.T) {
	attr := func(verb, group, resource, sub, name string) server.Attributes {
		return server.Attributes{Verb: verb, Group: group, Resource: resource, Subresource: sub, Name: name}
	}
	path := func(verb, path string) server.Attributes { return server.Attributes{Verb: verb, Path: path} }
	named := allow("get", core, "secrets")
	named.ResourceNames = []string{"x", "y"}
	for _, test := range []struct {
		rule rbacv1.PolicyRule
		a    server.Attributes
		want bool
	}{
		{allow("get list", core, "pods"), attr("list", "", "pods", "", ""), true},
		{allow("get list", core, "pods"), attr("watch", "", "pods", "", ""), false},
		{allow("*", core, "pods"), attr("anything", "", "pods", "", "x"), true},
		{allow("get", core, "pods"), attr("get", "apps", "pods", "", ""), false},
		{allow("get", "*", "pods"), attr("get", "apps", "pods", "", ""), true},
		{allow("get", core+" apps", "pods"), attr("get", "apps", "pods", "", ""), true},
		{allow("get", core, "*"), attr("get", "", "pods", "", ""), true},
		{allow("get", core, "*"), attr("get", "", "pods", "log", ""), true},
		{allow("get", core, "pods"), attr("get", "", "pods", "log", ""), false},
		{allow("get", core, "pods/log"), attr("get", "", "pods", "log", ""), true},
		{allow("get", core, "pods/log"), attr("get", "", "pods", "", ""), false},
		{allow("get", core, "*/log"), attr("get", "", "pods", "log", ""), true},
		{allow("get", core, "*/log"), attr("get", "", "pods", "status", ""), false},
		{allow("get", core, "*/log"), attr("get", "", "pods", "", ""), false},
		{allow("get", core, "*/"), attr("get", "", "pods", "", ""), false},
		{allow("get", core, "pods/*"), attr("get", "", "pods", "log", ""), false},
		{named, attr("get", "", "secrets", "", "y"), true},
		{named, attr("get", "", "secrets", "", "z"), false},
		{named, attr("get", "", "secrets", "", ""), false},
		{allowURLs("get", "/healthz"), path("get", "/healthz"), true},
		{allowURLs("get", "/healthz"), path("get", "/healthz/ping"), false},
		{allowURLs("get", "/healthz/*"), path("get", "/healthz/ping"), true},
		{allowURLs("get", "/healthz/*"), path("get", "/healthz"), false},
		{allowURLs("get", "/healthz/*"), path("post", "/healthz/ping"), false},
		{allowURLs("*", "*"), path("put", "/x"), true},
		{allowURLs("*", "*"), attr("get", "", "pods", "", ""), false},
		{allow("*", "*", "*"), path("get", "/x"), false},
		{rbacv1.PolicyRule{}, attr("", "", "", "", ""), false},
	} {
		q := newQuestion(test.a)
		if got := q.allowedBy(&test.rule); got != test.want {
			t.Errorf("%v, %+v: %v", describeRule(&test.rule), test.a, got)
		}
	}
}

// A policy with one right for each way to have one.
func policy(e *env) {
	rule := func(resource string) rbacv1.PolicyRule { return allow("get", core, resource) }
	add(e, clusterRole("everywhere", rule("nodes"), rule("pods"), allowURLs("get", "/metrics")))
	add(e, clusterRole("template", rule("secrets"), allowURLs("get", "/logs")))
	add(e, nsRole("a", "here", rule("configmaps")))
	add(e, clusterBinding("by-user", "everywhere", user("jane"), group("ops")))
	add(e, clusterBinding("by-account", "everywhere", account("a", "bot")))
	add(e, nsBinding("a", "template", kindClusterRole, "template", user("mari"), group("devs")))
	add(e, nsBinding("a", "here", kindRole, "here", rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "bot"}, account("b", "bot"), user("mari")))
	add(e, clusterBinding("broken", "gone", user("lost"), user("jane")))
	add(e, nsBinding("a", "broken", kindRole, "gone", user("lost")))
}

func TestAuthorize(t *testing.T) {
	e := newEnv(t)
	policy(e)
	const bot = "system:serviceaccount:a:bot"
	at := func(ns, resource string) server.Attributes {
		return server.Attributes{Verb: "get", Resource: resource, Namespace: ns}
	}
	for _, test := range []struct {
		user   server.User
		a      server.Attributes
		reason string // of an allowed one; of a refused one with a dash before
	}{
		{who("jane"), at("", "nodes"), `RBAC: allowed by ClusterRoleBinding "by-user" of ClusterRole "everywhere" to User "jane"`},
		{who("jane"), at("b", "pods"), `RBAC: allowed by ClusterRoleBinding "by-user" of ClusterRole "everywhere" to User "jane"`},
		{who("joe", "x", "ops"), at("", "nodes"), `RBAC: allowed by ClusterRoleBinding "by-user" of ClusterRole "everywhere" to Group "ops"`},
		{who("ops"), at("", "nodes"), "-"},
		{who("joe", "jane"), at("", "nodes"), "-"},
		{who("jane"), server.Attributes{Verb: "get", Path: "/metrics"}, `RBAC: allowed by ClusterRoleBinding "by-user" of ClusterRole "everywhere" to User "jane"`},
		{who("jane"), at("a", "secrets"), `-RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
		{who(bot), at("b", "pods"), `RBAC: allowed by ClusterRoleBinding "by-account" of ClusterRole "everywhere" to ServiceAccount "bot/a"`},
		{who(bot), at("a", "configmaps"), `RBAC: allowed by RoleBinding "here/a" of Role "here" to ServiceAccount "bot/a"`},
		{who("system:serviceaccount:b:bot"), at("a", "configmaps"), `RBAC: allowed by RoleBinding "here/a" of Role "here" to ServiceAccount "bot/b"`},
		{who(bot), at("b", "configmaps"), "-"},
		{who("system:serviceaccount:a:bo"), at("a", "configmaps"), "-"},
		{who("mari"), at("a", "secrets"), `RBAC: allowed by RoleBinding "template/a" of ClusterRole "template" to User "mari"`},
		{who("x", "devs"), at("a", "secrets"), `RBAC: allowed by RoleBinding "template/a" of ClusterRole "template" to Group "devs"`},
		{who("mari"), at("b", "secrets"), "-"},
		{who("mari"), at("", "secrets"), "-"},
		{who("mari"), server.Attributes{Verb: "get", Path: "/logs"}, "-"},
		{who("lost"), at("a", "pods"), `-RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found, role.rbac.authorization.k8s.io "gone" not found]`},
		{who(""), at("a", "pods"), "-"},
	} {
		allowed, reason := e.Authorize(test.user, test.a)
		if !allowed {
			reason = "-" + reason
		}
		if reason != test.reason {
			t.Errorf("%+v, %+v:\n%s\nwant\n%s", test.user, test.a, reason, test.reason)
		}
	}
}

// TestChangesCountAtOnce: a write of whichever kind counts for the next question.
func TestChangesCountAtOnce(t *testing.T) {
	e := newEnv(t)
	policy(e)
	may := func(resource string) bool {
		ok, _ := e.Authorize(who("mari", "ops"), server.Attributes{Verb: "get", Resource: resource, Namespace: "a"})
		return ok
	}
	for _, test := range []struct {
		name, resource string
		take, give     func()
	}{
		{"a ClusterRoleBinding's subjects", "nodes",
			func() { change(e, "", "by-user", func(b *rbacv1.ClusterRoleBinding) { b.Subjects = b.Subjects[:1] }) },
			func() {
				change(e, "", "by-user", func(b *rbacv1.ClusterRoleBinding) { b.Subjects = append(b.Subjects, user("mari"), user("mari")) })
			}},
		{"a ClusterRole's rules", "nodes",
			func() { change(e, "", "everywhere", func(r *rbacv1.ClusterRole) { r.Rules = nil }) },
			func() {
				change(e, "", "everywhere", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{allow("*", core, "nodes")} })
			}},
		{"a RoleBinding's subjects", "configmaps",
			func() { change(e, "a", "here", func(b *rbacv1.RoleBinding) { b.Subjects = nil }) },
			func() {
				change(e, "a", "here", func(b *rbacv1.RoleBinding) { b.Subjects = []rbacv1.Subject{group("ops")} })
			}},
		{"a Role's rules", "configmaps",
			func() { change(e, "a", "here", func(r *rbacv1.Role) { r.Rules = nil }) },
			func() {
				change(e, "a", "here", func(r *rbacv1.Role) { r.Rules = []rbacv1.PolicyRule{allow("get", core, "*")} })
			}},
		{"a Role", "configmaps",
			func() { remove[*rbacv1.Role](e, "a", "here") },
			func() { add(e, nsRole("a", "here", allow("get", core, "configmaps"))) }},
		{"a RoleBinding", "configmaps",
			func() { remove[*rbacv1.RoleBinding](e, "a", "here") },
			func() { add(e, nsBinding("a", "here", kindRole, "here", user("mari"))) }},
	} {
		before := may(test.resource)
		test.take()
		taken := may(test.resource)
		test.give()
		if !before || taken || !may(test.resource) {
			t.Errorf("%s: %v, %v, %v", test.name, before, taken, may(test.resource))
		}
	}
}

// TestManyAskAtOnce while the policy changes: nobody is refused what was never taken away.
func TestManyAskAtOnce(t *testing.T) {
	e := newEnv(t)
	policy(e)
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if ok, why := e.Authorize(who("jane"), server.Attributes{Verb: "get", Resource: "nodes"}); !ok {
					t.Error("refused:", why)
					return
				}
			}
		})
	}
	for i := range 50 {
		add(e, nsBinding("b", fmt.Sprint("x", i), kindRole, "none", user("jane")))
	}
	close(stop)
	all.Wait()
}

func TestReview(t *testing.T) {
	e := newEnv(t)
	policy(e)
	resources, urls, err := e.Review(who("jane", "ops"), "a")
	want := []authorizationv1.ResourceRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}},
	}
	if diff := cmp.Diff(want, resources); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]authorizationv1.NonResourceRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics"}}}, urls); diff != "" {
		t.Error(diff)
	}
	if err == nil || err.Error() != `clusterrole.rbac.authorization.k8s.io "gone" not found` {
		t.Error(err)
	}
	if resources, _, err = e.Review(who("mari"), "a"); len(resources) != 2 || err != nil {
		t.Error(resources, err)
	}
	if resources, _, _ = e.Review(who("mari"), "b"); len(resources) != 0 {
		t.Error(resources)
	}
}

// BenchmarkAuthorize: one decision beside 200 bindings of others, for a service account with the default policy.
func BenchmarkAuthorize(b *testing.B) {
	e := newEnv(b)
	e.transact(EnsureDefaults)
	for i := range 100 {
		name := fmt.Sprint("other-", i)
		add(e, clusterRole(name, allow(read, core, "pods services")))
		add(e, clusterBinding(name, name, account("b", name), user(name)))
		add(e, nsBinding("a", name, kindClusterRole, name, account("b", name), group(name)))
	}
	add(e, nsRole("a", "mine", allow(read, core, "configmaps"), allow(read, core, "pods")))
	add(e, nsBinding("a", "mine", kindRole, "mine", account("a", "bot")))
	bot := who("system:serviceaccount:a:bot", "system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated")
	for _, test := range []struct {
		name string
		a    server.Attributes
		want bool
	}{
		{"allowed", server.Attributes{Verb: "list", Resource: "pods", Namespace: "a"}, true},
		{"refused", server.Attributes{Verb: "list", Resource: "secrets", Namespace: "a"}, false},
		{"discovery", server.Attributes{Verb: "get", Path: "/apis/apps/v1"}, true},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, _ := e.Authorize(bot, test.a); got != test.want {
					b.Fatal(got)
				}
			}
		})
	}
}
