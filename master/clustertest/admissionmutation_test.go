package clustertest

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// mutation makes a policy that is bound; expressions of one line.
func (p *policed) mutation(name, constraints, more string, mutations ...string) {
	p.Helper()
	text := `{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicy, metadata: {name: ` + name + `}, spec: {reinvocationPolicy: Never, ` + constraints + more + `, mutations: [`
	for _, m := range mutations {
		kind, field := "ApplyConfiguration", "applyConfiguration"
		if strings.HasPrefix(m, "[") {
			kind, field = "JSONPatch", "jsonPatch"
		}
		quoted, _ := json.Marshal(m)
		text += `{patchType: ` + kind + `, ` + field + `: {expression: ` + string(quoted) + `}},`
	}
	p.must(strings.Replace(text, "reinvocationPolicy: Never, reinvocationPolicy", "reinvocationPolicy", 1) + `]}}` + bind("Mutating", name, ""))
}

func TestMutatingPolicy(t *testing.T) {
	runPoliced(t, func(p *policed) {
		p.define(p.any)
		p.mutation("labels", match("apps", "deployments", "CREATE, UPDATE"), `, variables: [{name: team, expression: "request.userInfo.username"}]`,
			`Object{metadata: Object.metadata{labels: {"team": variables.team}}, spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
				containers: [Object.spec.template.spec.containers{name: "side", image: "busybox"}]}}}}`,
			`[JSONPatch{op: "test", path: "/metadata/labels/team", value: "kubernetes-admin"},
			  JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/x"), value: string(size(object.spec.template.spec.containers))},
			  JSONPatch{op: "add", path: "/spec/template/spec/tolerations", value: [Object.spec.template.spec.tolerations{key: "k", operator: "Exists"}]}]`,
			`[JSONPatch{op: "test", path: "/spec/replicas", value: 100}, JSONPatch{op: "replace", path: "/spec/replicas", value: 101}]`)
		p.must(policedDeployment)
		d, err := p.kube.AppsV1().Deployments("default").Get(p.ctx, "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spec := d.Spec.Template.Spec
		if d.Labels["team"] != "kubernetes-admin" || d.Labels["app"] != "web" || d.Labels["example.com/x"] != "2" || *d.Spec.Replicas != 2 {
			t.Errorf("labels %v, replicas %d", d.Labels, *d.Spec.Replicas)
		}
		if len(spec.Containers) != 2 || len(spec.Tolerations) != 1 {
			t.Fatalf("pods are %+v", spec)
		}
		names := map[string]corev1.Container{}
		for _, c := range spec.Containers {
			names[c.Name] = c
		}
		if c := names["side"]; c.Image != "busybox" || c.TerminationMessagePath == "" || c.ImagePullPolicy != corev1.PullAlways {
			t.Errorf("what was added has no defaults: %+v", c)
		}
		if names["c"].Image != "nginx" {
			t.Error("what was there is gone")
		}
		// An update that takes away what the policy wants does not.
		d.ResourceVersion = "" // its controller writes to it, too
		d.Labels, d.Spec.Template.Spec.Containers = map[string]string{"mine": "1"}, []corev1.Container{names["c"]}
		if d, err = p.kube.AppsV1().Deployments("default").Update(p.ctx, d, metav1.UpdateOptions{}); err != nil || d.Labels["team"] == "" || d.Labels["mine"] != "1" ||
			len(d.Spec.Template.Spec.Containers) != 2 {
			t.Errorf("after an update: %v %v", d, err)
		}

		// Custom kinds by their schemas, status and scale.
		p.mutation("tabs", match("stable.example.com", "crontabs, crontabs/scale, crontabs/status", "CREATE, UPDATE"), "",
			`has(request.subResource) && request.subResource == "status" ? Object{status: Object.status{replicas: object.status.replicas + 1}} :
			 has(request.subResource) ? Object{spec: Object.spec{replicas: object.spec.replicas * 2}} :
			 Object{spec: Object.spec{hosts: [Object.spec.hosts{name: "b", ip: "y"}]}}`)
		one := p.must(crontab)
		if data, _ := json.Marshal(at(one, "spec")); string(data) != `{"hosts":[{"ip":"x","name":"a"},{"ip":"y","name":"b"}],"image":"i","replicas":1}` {
			t.Errorf("custom: %s", data)
		}
		tabs := p.any.Resource(crontabs).Namespace("default")
		one, err = tabs.Patch(p.ctx, "one", types.MergePatchType, []byte(`{"status":{"replicas":5},"spec":{"image":"ignored"}}`), metav1.PatchOptions{}, "status")
		if err != nil || at(one, "status", "replicas") != int64(6) || at(one, "spec", "image") != "i" {
			t.Errorf("status: %v %v", one, err)
		}
		scale, err := tabs.Patch(p.ctx, "one", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale")
		if err != nil || at(scale, "spec", "replicas") != int64(6) {
			t.Errorf("scale: %v %v", scale, err)
		}
		if one, err = tabs.Get(p.ctx, "one", metav1.GetOptions{}); err != nil || at(one, "spec", "replicas") != int64(6) || at(one, "spec", "image") != "i" {
			t.Errorf("scaled: %v %v", one, err)
		}
	})
}

func TestMutatingPolicyFails(t *testing.T) {
	runPoliced(t, func(p *policed) {
		p.must(`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}`)
		maps := p.kube.CoreV1().ConfigMaps("default")
		policies := p.kube.AdmissionregistrationV1().MutatingAdmissionPolicies()
		for _, test := range []struct {
			constraints, mutation string
			code                  int32
			reason                metav1.StatusReason
			want                  string
		}{
			{"UPDATE", `Object{metadata: Object.metadata{name: "other"}}`, 0, "", "name"},
			{"UPDATE", `Object{metadata: Object.metadata{namespace: "kube-system"}}`, 400, metav1.StatusReasonBadRequest, "namespace of the provided object does not match"},
			{"UPDATE", `Object{metadata: Object.metadata{uid: "0"}}`, 409, metav1.StatusReasonConflict, "UID"},
			{"UPDATE", `Object{data: {"a": "c"}, metadata: Object.metadata{wrong: 1}}`, 403, metav1.StatusReasonInvalid, "policy 'm' with binding 'm-b' denied request: error applying patch: failed to convert patch object to typed object: .metadata.wrong: field not declared in schema"},
			{"UPDATE", `Object{metadata: Object.wrong{}}`, 403, metav1.StatusReasonInvalid, "type mismatch"},
			{"UPDATE", `Object{metadata: Object.metadata{managedFields: [Object.metadata.managedFields{manager: "x"}]}}`, 403, metav1.StatusReasonInvalid, "may not mutate atomic arrays, maps or structs: .metadata.managedFields"},
			{"UPDATE", `Object{data: {"a": object.data.missing}}`, 403, metav1.StatusReasonInvalid, "no such key: missing"},
			{"UPDATE", `[JSONPatch{op: "replace", path: "/nowhere/at/all", value: 1}]`, 403, metav1.StatusReasonInvalid, "JSON Patch: "},
			{"UPDATE", `[JSONPatch{op: "add", path: "/wrong", value: 1}]`, 500, metav1.StatusReasonInternalError, `unknown field "wrong"`},
		} {
			p.mutation("m", match("", "configmaps", test.constraints), "", test.mutation)
			_, err := maps.Patch(p.ctx, "x", types.MergePatchType, []byte(`{"data":{"b":"c"}}`), metav1.PatchOptions{})
			if test.code == 0 {
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: %v", test.mutation, err)
				}
			} else {
				p.refused(err, test.code, test.reason, test.want)
			}
			if err := policies.Delete(p.ctx, "m", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := p.kube.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Delete(p.ctx, "m-b", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		// What a lenient policy cannot do it leaves; what it can is done.
		p.mutation("m", match("", "configmaps", "UPDATE"), ", failurePolicy: Ignore", `Object{data: {"a": object.data.missing}}`, `Object{data: {"z": "1"}}`)
		x, err := maps.Patch(p.ctx, "x", types.MergePatchType, []byte(`{"data":{"b":"c"}}`), metav1.PatchOptions{})
		if err != nil || x.Data["z"] != "1" || x.Data["b"] != "c" {
			t.Errorf("lenient: %v %v", x, err)
		}
	})
}

// TestPoliciesAreAskedAgain: in the order of their names, once more after others.
func TestPoliciesAreAskedAgain(t *testing.T) {
	runPoliced(t, func(p *policed) {
		count := func(key string) string {
			return `Object{data: {"` + key + `": (has(object.data) && "` + key + `" in object.data ? object.data["` + key + `"] : "") + "x"}}`
		}
		constraints := match("", "configmaps", "CREATE")
		p.mutation("a", constraints, ", reinvocationPolicy: IfNeeded", count("a"))
		p.mutation("b", constraints, "", count("b"))
		p.mutation("c", constraints, ", reinvocationPolicy: IfNeeded", count("c"))
		u := p.must(`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}`)
		// b and c changed something after a; a does so again, after c.
		if data, _ := json.Marshal(at(u, "data")); string(data) != `{"a":"xx","b":"x","c":"xx"}` {
			t.Errorf("data: %s", data)
		}
	})
}
