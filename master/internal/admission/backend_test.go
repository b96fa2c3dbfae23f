package admission_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/admission"
)

func TestValidatingWebhookDenies(t *testing.T) {
	e := start(t)
	e.validating("check", e.on("/check", func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		var cm corev1.ConfigMap
		if err := json.Unmarshal(r.Object.Raw, &cm); err != nil {
			t.Error(err)
		}
		if cm.Data["bad"] != "" {
			return deny("the configmap contains unwanted key")(r)
		}
		return &admissionapi.AdmissionResponse{Allowed: true, Warnings: []string{"be careful"}}
	}), rule("configmaps", admissionv1.Create, admissionv1.Update))
	bad := configMap("bad")
	bad.Data = map[string]string{"bad": "yes"}
	_, err := e.create(bad, server.WriteOptions{})
	wants(t, err, 403, `admission webhook "check.example.com" denied the request: the configmap contains unwanted key`)
	e.requests()

	var warned []string
	jane := server.WriteOptions{User: server.User{Name: "jane", UID: "7", Groups: []string{"devs"}}, Warn: func(w string) { warned = append(warned, w) }}
	if _, err := e.create(configMap("good"), jane); err != nil {
		t.Fatal(err)
	}
	if len(warned) != 1 || warned[0] != "be careful" {
		t.Errorf("warnings: %q", warned)
	}
	asked := e.requests()
	if len(asked) != 1 {
		t.Fatalf("asked %d times", len(asked))
	}
	r := asked[0]
	if r.Name != "good" || r.Namespace != "default" || r.Operation != "CREATE" || r.Kind.Kind != "ConfigMap" || r.Resource.Resource != "configmaps" ||
		r.UserInfo.Username != "jane" || r.UserInfo.UID != "7" || *r.DryRun || r.OldObject.Raw != nil || !strings.Contains(string(r.Options.Raw), "CreateOptions") {
		t.Errorf("asked about %+v", r)
	}
	if !strings.Contains(string(r.Object.Raw), `"uid"`) {
		t.Error("a validating webhook sees the object before the system has completed it")
	}

	_, err = e.update(configMap("good"), func(o resource.Object) { o.(*corev1.ConfigMap).Data = map[string]string{"bad": "yes"} })
	wants(t, err, 403, `admission webhook "check.example.com" denied the request: the configmap contains unwanted key`)
	if r := e.requests()[0]; r.Operation != "UPDATE" || r.OldObject.Raw == nil {
		t.Errorf("asked about %+v", r)
	}
	e.mustCreate(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}})
	if n := len(e.requests()); n != 0 {
		t.Errorf("asked about a kind that no rule names")
	}
}

func TestMutatingWebhooks(t *testing.T) {
	e := start(t)
	add := func(key string) func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		return func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
			var cm corev1.ConfigMap
			_ = json.Unmarshal(r.Object.Raw, &cm)
			if cm.Data == nil {
				return patch(`[{"op":"add","path":"/data","value":{"` + key + `":"1"}}]`)(r)
			}
			return patch(`[{"op":"add","path":"/data/` + key + `","value":"` + strings.Repeat("1", len(cm.Data)+1) + `"}]`)(r)
		}
	}
	again := func(w *admissionv1.MutatingWebhook) {
		w.ReinvocationPolicy = ptr(admissionv1.IfNeededReinvocationPolicy)
	}
	e.mutating("a", e.on("/a", add("a")), rule("configmaps", admissionv1.Create), again)
	e.mutating("b", e.on("/b", add("b")), rule("configmaps", admissionv1.Create))
	made := e.mustCreate(configMap("x")).(*corev1.ConfigMap)
	// a, then b, then a again because b changed something.
	if made.Data["a"] != "111" || made.Data["b"] != "11" || len(e.requests()) != 3 {
		t.Errorf("data: %v", made.Data)
	}

	e.mutating("pods", e.on("/pods", patch(`[{"op":"add","path":"/spec/initContainers","value":[{"name":"added","image":"busybox"}]}]`)), rule("pods", admissionv1.Create))
	e.mustCreate(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	pod := e.mustCreate(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}}}).(*corev1.Pod)
	if c := pod.Spec.InitContainers; len(c) != 1 || c[0].TerminationMessagePolicy != corev1.TerminationMessageReadFile || c[0].ImagePullPolicy != corev1.PullAlways {
		t.Errorf("what was added has no defaults: %+v", c)
	}

	e.mutating("update", e.on("/update", patch(`[{"op":"replace","path":"/metadata/labels","value":{"seen":"yes"}}]`)), rule("configmaps", admissionv1.Update))
	out, err := e.update(configMap("x"), func(o resource.Object) { o.SetLabels(map[string]string{"mine": "1"}) })
	if err != nil || out.GetLabels()["seen"] != "yes" || out.GetLabels()["mine"] != "" {
		t.Errorf("after an update: %v %v", out, err)
	}
}

