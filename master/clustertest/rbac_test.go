package clustertest

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// account makes a service account and a client with a token of it.
func (c *cluster) account(name string) *kubernetes.Clientset {
	c.Helper()
	accounts := c.kube.CoreV1().ServiceAccounts("default")
	if _, err := accounts.Create(c.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	r, err := accounts.CreateToken(c.ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return c.as(r.Status.Token)
}

// impersonate is the admin's client under another name.
func (c *cluster) impersonate(who rest.ImpersonationConfig) *kubernetes.Clientset {
	c.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "master", "admin.kubeconfig"))
	if err != nil {
		c.Fatal(err)
	}
	config.Dial, config.Proxy, config.QPS, config.Impersonate = c.dialAPI, http.ProxyURL(nil), -1, who
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(client.CloseIdleConnections)
	kube, err := kubernetes.NewForConfigAndClient(config, client)
	if err != nil {
		c.Fatal(err)
	}
	return kube
}

func (c *cluster) role(name string, rules ...rbacv1.PolicyRule) {
	c.Helper()
	r := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := c.kube.RbacV1().Roles("default").Create(c.ctx, r, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) bind(kind, role, account string) {
	c.Helper()
	b := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account + "-" + role}, RoleRef: rbacv1.RoleRef{Kind: kind, Name: role},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: account}},
	}
	if _, err := c.kube.RbacV1().RoleBindings("default").Create(c.ctx, b, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

func ruleOf(verbs, group, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(resources)}
}

func forbidden(t *testing.T, err error, text string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || err.Error() != text {
		t.Errorf("got  %v\nwant %s", err, text)
	}
}

