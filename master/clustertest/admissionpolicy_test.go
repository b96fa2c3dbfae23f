package clustertest

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// policed is a cluster with a client that hears warnings.
type policed struct {
	*cluster
	any dynamic.Interface
	mu  sync.Mutex
	// warned is what the last request was warned of.
	warned []string
}

func (p *policed) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warned = append(p.warned, text)
}

func (p *policed) warnings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.warned
	p.warned = nil
	return out
}

func runPoliced(t *testing.T, test func(p *policed)) {
	t.Helper()
	run(t, 0, func(c *cluster) {
		p := &policed{cluster: c}
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "master", "admin.kubeconfig"))
		if err != nil {
			c.Fatal(err)
		}
		config.WarningHandlerWithContext = p
		config.QPS = -1
		if p.any, err = dynamic.NewForConfigAndClient(config, c.http); err != nil {
			c.Fatal(err)
		}
		test(p)
	})
}

// resource finds the client for an object: names of kinds are regular here.
func (p *policed) resource(u *unstructured.Unstructured) dynamic.ResourceInterface {
	gvr, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
	switch u.GetKind() {
	case "ConfigMap", "Deployment", "CronTab", "Pod", "Secret", "Service":
		return p.any.Resource(gvr).Namespace("default")
	}
	return p.any.Resource(gvr)
}

// create makes the objects of a YAML stream and gives the last one.
func (p *policed) create(text string) (out *unstructured.Unstructured, err error) {
	p.Helper()
	for _, doc := range strings.Split(text, "\n---") {
		u := manifest(p.T, doc)
		if out, err = p.resource(u).Create(p.ctx, u, metav1.CreateOptions{}); err != nil {
			return out, err
		}
	}
	return out, nil
}

func (p *policed) must(text string) *unstructured.Unstructured {
	p.Helper()
	u, err := p.create(text)
	if err != nil {
		p.Fatal(err)
	}
	return u
}

// refused checks code, reason and a part of the words of a refusal; "" for none.
func (p *policed) refused(err error, code int32, reason metav1.StatusReason, words string) {
	p.Helper()
	if words == "" {
		if err != nil {
			p.Error(err)
		}
		return
	}
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Code != code || status.Status().Reason != reason || !strings.Contains(err.Error(), words) {
		p.Errorf("got %v\nwant %d %s %s", err, code, reason, words)
	}
}

const policedDeployment = `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, labels: {app: web}}, spec: {replicas: 2, selector: {matchLabels: {app: web}},
 template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: nginx}]}}}}`

// allow gives jane rights everywhere.
func (p *policed) allow(name string, rule rbacv1.PolicyRule) {
	p.Helper()
	if _, err := p.kube.RbacV1().ClusterRoles().Create(p.ctx, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule},
	}, metav1.CreateOptions{}); err != nil {
		p.Fatal(err)
	}
	if _, err := p.kube.RbacV1().ClusterRoleBindings().Create(p.ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{}); err != nil {
		p.Fatal(err)
	}
}

// match is a policy's matchConstraints.
func match(group, resources string, ops string) string {
	return `matchConstraints: {resourceRules: [{apiGroups: ["` + group + `"], apiVersions: [v1], resources: [` + resources + `], operations: [` + ops + `]}]}`
}

func bind(kind, policy, more string) string {
	return "\n---\n{apiVersion: admissionregistration.k8s.io/v1, kind: " + kind + "AdmissionPolicyBinding, metadata: {name: " + policy + "-b}, spec: {policyName: " + policy + more + "}}"
}