func TestFailurePolicyAndTimeout(t *testing.T) {
	e := start(t)
	hang := e.on("/hang", func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse { return nil })
	soon := func(p admissionv1.FailurePolicyType) func(*admissionv1.ValidatingWebhook) {
		return func(w *admissionv1.ValidatingWebhook) { w.FailurePolicy, w.TimeoutSeconds = &p, ptr(int32(1)) }
	}
	e.validating("ignored", hang, rule("secrets", admissionv1.OperationAll), soon(admissionv1.Ignore))
	e.mustCreate(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}})
	e.validating("hang", hang, rule("configmaps", admissionv1.OperationAll), soon(admissionv1.Fail))
	_, err := e.create(configMap("x"), server.WriteOptions{})
	wants(t, err, 500, `Internal error occurred: failed calling webhook "hang.example.com": failed to call webhook: Post "`+*hang.URL+`?timeout=1s": context deadline exceeded`)

	// A certificate of nobody we know, and a Service that is not there.
	unknown := e.on("/ok", allow)
	unknown.CABundle = nil
	e.validating("unknown", unknown, rule("serviceaccounts", admissionv1.OperationAll))
	_, err = e.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}}, server.WriteOptions{})
	if err == nil || !strings.Contains(err.Error(), "failed to verify certificate") {
		t.Errorf("with an unknown certificate: %v", err)
	}
}

func TestWebhookBehindService(t *testing.T) {
	e := start(t)
	var dialled string
	e.dial = func(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
		dialled = namespace + "/" + name
		if port != 8443 {
			t.Errorf("port %d", port)
		}
		return new(net.Dialer).DialContext(ctx, "tcp", e.hook.Listener.Addr().String())
	}
	c := e.on("/svc", deny("no"))
	// The test server's certificate is for example.com; a Service's must be for its own name.
	c = admissionv1.WebhookClientConfig{CABundle: c.CABundle, Service: &admissionv1.ServiceReference{Namespace: "default", Name: "hook", Path: ptr("/svc"), Port: ptr(int32(8443))}}
	e.validating("svc", c, rule("configmaps", admissionv1.Create))
	_, err := e.create(configMap("x"), server.WriteOptions{})
	if err == nil || !strings.Contains(err.Error(), `failed calling webhook "svc.example.com": failed to call webhook: Post "https://hook.default.svc:8443/svc?timeout=10s"`) ||
		!strings.Contains(err.Error(), "not hook.default.svc") {
		t.Errorf("with a certificate for another name: %v", err)
	}
	if dialled != "default/hook" {
		t.Errorf("dialled %q", dialled)
	}
}