// A service account gets the rights that a role gives it, in its namespace, from one request to the next.
func TestRightsOfAnAccount(t *testing.T) {
	run(t, 0, func(c *cluster) {
		bot := c.account("bot")
		const me = `User "system:serviceaccount:default:bot" cannot `
		_, err := bot.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
		forbidden(t, err, `pods is forbidden: `+me+`list resource "pods" in API group "" in the namespace "default"`)
		if groups, err := bot.Discovery().ServerGroups(); err != nil || len(groups.Groups) == 0 {
			t.Error("it cannot look around:", err)
		}

		named := ruleOf("get list watch", "", "secrets")
		named.ResourceNames = []string{"mine"}
		c.role("bot", ruleOf("get list watch create", "", "configmaps pods/log"), named)
		c.bind("Role", "bot", "bot")
		maps := bot.CoreV1().ConfigMaps("default")
		if _, err := maps.Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		if list, err := maps.List(c.ctx, metav1.ListOptions{}); err != nil || len(list.Items) == 0 {
			t.Error(err)
		}
		w, err := maps.Watch(c.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		w.Stop()
		forbidden(t, maps.Delete(c.ctx, "x", metav1.DeleteOptions{}), `configmaps "x" is forbidden: `+me+`delete resource "configmaps" in API group "" in the namespace "default"`)
		_, err = bot.CoreV1().ConfigMaps("").List(c.ctx, metav1.ListOptions{})
		forbidden(t, err, `configmaps is forbidden: `+me+`list resource "configmaps" in API group "" at the cluster scope`)
		err = bot.CoreV1().Pods("default").Bind(c.ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, metav1.CreateOptions{})
		forbidden(t, err, `pods "p" is forbidden: `+me+`create resource "pods/binding" in API group "" in the namespace "default"`)
		secrets := bot.CoreV1().Secrets("default")
		if _, err := secrets.List(c.ctx, metav1.ListOptions{FieldSelector: "metadata.name=mine"}); err != nil {
			t.Error("the one secret:", err)
		}
		if _, err := secrets.Get(c.ctx, "mine", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error("the one secret:", err)
		}
		if _, err := secrets.Get(c.ctx, "other", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Error("another secret:", err)
		}

		c.restartMaster(time.Second)
		c.eventually(10*time.Second, "the same rights after a restart", func() bool {
			_, err := maps.List(c.ctx, metav1.ListOptions{})
			return err == nil
		})
		if err := c.kube.RbacV1().RoleBindings("default").Delete(c.ctx, "bot-bot", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := maps.List(c.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Error("without its binding it still may:", err)
		}
	})
}

// What people ask about rights: `kubectl auth can-i`, with and without --list.
func TestQuestionsAboutRights(t *testing.T) {
	run(t, 0, func(c *cluster) {
		bot := c.account("bot")
		c.bind("ClusterRole", "view", "bot")
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "broken"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "gone"},
			Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}}}
		if _, err := c.kube.RbacV1().ClusterRoleBindings().Create(c.ctx, b, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		jane := c.impersonate(rest.ImpersonationConfig{UserName: "jane"})
		for _, test := range []struct {
			client *kubernetes.Clientset
			what   authorizationv1.ResourceAttributes
			want   bool
			reason string
		}{
			{bot, authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "default"}, true,
				`RBAC: allowed by RoleBinding "bot-view/default" of ClusterRole "view" to ServiceAccount "bot/default"`},
			{bot, authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: "default"}, false, ""},
			{bot, authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: "kube-system"}, false, ""},
			{jane, authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods"}, false, `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
			{c.kube, authorizationv1.ResourceAttributes{Verb: "*", Group: "*", Resource: "*"}, true, ""},
		} {
			r, err := test.client.AuthorizationV1().SelfSubjectAccessReviews().Create(c.ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &test.what},
			}, metav1.CreateOptions{})
			if err != nil || r.Status.Allowed != test.want || r.Status.Reason != test.reason {
				t.Errorf("%+v: %v %+v", test.what, err, r.Status)
			}
		}
		list := func(client *kubernetes.Clientset, ns string) (out []string) {
			r, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(c.ctx, &authorizationv1.SelfSubjectRulesReview{
				Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns},
			}, metav1.CreateOptions{})
			if err != nil || r.Status.Incomplete || r.Status.EvaluationError != "" {
				t.Errorf("%v %+v", err, r.Status)
			}
			for _, rule := range r.Status.ResourceRules {
				out = append(out, fmt.Sprint(rule.Verbs, rule.APIGroups, rule.Resources))
			}
			for _, rule := range r.Status.NonResourceRules {
				out = append(out, fmt.Sprint(rule.Verbs, rule.NonResourceURLs))
			}
			return out
		}
		const endpointSlices = "[get list watch] [discovery.k8s.io] [endpointslices]"
		if got := list(bot, "default"); !slices.Contains(got, endpointSlices) || !slices.Contains(got, "[create] [authentication.k8s.io] [selfsubjectreviews]") {
			t.Error(got)
		}
		if got := list(bot, "kube-system"); slices.Contains(got, endpointSlices) || len(got) == 0 {
			t.Error(got)
		}
		if got := list(c.kube, "default"); !slices.Contains(got, "[*] [*] [*]") || !slices.Contains(got, "[*] [*]") {
			t.Error(got)
		}
	})
}

