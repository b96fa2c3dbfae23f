package resource

import (
	"context"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

func decoded(t testing.TB, text string) runtime.Object {
	t.Helper()
	obj, gvk, err := table.Codecs().UniversalDeserializer().Decode([]byte("---\n"+text), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	obj.GetObjectKind().SetGroupVersionKind(*gvk)
	return obj
}

// stored decodes YAML and takes it the way of a creation: to the storage version, prepared.
func stored(t testing.TB, text string) Object {
	t.Helper()
	out, err := table.ToStorage(decoded(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func rulesOf(t testing.TB, obj Object) *Rules {
	t.Helper()
	r, ok := table.ByKind(obj.GetObjectKind().GroupVersionKind())
	if !ok {
		t.Fatalf("%s is not served", obj.GetObjectKind().GroupVersionKind())
	}
	return r.Rules()
}

func created(t testing.TB, text string) Object {
	t.Helper()
	obj := stored(t, text)
	if obj.GetNamespace() == "" {
		obj.SetNamespace("default")
	}
	if prepare := rulesOf(t, obj).PrepareCreate; prepare != nil {
		prepare(obj)
	}
	return obj
}

// update makes new from text and runs the rules of an update over it.
func update(t testing.TB, text string, old Object) Object {
	t.Helper()
	obj := stored(t, text)
	obj.SetNamespace(old.GetNamespace())
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	before := old.DeepCopyObject()
	rulesOf(t, obj).PrepareUpdate(obj, old)
	if diff := cmp.Diff(before, old.DeepCopyObject()); diff != "" {
		t.Error("the old object was changed:", diff)
	}
	return obj
}

func TestSeedManifests(t *testing.T) {
	for _, name := range []string{"app-wordpress.yml", "app-wordpress2.yml", "app-wordpress3.yml", "svc-httpd.yml"} {
		t.Run(name, func(t *testing.T) {
			for _, in := range readManifest(t, name) {
				obj, err := table.ToStorage(in)
				if err != nil {
					t.Fatal(err)
				}
				obj.SetNamespace("default")
				rules := rulesOf(t, obj)
				rules.PrepareCreate(obj)
				if svc, ok := obj.(*corev1.Service); ok {
					svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "10.254.0.7", []string{"10.254.0.7"}
				}
				if errs := rules.Validate(context.Background(), obj); len(errs) > 0 {
					t.Errorf("%s %s: %v", obj.GetObjectKind().GroupVersionKind().Kind, obj.GetName(), errs.ToAggregate())
				}
				if warnings := rules.Warnings(context.Background(), obj, nil); len(warnings) > 0 {
					t.Errorf("%s: warnings %q", obj.GetName(), warnings)
				}
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	pod := created(t, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {serviceAccount: old, containers: [{name: c, image: redis:6.0, ports: [{containerPort: 80}]}]}}").(*corev1.Pod)
	c := pod.Spec.Containers[0]
	got := []any{
		pod.Spec.RestartPolicy, *pod.Spec.TerminationGracePeriodSeconds, pod.Spec.DNSPolicy, pod.Spec.SchedulerName,
		pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount, *pod.Spec.EnableServiceLinks,
		c.ImagePullPolicy, c.TerminationMessagePath, c.Ports[0].Protocol,
		pod.Status.Phase, pod.Status.QOSClass, pod.Generation,
	}
	want := []any{
		corev1.RestartPolicyAlways, int64(30), corev1.DNSClusterFirst, "default-scheduler",
		"old", "old", true,
		corev1.PullIfNotPresent, "/dev/termination-log", corev1.ProtocolTCP,
		corev1.PodPending, corev1.PodQOSBestEffort, int64(1),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	svc := created(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}").(*corev1.Service)
	port := svc.Spec.Ports[0]
	got = []any{svc.Spec.Type, svc.Spec.SessionAffinity, *svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies, *svc.Spec.InternalTrafficPolicy, port.Protocol, port.TargetPort.IntVal}
	want = []any{corev1.ServiceTypeClusterIP, corev1.ServiceAffinityNone, corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{"IPv4"}, corev1.ServiceInternalTrafficPolicyCluster, corev1.ProtocolTCP, int32(80)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	secret := created(t, "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {b: eA==}, stringData: {a: text}}").(*corev1.Secret)
	if secret.StringData != nil || string(secret.Data["a"]) != "text" || string(secret.Data["b"]) != "x" || secret.Type != corev1.SecretTypeOpaque {
		t.Errorf("secret %+v", secret)
	}
	ns := created(t, "{apiVersion: v1, kind: Namespace, metadata: {name: a}}").(*corev1.Namespace)
	if !slices.Equal(ns.Spec.Finalizers, []corev1.FinalizerName{"kubernetes"}) || ns.Status.Phase != "Active" || ns.Labels["kubernetes.io/metadata.name"] != "a" {
		t.Errorf("namespace %+v", ns)
	}
}

// The words are those of kube-apiserver 1.36.
func TestValidationWords(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"pod without containers", "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {}}", "spec.containers: Required value"},
		{"bad name", "{apiVersion: v1, kind: Pod, metadata: {name: A_b}, spec: {containers: [{name: c, image: i}]}}", `metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain`},
		{"twice the same container", "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i}, {name: c, image: i}]}}", `spec.containers[1].name: Duplicate value: "c"`},
		{"port out of range", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80000}]}}", "spec.ports[0].port: Invalid value: 80000: must be between 1 and 65535, inclusive"},
		{"unknown type", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: Nodeport, ports: [{port: 80}]}}", `spec.type: Unsupported value: "Nodeport": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},
		{"node port of a ClusterIP", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80, nodePort: 30080}]}}", "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"IPv6", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ipFamilies: [IPv6], ports: [{port: 80}]}}", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"dual stack", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}}", "this cluster is not configured for dual-stack services"},
		{"selector of another app", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}", "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`"},
		{"a role without verbs", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a}, rules: [{apiGroups: [\"\"], resources: [pods]}]}", "rules[0].verbs: Required value: verbs must contain at least one value"},
		{"a role with URLs", "{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a}, rules: [{nonResourceURLs: [/version], verbs: [get]}]}", "namespaced rules cannot apply to non-resource URLs"},
		{"a cluster's binding of a role", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: a}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: b}}", `roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`},
		{"an account without namespace", "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: a}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: b}, subjects: [{kind: ServiceAccount, name: c}]}", "subjects[0].namespace: Required value"},
		{"apps/v1 without selector", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}", "spec.selector: Required value"},
		{"extensions without template", "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: a}, spec: {replicas: 1}}", "spec.template.spec.containers: Required value"},
		{"negative replicas", "{apiVersion: extensions/v1beta1, kind: ReplicaSet, metadata: {name: a}, spec: {replicas: -1, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}", "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		{"key of a ConfigMap", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {'a/b': c}}", `data[a/b]: Invalid value: "a/b": a valid config key must consist of`},
		{"Endpoints' address", "{apiVersion: v1, kind: Endpoints, metadata: {name: a}, subsets: [{addresses: [{ip: 127.0.0.1}], ports: [{port: 80}]}]}", "may not be in the loopback range"},
		{"slice without type", "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a}, endpoints: []}", "addressType: Required value"},
		{"lease", "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: a}, spec: {leaseDurationSeconds: 0}}", "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"},
		{"node's pod range", "{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.0.0.0/8, 10.0.0.0/9]}}", "spec.podCIDRs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			obj := created(t, test.text)
			if r, _ := table.ByKind(obj.GetObjectKind().GroupVersionKind()); !r.Namespaced {
				obj.SetNamespace("")
			}
			errs := rulesOf(t, obj).Validate(context.Background(), obj)
			if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want) {
				t.Errorf("got %v", errs.ToAggregate())
			}
		})
	}
}

func TestUpdatesAreChecked(t *testing.T) {
	const rs = "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: a, resourceVersion: '1'}, spec: {selector: {matchLabels: {app: %}}, template: {metadata: {labels: {app: %}}, spec: {containers: [{name: c, image: i}]}}}}"
	for _, test := range []struct{ name, old, new, want string }{
		{"pod's image", "{apiVersion: v1, kind: Pod, metadata: {name: a, resourceVersion: '1'}, spec: {containers: [{name: c, image: i}]}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: a, resourceVersion: '1'}, spec: {containers: [{name: c, image: j}]}}", ""},
		{"pod's command", "{apiVersion: v1, kind: Pod, metadata: {name: a, resourceVersion: '1'}, spec: {containers: [{name: c, image: i}]}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: a, resourceVersion: '1'}, spec: {containers: [{name: c, image: i, command: [a]}]}}", "pod updates may not change fields other than"},
		{"selector", strings.ReplaceAll(rs, "%", "a"), strings.ReplaceAll(rs, "%", "b"), "spec.selector: Invalid value"},
		{"immutable ConfigMap", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, resourceVersion: '1'}, immutable: true, data: {a: b}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: a, resourceVersion: '1'}, immutable: true, data: {a: c}}", "data: Forbidden: field is immutable when `immutable` is set"},
		{"immutable Secret", "{apiVersion: v1, kind: Secret, metadata: {name: a, resourceVersion: '1'}, immutable: true, data: {a: eA==}}",
			"{apiVersion: v1, kind: Secret, metadata: {name: a, resourceVersion: '1'}, immutable: true, data: {a: eQ==}}", "data: Forbidden: field is immutable when `immutable` is set"},
		{"type of a Secret", "{apiVersion: v1, kind: Secret, metadata: {name: a, resourceVersion: '1'}, type: a}",
			"{apiVersion: v1, kind: Secret, metadata: {name: a, resourceVersion: '1'}, type: b}", "type: Invalid value: \"b\": field is immutable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := created(t, test.old)
			obj := stored(t, test.new)
			obj.SetNamespace(old.GetNamespace())
			rules := rulesOf(t, obj)
			if rules.PrepareUpdate != nil {
				rules.PrepareUpdate(obj, old)
			}
			errs := rules.ValidateUpdate(context.Background(), obj, old)
			if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), test.want)) {
				t.Errorf("got %v", errs.ToAggregate())
			}
		})
	}
}

func TestGenerations(t *testing.T) {
	const text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {replicas: 2, selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}"
	old := created(t, text)
	old.SetGeneration(7)
	old.(*appsv1.Deployment).Status.Replicas = 2
	if got := update(t, text, old); got.GetGeneration() != 7 || got.(*appsv1.Deployment).Status.Replicas != 2 {
		t.Errorf("unchanged: generation %d, status %+v", got.GetGeneration(), got.(*appsv1.Deployment).Status)
	}
	for what, change := range map[string][2]string{
		"spec":        {"replicas: 2", "replicas: 3"},
		"annotations": {"name: a}", "name: a, annotations: {b: c}}"},
		"label":       {"name: a}", "name: a, labels: {b: c}}"},
	} {
		want := int64(8)
		if what == "label" {
			want = 7
		}
		if got := update(t, strings.Replace(text, change[0], change[1], 1), old).GetGeneration(); got != want {
			t.Errorf("%s: generation %d", what, got)
		}
	}
	status := old.DeepCopyObject().(*appsv1.Deployment)
	status.Labels, status.Spec.Paused, status.Status.Replicas, status.Generation = map[string]string{"a": "b"}, true, 5, 99
	rulesOf(t, old).PrepareStatus(status, old)
	if status.Labels != nil || status.Spec.Paused || status.Status.Replicas != 5 || status.Generation != 7 {
		t.Errorf("status update: %+v", status)
	}
}

func TestFieldSelectors(t *testing.T) {
	for _, test := range []struct {
		gv       schema.GroupVersion
		plural   string
		selector string
		want     string
		err      string
	}{
		{coreV1, "pods", "spec.nodeName=a,status.phase!=Failed", "spec.nodeName=a,status.phase!=Failed", ""},
		{coreV1, "pods", "spec.host=a", "spec.nodeName=a", ""},
		{coreV1, "pods", "spec.image=a", "", "field label not supported: spec.image"},
		{coreV1, "events", "involvedObject.uid=a,source=kubelet", "involvedObject.uid=a,source=kubelet", ""},
		{eventsV1, "events", "regarding.name=a,reportingController=b", "involvedObject.name=a,reportingComponent=b", ""},
		{coreV1, "nodes", "spec.unschedulable=true", "spec.unschedulable=true", ""},
		{coreV1, "secrets", "type=Opaque", "type=Opaque", ""},
		{coreV1, "namespaces", "status.phase=Active", "status.phase=Active", ""},
		{coreV1, "services", "spec.type=NodePort", "spec.type=NodePort", ""},
		{appsV1, "deployments", "metadata.name=a", "metadata.name=a", ""},
		{extensionsV1, "deployments", "spec.replicas=1", "", `"spec.replicas" is not a known field selector: only "metadata.name", "metadata.namespace"`},
	} {
		r, _ := table.Lookup(test.gv, test.plural)
		got, err := table.FieldSelector(r, test.gv, fields.ParseSelectorOrDie(test.selector))
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s %s: %v", test.plural, test.selector, err)
			}
			continue
		}
		if err != nil || got.String() != test.want {
			t.Errorf("%s %s: %v %v", test.plural, test.selector, got, err)
		}
	}
	// What may be selected is there to be selected.
	pod := created(t, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeName: node1, containers: [{name: c, image: i}]}}")
	set := fields.Set(rulesOf(t, pod).Fields(pod))
	if !fields.ParseSelectorOrDie("spec.nodeName=node1,status.phase=Pending,spec.restartPolicy=Always,spec.hostNetwork=false,status.podIP=").Matches(set) {
		t.Errorf("%v", set)
	}
}

func TestGrace(t *testing.T) {
	pod := created(t, "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i}]}}").(*corev1.Pod)
	grace := rulesOf(t, pod).GraceSeconds
	if got := grace(pod); got != 0 {
		t.Errorf("of no node: %d", got)
	}
	pod.Spec.NodeName = "n"
	if got := grace(pod); got != 30 {
		t.Errorf("default: %d", got)
	}
	pod.Status.Phase = corev1.PodSucceeded
	if got := grace(pod); got != 0 {
		t.Errorf("of an ended pod: %d", got)
	}
}

func TestEventsOfTwoGroups(t *testing.T) {
	obj := stored(t, "{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: a, namespace: b}, eventTime: '2026-01-01T00:00:00.000000Z', reportingController: c, reportingInstance: i, action: act, reason: r, type: Normal, note: hello, regarding: {kind: Pod, name: p, namespace: b}}")
	e := obj.(*corev1.Event)
	if e.Message != "hello" || e.InvolvedObject.Name != "p" || e.APIVersion != "v1" {
		t.Errorf("%+v", e)
	}
	ctx := WithVersion(context.Background(), eventsV1)
	if errs := rulesOf(t, obj).Validate(ctx, obj); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
	e.Type = "Odd"
	if errs := rulesOf(t, obj).Validate(ctx, obj); len(errs) == 0 {
		t.Error("events.k8s.io/v1 takes any type")
	}
	back, err := table.FromStorage(e, eventsV1)
	if err != nil || back.(*eventsv1.Event).Note != "hello" {
		t.Errorf("%+v %v", back, err)
	}
}

func TestScale(t *testing.T) {
	r, _ := table.Lookup(appsV1, "deployments")
	d := created(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, uid: u, resourceVersion: '3'}, spec: {replicas: 2, selector: {matchLabels: {app: a, b: c}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}")
	for _, gv := range r.Served {
		scale, err := table.Scale(r, d, gv)
		if err != nil {
			t.Fatal(err)
		}
		want := gv.WithKind("Scale")
		if gv == appsV1 {
			want = autoscaleV1.WithKind("Scale")
		}
		if got := scale.GetObjectKind().GroupVersionKind(); got != want {
			t.Errorf("%s: %s", gv, got)
		}
		request, err := table.ReadScale(scale)
		if err != nil || request.Replicas != 2 || request.ResourceVersion != "3" || request.UID != "u" {
			t.Errorf("%s: %+v %v", gv, request, err)
		}
		columns, err := table.ScaleTable(scale, TableOptions{})
		if err != nil || len(columns.ColumnDefinitions) != 4 || columns.ColumnDefinitions[1].Name != "Desired" || len(columns.Rows) != 1 || columns.Rows[0].Cells[1] != int64(2) {
			t.Errorf("%s: %+v %v", gv, columns, err)
		}
	}
	if err := r.SetScale(d, appsV1, 5); err != nil || *d.(*appsv1.Deployment).Spec.Replicas != 5 {
		t.Error(err)
	}
	if _, err := table.ReadScale(decoded(t, "{apiVersion: autoscaling/v1, kind: Scale, metadata: {name: a, namespace: b}, spec: {replicas: -1}}")); err == nil ||
		!strings.Contains(err.Error(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0") {
		t.Error(err)
	}
	pods, _ := table.ByKey("pods")
	if _, err := table.Scale(pods, pods.New(), coreV1); err == nil {
		t.Error("pods can be scaled")
	}
}

func TestSubresourcesByVersion(t *testing.T) {
	r, _ := table.ByKey("deployments.apps")
	if _, ok := r.SubresourceIn(appsV1, "rollback"); ok {
		t.Error("apps/v1 has rollback")
	}
	sub, ok := r.SubresourceIn(extensionsV1, "rollback")
	if !ok || sub.Kind != extensionsV1.WithKind("DeploymentRollback") {
		t.Errorf("%+v", sub)
	}
	if sub, _ := r.SubresourceIn(appsV1beta2, "status"); sub.Kind != appsV1beta2.WithKind("Deployment") {
		t.Errorf("%+v", sub)
	}
}

func TestResetFields(t *testing.T) {
	r, _ := table.ByKey("deployments.apps")
	if got := r.ResetFields("status")["extensions/v1beta1"].String(); got != ".spec\n.metadata.labels" && got != ".metadata.labels\n.spec" {
		t.Errorf("%q", got)
	}
	c, _ := table.ByKey("configmaps")
	if c.ResetFields("") != nil {
		t.Error("a ConfigMap has fields that are reset")
	}
	p, _ := table.ByKey("pods")
	one := fieldpath.KeyByFields("name", "c")
	set := fieldpath.NewSet(fieldpath.MakePathOrDie("spec", "containers", one, "resources", "limits", "cpu"),
		fieldpath.MakePathOrDie("spec", "containers", one, "image"), fieldpath.MakePathOrDie("metadata", "labels", "a"))
	if got := p.ResetFilters("resize")["v1"].Filter(set); got.Size() != 1 || !got.Has(fieldpath.MakePathOrDie("spec", "containers", one, "resources", "limits", "cpu")) {
		t.Errorf("an applier of a resize owns %s", got)
	}
}