func TestSelectorsAndVersions(t *testing.T) {
	e := start(t)
	e.mustCreate(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	e.validating("ns", e.on("/ns", deny("team a")), rule("configmaps", admissionv1.Create), func(w *admissionv1.ValidatingWebhook) {
		w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
		w.ObjectSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "skip", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	})
	_, err := e.create(configMap("x"), server.WriteOptions{})
	wants(t, err, 403, `admission webhook "ns.example.com" denied the request: team a`)
	skipped := configMap("skipped")
	skipped.Labels = map[string]string{"skip": "1"}
	e.mustCreate(skipped)
	there := configMap("x")
	there.Namespace = "other"
	e.mustCreate(there)

	// A rule for extensions/v1beta1 is asked about a Deployment of apps/v1, in the version that it knows, unless it wants to
	// match exactly.
	rules := []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{
		APIGroups: []string{"extensions"}, APIVersions: []string{"v1beta1"}, Resources: []string{"deployments"}}}}
	e.validating("old", e.on("/old", allow), rules)
	e.validating("exact", e.on("/exact", deny("never")), rules, func(w *admissionv1.ValidatingWebhook) { w.MatchPolicy = ptr(admissionv1.Exact) })
	e.requests()
	e.mustCreate(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}})
	asked := e.requests()
	if len(asked) != 1 || asked[0].Kind.Group != "extensions" || asked[0].RequestKind.Group != "apps" || asked[0].RequestResource.Version != "v1" ||
		!strings.Contains(string(asked[0].Object.Raw), `"apiVersion":"extensions/v1beta1"`) {
		t.Errorf("asked %d: %+v", len(asked), asked)
	}
}

func TestMatchConditions(t *testing.T) {
	e := start(t)
	condition := func(expressions ...string) func(*admissionv1.ValidatingWebhook) {
		return func(w *admissionv1.ValidatingWebhook) {
			for i, x := range expressions {
				w.MatchConditions = append(w.MatchConditions, admissionv1.MatchCondition{Name: string(rune('a' + i)), Expression: x})
			}
		}
	}
	e.validating("one", e.on("/one", deny("one")), rule("configmaps", admissionv1.OperationAll),
		condition(`object.metadata.name == "one"`, `request.userInfo.username != "admin" && request.operation == "CREATE"`))
	e.validating("broken", e.on("/broken", deny("broken")), rule("secrets", admissionv1.OperationAll), condition(`object.spec.nothing == 1`))
	e.validating("authz", e.on("/authz", deny("authz")), rule("services", admissionv1.OperationAll),
		condition(`!authorizer.group("").resource("services").namespace("default").check("skip").allowed()`))
	_, err := e.create(configMap("one"), server.WriteOptions{User: server.User{Name: "jane"}})
	wants(t, err, 403, `admission webhook "one.example.com" denied the request: one`)
	e.mustCreate(configMap("two"))
	if _, err := e.create(configMap("one"), server.WriteOptions{User: server.User{Name: "admin"}}); err != nil {
		t.Error(err)
	}
	_, err = e.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}, server.WriteOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no such key: spec") {
		t.Errorf("a condition that cannot be evaluated: %v", err)
	}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err = e.create(svc, server.WriteOptions{})
	wants(t, err, 403, `admission webhook "authz.example.com" denied the request: authz`)
	if _, err := e.create(svc, server.WriteOptions{User: server.User{Name: "admin"}}); err != nil {
		t.Error(err)
	}
}

func TestDeletionsActsAndDryRuns(t *testing.T) {
	e := start(t)
	e.mustCreate(configMap("a"))
	e.mustCreate(configMap("b"))
	e.validating("keep", e.on("/keep", func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		if r.Object.Raw != nil || r.OldObject.Raw == nil {
			t.Errorf("asked about a deletion with %s and %s", r.Object.Raw, r.OldObject.Raw)
		}
		if r.Name == "a" {
			return deny("a stays")(r)
		}
		return allow(r)
	}), rule("configmaps", admissionv1.Delete))
	cms := resourceOf(configMap(""))
	_, _, err := e.Delete(t.Context(), cms, "default", "a", server.DeleteOptions{})
	wants(t, err, 403, `admission webhook "keep.example.com" denied the request: a stays`)
	if _, _, err := e.Delete(t.Context(), cms, "default", "b", server.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	_, err = e.DeleteCollection(t.Context(), cms, server.ListQuery{Namespace: "default"}, server.DeleteOptions{})
	wants(t, err, 403, `admission webhook "keep.example.com" denied the request: a stays`)

	e.validating("evict", e.on("/evict", deny("not now")), rule("pods/eviction", admissionv1.Create))
	pods := resourceOf(&corev1.Pod{})
	_, err = e.Act(t.Context(), pods, "eviction", "default", "p", &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, server.WriteOptions{})
	wants(t, err, 403, `admission webhook "evict.example.com" denied the request: not now`)
	asked := e.requests()
	if r := asked[len(asked)-1]; r.SubResource != "eviction" || r.Kind.Kind != "Eviction" || r.Kind.Group != "policy" {
		t.Errorf("asked about %+v", r)
	}

	e.validating("dry", e.on("/dry", allow), rule("secrets", admissionv1.Create), func(w *admissionv1.ValidatingWebhook) { w.SideEffects = ptr(admissionv1.SideEffectClassNoneOnDryRun) })
	if _, err := e.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}, server.WriteOptions{DryRun: true}); err != nil {
		t.Error(err)
	}
	if r := e.requests(); len(r) != 1 || !*r[0].DryRun {
		t.Errorf("asked about a dry run: %+v", r)
	}
}