func TestValidatingPolicy(t *testing.T) {
	runPoliced(t, func(p *policed) {
		made := p.must(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: size}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  ` + match("apps", "deployments, deployments/scale", "CREATE, UPDATE") + `
  matchConditions: [{name: not-exempt, expression: "!has(object.metadata.labels) || !('exempt' in object.metadata.labels)"}]
  variables:
  - {name: max, expression: "params == null ? 3 : int(params.data.max)"}
  - {name: unused, expression: "object.spec.nowhere.at.all"}
  - {name: wanted, expression: "object.spec.replicas <= variables.max"}
  validations:
  - {expression: variables.wanted, messageExpression: "'at most ' + string(variables.max) + ' in ' + namespaceObject.metadata.name + ', please, ' + request.userInfo.username"}
  - {expression: "object.spec.replicas != 13", message: unlucky, reason: Forbidden}
`)
		if at(made, "status", "observedGeneration") != int64(1) || at(made, "status", "typeChecking") == nil {
			t.Errorf("status: %v", made.Object["status"])
		}
		many := strings.Replace(policedDeployment, "replicas: 2", "replicas: 5", 1)
		p.must(strings.Replace(many, "name: web,", "name: unbound,", 1)) // a policy alone does nothing
		p.must(`{apiVersion: v1, kind: ConfigMap, metadata: {name: limits, labels: {for: size}}, data: {max: "4"}}` +
			bind("Validating", "size", `, validationActions: [Deny], paramRef: {name: limits, parameterNotFoundAction: Deny}`))
		_, err := p.create(many)
		p.refused(err, 422, metav1.StatusReasonInvalid, `deployments.apps "web" is forbidden: ValidatingAdmissionPolicy 'size' with binding 'size-b' denied request: at most 4 in default, please, kubernetes-admin`)
		_, err = p.create(strings.Replace(many, "app: web}}, spec: {replicas", "app: web, exempt: a}}, spec: {replicas", 1))
		p.refused(err, 0, "", "")
		if err := p.kube.AppsV1().Deployments("default").Delete(p.ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		p.must(policedDeployment)

		deployments := p.kube.AppsV1().Deployments("default")
		for _, patch := range []struct {
			typ       types.PatchType
			data, sub string
		}{
			{types.MergePatchType, `{"spec":{"replicas":5}}`, ""}, {types.StrategicMergePatchType, `{"spec":{"replicas":5}}`, ""},
			{types.JSONPatchType, `[{"op":"replace","path":"/spec/replicas","value":5}]`, ""},
			{types.ApplyPatchType, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":5}}`, ""},
			{types.MergePatchType, `{"spec":{"replicas":5}}`, "scale"},
			{types.ApplyPatchType, `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":5}}`, "scale"},
		} {
			o := metav1.PatchOptions{FieldManager: "me"}
			if patch.typ == types.ApplyPatchType {
				force := true
				o.Force = &force
			}
			var subs []string
			if patch.sub != "" {
				subs = []string{patch.sub}
			}
			_, err := deployments.Patch(p.ctx, "web", patch.typ, []byte(patch.data), o, subs...)
			p.refused(err, 422, metav1.StatusReasonInvalid, "at most 4 in default")
		}
		scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: autoscalingv1.ScaleSpec{Replicas: 5}}
		_, err = deployments.UpdateScale(p.ctx, "web", scale, metav1.UpdateOptions{DryRun: []string{"All"}})
		p.refused(err, 422, metav1.StatusReasonInvalid, "at most 4 in default")
		scale.Spec.Replicas = 3
		_, err = deployments.UpdateScale(p.ctx, "web", scale, metav1.UpdateOptions{})
		p.refused(err, 0, "", "")
		// What nobody matches is let be.
		_, err = deployments.Patch(p.ctx, "web", types.MergePatchType, []byte(`{"status":{"replicas":5}}`), metav1.PatchOptions{}, "status")
		p.refused(err, 0, "", "")

		// Parameters count as they are now; no parameter, as the binding has it.
		if _, err := p.kube.CoreV1().ConfigMaps("default").Patch(p.ctx, "limits", types.MergePatchType, []byte(`{"data":{"max":"20"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err = deployments.Patch(p.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":13}}`), metav1.PatchOptions{})
		p.refused(err, 403, metav1.StatusReasonForbidden, "denied request: unlucky")
		if err := p.kube.CoreV1().ConfigMaps("default").Delete(p.ctx, "limits", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err = deployments.Patch(p.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{})
		p.refused(err, 422, metav1.StatusReasonInvalid, "denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction")
		bindings := p.kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
		if _, err := bindings.Patch(p.ctx, "size-b", types.MergePatchType, []byte(`{"spec":{"paramRef":{"parameterNotFoundAction":"Allow"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err = deployments.Patch(p.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{})
		p.refused(err, 0, "", "")

		// Several by a selector: each has its say.
		p.must(`{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {for: size}}, data: {max: "9"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: b, labels: {for: size}}, data: {max: "8"}}`)
		if _, err := bindings.Patch(p.ctx, "size-b", types.MergePatchType,
			[]byte(`{"spec":{"validationActions":["Warn","Audit"],"paramRef":{"name":null,"selector":{"matchLabels":{"for":"size"}}}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		p.warnings()
		if _, err := p.any.Resource(appsv1.SchemeGroupVersion.WithResource("deployments")).Namespace("default").
			Patch(p.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":10}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
		warned := p.warnings()
		if len(warned) != 2 || !strings.HasPrefix(warned[0], "Validation failed for ValidatingAdmissionPolicy 'size' with binding 'size-b': at most 9 in default") ||
			!strings.Contains(warned[1], "at most 8") {
			t.Errorf("warned: %q", warned)
		}
		if err := bindings.Delete(p.ctx, "size-b", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := deployments.Patch(p.ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":13}}`), metav1.PatchOptions{}); err != nil {
			t.Error("after its binding went:", err)
		}
	})
}

// TestPolicyCoverage goes through what can be asked of the API: deletions, connections, acts, custom kinds, who asks.
func TestPolicyCoverage(t *testing.T) {
	runPoliced(t, func(p *policed) {
		p.define(p.any)
		deny := func(name, constraints, expression string) {
			t.Helper()
			p.must(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: ` + name + `}, spec: {` + constraints +
				`, validations: [{expression: "` + expression + `", message: no ` + name + `}]}}` + bind("Validating", name, ", validationActions: [Deny]"))
		}
		named := strings.Replace(match("", "configmaps", "DELETE"), "{apiGroups", "{resourceNames: [keep], apiGroups", 1)
		deny("deletions", named, `object == null && oldObject.metadata.name != 'keep'`)
		deny("tabs", match("stable.example.com", "crontabs, crontabs/status, crontabs/scale", `"*"`),
			`has(request.subResource) && request.subResource == 'status' ? object.status.replicas < 3 : request.operation == 'DELETE' || object.spec.replicas < 3`)
		deny("exec", match("", "pods/exec", "CONNECT"), `object.command[0] != 'sh'`)
		deny("evictions", match("", "pods/eviction", "CREATE"), `request.name != 'kept'`)
		deny("rights", match("", "secrets", "CREATE"), `authorizer.group('').resource('secrets').namespace('default').check('delete').allowed()`)
		deny("renames", `matchConstraints: {resourceRules: [{resourceNames: [named], apiGroups: [""], apiVersions: ["*"], resources: [services], operations: [CREATE]}],
			excludeResourceRules: [{apiGroups: [""], apiVersions: [v1], resources: ["*"], operations: [DELETE]}], namespaceSelector: {matchLabels: {"kubernetes.io/metadata.name": default}}}`, "false")
		deny("everything", `matchConstraints: {resourceRules: [{apiGroups: [admissionregistration.k8s.io], apiVersions: ["*"], resources: ["*/*"], operations: ["*"]}]}`, "false")

		p.must(`{apiVersion: v1, kind: ConfigMap, metadata: {name: keep}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: go}}`)
		maps := p.kube.CoreV1().ConfigMaps("default")
		p.refused(maps.Delete(p.ctx, "keep", metav1.DeleteOptions{}), 422, metav1.StatusReasonInvalid, "no deletions")
		p.refused(maps.Delete(p.ctx, "go", metav1.DeleteOptions{DryRun: []string{"All"}}), 0, "", "")
		p.refused(maps.DeleteCollection(p.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}), 422, metav1.StatusReasonInvalid, "no deletions")
		if _, err := maps.Get(p.ctx, "keep", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}

		_, err := p.create(strings.Replace(crontab, "image: i", "image: i, replicas: 3", 1))
		p.refused(err, 422, metav1.StatusReasonInvalid, `crontabs.stable.example.com "one" is forbidden: ValidatingAdmissionPolicy 'tabs'`)
		p.must(crontab)
		tabs := p.any.Resource(crontabs).Namespace("default")
		_, err = tabs.Patch(p.ctx, "one", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale")
		p.refused(err, 422, metav1.StatusReasonInvalid, "no tabs")
		_, err = tabs.Patch(p.ctx, "one", types.MergePatchType, []byte(`{"status":{"replicas":3}}`), metav1.PatchOptions{}, "status")
		p.refused(err, 422, metav1.StatusReasonInvalid, "no tabs")
		_, err = tabs.Patch(p.ctx, "one", types.MergePatchType, []byte(`{"status":{"replicas":2}}`), metav1.PatchOptions{}, "status")
		p.refused(err, 0, "", "")
		p.refused(tabs.Delete(p.ctx, "one", metav1.DeleteOptions{}), 0, "", "")

		p.must(`{apiVersion: v1, kind: Pod, metadata: {name: kept}, spec: {containers: [{name: c, image: i}]}}`)
		err = p.kube.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("kept").SubResource("exec").
			Param("command", "sh").Param("stdout", "true").Do(p.ctx).Error()
		p.refused(err, 422, metav1.StatusReasonInvalid, "no exec")
		err = p.kube.CoreV1().Pods("default").EvictV1(p.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "kept"}})
		p.refused(err, 422, metav1.StatusReasonInvalid, "no evictions")

		p.allow("secret-maker", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create"}})
		jane := p.impersonate(rest.ImpersonationConfig{UserName: "jane"})
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}
		_, err = jane.CoreV1().Secrets("default").Create(p.ctx, secret, metav1.CreateOptions{})
		p.refused(err, 422, metav1.StatusReasonInvalid, "no rights")
		_, err = p.kube.CoreV1().Secrets("default").Create(p.ctx, secret, metav1.CreateOptions{})
		p.refused(err, 0, "", "")

		service := `{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {ports: [{port: 80}]}}`
		p.must(service)
		_, err = p.create(strings.Replace(service, "other", "named", 1))
		p.refused(err, 422, metav1.StatusReasonInvalid, "no renames")
		// Who matches policies could not be got rid of.
		if err := p.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(p.ctx, "everything", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestPolicyFailures(t *testing.T) {
	runPoliced(t, func(p *policed) {
		p.must(`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: broken}, spec: {` +
			match("", "configmaps", "CREATE") + `, validations: [{expression: object.data.missing == 'x'}]}}` + bind("Validating", "broken", ", validationActions: [Deny]"))
		cm := `{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}`
		_, err := p.create(cm)
		p.refused(err, 422, metav1.StatusReasonInvalid, "expression 'object.data.missing == 'x'' resulted in error: no such key: missing")
		policies := p.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies()
		change := func(patch string) {
			t.Helper()
			if _, err := policies.Patch(p.ctx, "broken", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		dry := func() error {
			u := manifest(t, cm)
			_, err := p.resource(u).Create(p.ctx, u, metav1.CreateOptions{DryRun: []string{"All"}})
			return err
		}
		change(`{"spec":{"failurePolicy":"Ignore"}}`)
		p.refused(dry(), 0, "", "")
		// What costs too much is stopped, and fails.
		change(`{"spec":{"failurePolicy":"Fail","validations":[{"expression":"[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a+b+c+d+e+f > 0))))))"}]}}`)
		p.refused(dry(), 422, metav1.StatusReasonInvalid, "cost")
		change(`{"spec":{"validations":[{"expression":"true"}],"auditAnnotations":[{"key":"seen","valueExpression":"string(object.data.missing)"}]}}`)
		p.refused(dry(), 422, metav1.StatusReasonInvalid, "no such key: missing")
		change(`{"spec":{"auditAnnotations":[{"key":"seen","valueExpression":"string(object.data.a)"}]}}`)
		p.refused(dry(), 0, "", "")
		change(`{"spec":{"paramKind":{"apiVersion":"stable.example.com/v1","kind":"CronTab"}}}`)
		p.refused(dry(), 422, metav1.StatusReasonInvalid, "failed to configure policy: failed to find resource referenced by paramKind: 'stable.example.com/v1, Kind=CronTab'")
		// A custom kind as parameters, as soon as it is there.
		p.define(p.any)
		change(`{"spec":{"validations":[{"expression":"object.data.a == params.spec.image"}]}}`)
		if _, err := p.kube.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Patch(p.ctx, "broken-b", types.MergePatchType,
			[]byte(`{"spec":{"paramRef":{"name":"one","namespace":"default","parameterNotFoundAction":"Allow"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		p.refused(dry(), 0, "", "")
		p.must(crontab)
		p.refused(dry(), 422, metav1.StatusReasonInvalid, "failed expression: object.data.a == params.spec.image")
	})
}

func TestPolicyMayNotReadForOthers(t *testing.T) {
	runPoliced(t, func(p *policed) {
		p.allow("police", rbacv1.PolicyRule{APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"*"}})
		policy := `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: secrets}, spec: {paramKind: {apiVersion: v1, kind: Secret}, ` +
			match("", "configmaps", "CREATE") + `, validations: [{expression: "false", messageExpression: string(params.data.password)}]}}`
		jane := p.impersonate(rest.ImpersonationConfig{UserName: "jane"}).AdmissionregistrationV1().RESTClient()
		post := func(resource, text string) error {
			data, err := manifest(t, text).MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			return jane.Post().Resource(resource).Body(data).SetHeader("Content-Type", "application/json").Do(p.ctx).Error()
		}
		p.refused(post("validatingadmissionpolicies", policy), 422, metav1.StatusReasonInvalid,
			`spec.paramKind: Forbidden: user jane must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)`)
		p.must(policy)
		binding := strings.TrimPrefix(bind("Validating", "secrets", ", validationActions: [Deny], paramRef: {name: s, namespace: default, parameterNotFoundAction: Deny}"), "\n---\n")
		p.refused(post("validatingadmissionpolicybindings", binding), 422, metav1.StatusReasonInvalid,
			`spec.paramRef: Forbidden: user jane does not have "get" permission on the object referenced by paramRef`)
		p.allow("reader", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}})
		p.refused(post("validatingadmissionpolicybindings", binding), 0, "", "")
	})
}