// An account with the role admin of a namespace gives away what it has, and nothing else; it may act for its neighbours.
func TestAdminOfANamespace(t *testing.T) {
	run(t, 0, func(c *cluster) {
		boss, worker := c.account("boss"), c.account("worker")
		c.bind("ClusterRole", "admin", "boss")
		const who = `user "system:serviceaccount:default:boss" (groups=["system:serviceaccounts" "system:serviceaccounts:default" "system:authenticated"]) ` +
			"is attempting to grant RBAC permissions not currently held:\n"
		roles, bindings := boss.RbacV1().Roles("default"), boss.RbacV1().RoleBindings("default")
		role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "work"}, Rules: []rbacv1.PolicyRule{ruleOf("get", "", "secrets")}}
		role, err := roles.Create(c.ctx, role, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stronger := role.DeepCopy()
		stronger.Rules = append(stronger.Rules, ruleOf("get list", "", "nodes"))
		_, err = roles.Update(c.ctx, stronger, metav1.UpdateOptions{})
		forbidden(t, err, `roles.rbac.authorization.k8s.io "work" is forbidden: `+who+`{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}`)
		for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
			_, err = roles.Patch(c.ctx, "work", kind, []byte(`{"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`), metav1.PatchOptions{})
			forbidden(t, err, `roles.rbac.authorization.k8s.io "work" is forbidden: `+who+`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`)
		}
		apply := []byte(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"applied"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`)
		if _, err = roles.Patch(c.ctx, "applied", types.ApplyPatchType, apply, metav1.PatchOptions{FieldManager: "x"}); !apierrors.IsForbidden(err) {
			t.Error("applied:", err)
		}
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "work"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "worker"}}}
		_, err = bindings.Create(c.ctx, binding, metav1.CreateOptions{})
		forbidden(t, err, `rolebindings.rbac.authorization.k8s.io "work" is forbidden: `+who+`{APIGroups:["*"], Resources:["*"], Verbs:["*"]}`+"\n"+`{NonResourceURLs:["*"], Verbs:["*"]}`)
		binding.RoleRef = rbacv1.RoleRef{Kind: "Role", Name: "work"}
		if binding, err = bindings.Create(c.ctx, binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := worker.CoreV1().Secrets("default").Get(c.ctx, "x", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Error("the worker has no right:", err)
		}
		binding.RoleRef.Name = "other"
		if _, err = c.kube.RbacV1().RoleBindings("default").Update(c.ctx, binding, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "cannot change roleRef") {
			t.Error(err)
		}

		// A new kind of object is in view, and so in admin, when a role says so.
		whales := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "whales", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
			Rules: []rbacv1.PolicyRule{ruleOf("get", "example.com", "whales")}}
		if _, err := c.kube.RbacV1().ClusterRoles().Create(c.ctx, whales, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		role.Rules = append(role.Rules, ruleOf("get", "example.com", "whales"))
		c.eventually(5*time.Second, "the admin may grant it", func() bool {
			_, err := roles.Update(c.ctx, role, metav1.UpdateOptions{})
			return err == nil
		})
	})
}

// Acting for others needs the right to: that of edit, for the accounts of its namespace, and no further.
func TestImpersonationIsARight(t *testing.T) {
	run(t, 0, func(c *cluster) {
		c.account("boss")
		c.account("worker")
		c.bind("ClusterRole", "edit", "boss")
		r, err := c.kube.CoreV1().ServiceAccounts("default").CreateToken(c.ctx, "boss", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		as := func(who rest.ImpersonationConfig) (string, error) {
			config := &rest.Config{
				Host: "https://127.0.0.1:6443", BearerToken: r.Status.Token, Dial: c.dialAPI, Proxy: http.ProxyURL(nil), QPS: -1, Impersonate: who,
				TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(c.dir, "master", "pki", "ca.crt")},
			}
			client, err := rest.HTTPClientFor(config)
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseIdleConnections()
			kube, err := kubernetes.NewForConfigAndClient(config, client)
			if err != nil {
				t.Fatal(err)
			}
			me, err := kube.AuthenticationV1().SelfSubjectReviews().Create(c.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			if err != nil {
				return "", err
			}
			return me.Status.UserInfo.Username, nil
		}
		const boss = `User "system:serviceaccount:default:boss" cannot impersonate resource `
		if name, err := as(rest.ImpersonationConfig{UserName: "system:serviceaccount:default:worker"}); err != nil || name != "system:serviceaccount:default:worker" {
			t.Error(name, err)
		}
		_, err = as(rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:default"})
		forbidden(t, err, `serviceaccounts "default" is forbidden: `+boss+`"serviceaccounts" in API group "" in the namespace "kube-system"`)
		_, err = as(rest.ImpersonationConfig{UserName: "jane"})
		forbidden(t, err, `users "jane" is forbidden: `+boss+`"users" in API group "" at the cluster scope`)
		_, err = as(rest.ImpersonationConfig{UserName: "system:serviceaccount:default:worker", Groups: []string{"system:masters"}})
		forbidden(t, err, `groups "system:masters" is forbidden: `+boss+`"groups" in API group "" at the cluster scope`)
	})
}

// What everybody may do is a policy that an admin changes; nodes and joining machines may nothing, whatever it says.
func TestDefaultPolicy(t *testing.T) {
	run(t, 0, func(c *cluster) {
		bot := c.account("bot")
		jane := c.impersonate(rest.ImpersonationConfig{UserName: "jane"})
		read := func(client *kubernetes.Clientset, path string) error {
			return client.RESTClient().Get().AbsPath(path).Do(c.ctx).Error()
		}
		if err := read(bot, "/.well-known/openid-configuration"); err != nil {
			t.Error(err)
		}
		forbidden(t, read(jane, "/.well-known/openid-configuration"), `forbidden: User "jane" cannot get path "/.well-known/openid-configuration"`)
		forbidden(t, read(jane, "/metrics"), `forbidden: User "jane" cannot get path "/metrics"`)
		if err := read(c.impersonate(rest.ImpersonationConfig{UserName: "prom", Groups: []string{"system:monitoring"}}), "/metrics"); err != nil {
			t.Error(err)
		}

		everybody := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "everybody"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects: []rbacv1.Subject{{Kind: "Group", Name: "system:authenticated"}}}
		if _, err := c.kube.RbacV1().ClusterRoleBindings().Create(c.ctx, everybody, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := jane.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{}); err != nil {
			t.Error(err)
		}
		for _, nobody := range []*kubernetes.Clientset{c.as(token), c.impersonate(rest.ImpersonationConfig{UserName: "system:node:n1", Groups: []string{"system:nodes"}})} {
			if _, err := nobody.CoreV1().Pods("").List(c.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
				t.Error(err)
			}
			if err := read(nobody, "/apis"); !apierrors.IsForbidden(err) {
				t.Error(err)
			}
		}
		if err := c.kube.RbacV1().ClusterRoleBindings().Delete(c.ctx, "everybody", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}

		if err := c.kube.RbacV1().ClusterRoleBindings().Delete(c.ctx, "system:discovery", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		forbidden(t, read(jane, "/apis"), `forbidden: User "jane" cannot get path "/apis"`)
		c.restartMaster(time.Second)
		c.eventually(10*time.Second, "the next start brings it back", func() bool { return read(jane, "/apis") == nil })
	})
}

// `kubectl auth reconcile` is this library.
func TestReconcile(t *testing.T) {
	run(t, 0, func(c *cluster) {
		c.account("bot")
		c.role("r", ruleOf("get", "", "pods"))
		c.bind("Role", "r", "bot")
		role, err := (&reconciliation.ReconcileRoleOptions{
			Role: reconciliation.RoleRuleOwner{Role: &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"},
				Rules: []rbacv1.PolicyRule{ruleOf("get list", "", "pods")}}},
			Confirm: true, Client: reconciliation.RoleModifier{NamespaceClient: c.kube.CoreV1().Namespaces(), Client: c.kube.RbacV1()},
		}).Run()
		if err != nil || role.Operation != reconciliation.ReconcileUpdate || len(role.Role.GetRules()) != 2 {
			t.Error(err, role)
		}
		binding, err := (&reconciliation.ReconcileRoleBindingOptions{
			RoleBinding: reconciliation.RoleBindingAdapter{RoleBinding: &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bot-r"},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}}},
			Confirm: true, Client: reconciliation.RoleBindingClientAdapter{Client: c.kube.RbacV1(), NamespaceClient: c.kube.CoreV1().Namespaces()},
		}).Run()
		if err != nil || binding.Operation != reconciliation.ReconcileRecreate || binding.RoleBinding.GetRoleRef().Name != "view" {
			t.Error(err, binding)
		}
	})
}