// Configurations of admission are never subject to it: nobody could get rid of them.
func TestConfigurationsAreExempt(t *testing.T) {
	e := start(t)
	everything := []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.OperationAll}, Rule: admissionv1.Rule{
		APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}}}}
	e.validating("all", e.on("/all", deny("never")), everything)
	e.mutating("all", e.on("/mutate", patch(`[{"op":"add","path":"/metadata/labels","value":{"x":"y"}}]`)), everything)
	c := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "all"}}
	if _, _, err := e.Delete(t.Context(), resourceOf(c), "", "all", server.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if made := e.mustCreate(configMap("x")); made.GetLabels()["x"] != "y" {
		t.Errorf("after the refusing configuration has gone: %v", made)
	}
}

// connector notes that it was reached.
type connector struct{ reached bool }

func (c *connector) Connect(http.ResponseWriter, *http.Request, *resource.Resource, string, string, string, string) error {
	c.reached = true
	return nil
}

func TestConnections(t *testing.T) {
	e := start(t)
	e.validating("attach", e.on("/attach", deny("attaching to pod 'p' is not allowed")), rule("pods/attach", admissionv1.Connect))
	to := &connector{}
	c := admission.NewConnector(to, e.Backend)
	pods, _ := table().Lookup(schema.GroupVersion{Version: "v1"}, "pods")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/namespaces/default/pods/p/attach?stdin=true&container=c", nil)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, c.Connect(nil, req, pods, "attach", "default", "p", ""), 403,
		`admission webhook "attach.example.com" denied the request: attaching to pod 'p' is not allowed`)
	r := e.requests()[0]
	if to.reached || r.Operation != "CONNECT" || r.SubResource != "attach" || r.Kind.Kind != "PodAttachOptions" || !strings.Contains(string(r.Object.Raw), `"stdin":true`) {
		t.Errorf("reached %v, asked about %+v %s", to.reached, r, r.Object.Raw)
	}
	if err := c.Connect(nil, req, pods, "exec", "default", "p", ""); err != nil || !to.reached {
		t.Errorf("exec: %v", err)
	}
}

// An object that changes while a webhook thinks is asked about again.
func TestConflictsAreAskedAboutAgain(t *testing.T) {
	e := start(t)
	e.mustCreate(configMap("x"))
	times := 0
	e.validating("slow", e.on("/slow", func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		if r.UserInfo.Username == "other" {
			return allow(r)
		}
		if times++; times == 1 {
			o := server.UpdateOptions{WriteOptions: server.WriteOptions{User: server.User{Name: "other"}}}
			if _, _, err := e.Update(context.Background(), resourceOf(configMap("")), "", "default", "x", o, func(current resource.Object) (resource.Object, error) {
				current.SetLabels(map[string]string{"theirs": "1"})
				return current, nil
			}); err != nil {
				t.Error(err)
			}
		}
		return allow(r)
	}), rule("configmaps", admissionv1.Update))
	out, err := e.update(configMap("x"), func(o resource.Object) { o.SetAnnotations(map[string]string{"mine": "1"}) })
	if err != nil || times != 2 || out.GetLabels()["theirs"] != "1" || out.GetAnnotations()["mine"] != "1" {
		t.Errorf("asked %d times: %v %v", times, out, err)
	}
	if got := slices.Collect(func(yield func(string) bool) {
		for _, r := range e.requests() {
			if !yield(string(r.Operation)) {
				return
			}
		}
	}); len(got) != 3 {
		t.Errorf("asked: %v", got)
	}
}
