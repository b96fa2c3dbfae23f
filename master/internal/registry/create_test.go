package registry_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/server"
)

func TestCreate(t *testing.T) {
	e := start(t)
	p := pod("web")
	p.UID, p.DeletionTimestamp, p.Generation = "mine", &metav1.Time{}, 7
	p.Status.Phase = corev1.PodRunning
	got := mustCreate(e, p)
	if got.UID == "mine" || got.UID == "" || got.CreationTimestamp.IsZero() || got.ResourceVersion == "" || got.DeletionTimestamp != nil ||
		got.Generation != 1 || got.Status.Phase != corev1.PodPending {
		t.Errorf("the system's own fields: %+v", got.ObjectMeta)
	}
	_, err := e.create(pod("web"))
	wantErr(t, err, metav1.StatusReasonAlreadyExists, `pods "web" already exists`)

	bad := pod("Web_1")
	_, err = e.create(bad)
	wantErr(t, err, metav1.StatusReasonInvalid, `Pod "Web_1" is invalid: metadata.name: Invalid value: "Web_1"`)
	_, err = e.create(pod(""))
	wantErr(t, err, metav1.StatusReasonInvalid, "name or generateName is required")
	set := pod("v")
	set.ResourceVersion = "5"
	_, err = e.create(set)
	wantErr(t, err, metav1.StatusReasonBadRequest, "resourceVersion should not be set on objects to be created")
	_, err = e.Create(e.ctx, res("pods"), "other", pod("v"), server.WriteOptions{})
	wantErr(t, err, metav1.StatusReasonBadRequest, "the namespace of the provided object does not match the namespace sent on the request")

	node := mustCreate(e, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Namespace: "default"}})
	if node.Namespace != "" {
		t.Errorf("a node in namespace %q", node.Namespace)
	}
}

func TestCreateGeneratedNames(t *testing.T) {
	e := start(t)
	gen := pod("")
	gen.GenerateName = strings.Repeat("a", 80) + "-"
	got := mustCreate(e, gen)
	if len(got.Name) != 63 || !strings.HasPrefix(got.Name, strings.Repeat("a", 58)) {
		t.Errorf("generated name %q", got.Name)
	}
	// A manifest copied from a running pod names both; the name counts.
	both := pod("web-x1")
	both.GenerateName = "web-"
	mustCreate(e, both.DeepCopy())
	_, err := e.create(both)
	wantErr(t, err, metav1.StatusReasonAlreadyExists, `pods "web-x1" already exists`)

	ns := mustCreate(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "team-"}})
	if ns.Labels[corev1.LabelMetadataName] != ns.Name {
		t.Errorf("labels %v of namespace %s", ns.Labels, ns.Name)
	}
}

func TestCreateNamespaceMissingOrTerminating(t *testing.T) {
	e := start(t)
	p := pod("web")
	p.Namespace = "nowhere"
	p.Spec.ServiceAccountName = "robot" // nobody looks for the account of a namespace that is not there
	_, err := e.create(p)
	wantErr(t, err, metav1.StatusReasonNotFound, `namespaces "nowhere" not found`)

	ns := mustCreate(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "old"}})
	if done, err := e.delete(ns, server.DeleteOptions{}); done || err != nil {
		t.Fatal(done, err)
	}
	if got := mustGet(e, ns); got.Status.Phase != corev1.NamespaceTerminating || got.DeletionTimestamp == nil {
		t.Errorf("namespace %+v", got)
	}
	if done, err := e.delete(ns, server.DeleteOptions{}); done || err != nil {
		t.Errorf("a second deletion: %v %v", done, err)
	}
	p = pod("web")
	p.Namespace = "old"
	_, err = e.create(p)
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "web" is forbidden: unable to create new content in namespace old because it is being terminated`)
	mustChange(e, "finalize", ns, func(n *corev1.Namespace) {
		n.Spec.Finalizers = nil
		n.Status.Phase = "Odd"
	})
	_, err = get(e, ns)
	wantErr(t, err, metav1.StatusReasonNotFound, `namespaces "old" not found`)
}

func TestCreateDryRun(t *testing.T) {
	e := start(t)
	before := e.revision()
	made, err := e.Create(e.ctx, res("services"), "default", service("web", corev1.ServiceTypeNodePort, 80), server.WriteOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	svc := made.(*corev1.Service)
	if svc.UID == "" || svc.ResourceVersion != "" || svc.Spec.ClusterIP == "" || svc.Spec.Ports[0].NodePort == 0 {
		t.Errorf("dry run gives %+v", svc)
	}
	if _, err := get(e, svc); err == nil || e.revision() != before {
		t.Errorf("a dry run was kept: revision %d → %d", before, e.revision())
	}
	mustCreate(e, configMap("a"))
	_, err = e.Create(e.ctx, res("configmaps"), "default", configMap("a"), server.WriteOptions{DryRun: true})
	wantErr(t, err, metav1.StatusReasonAlreadyExists, `configmaps "a" already exists`)
}

func TestAdmission(t *testing.T) {
	e := start(t)
	got := mustCreate(e, pod("plain"))
	if got.Spec.ServiceAccountName != "default" || got.Spec.DeprecatedServiceAccount != "default" || *got.Spec.Priority != 0 ||
		*got.Spec.PreemptionPolicy != corev1.PreemptLowerPriority || len(got.Spec.Tolerations) != 2 || *got.Spec.Tolerations[0].TolerationSeconds != 10 {
		t.Errorf("admitted: %+v", got.Spec)
	}
	own := pod("own")
	own.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr(int64(300))}}
	got = mustCreate(e, own)
	if len(got.Spec.Tolerations) != 2 || *got.Spec.Tolerations[0].TolerationSeconds != 300 || got.Spec.Tolerations[1].Key != corev1.TaintNodeUnreachable {
		t.Errorf("tolerations: %+v", got.Spec.Tolerations)
	}
	all := pod("all")
	all.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	if got = mustCreate(e, all); len(got.Spec.Tolerations) != 1 {
		t.Errorf("tolerations: %+v", got.Spec.Tolerations)
	}

	critical := pod("critical")
	critical.Spec.PriorityClassName = "system-node-critical"
	if got = mustCreate(e, critical); *got.Spec.Priority != 2000001000 {
		t.Errorf("priority %d", *got.Spec.Priority)
	}
	class := pod("class")
	class.Spec.PriorityClassName = "gold"
	_, err := e.create(class)
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "class" is forbidden: no PriorityClass with name gold was found`)
	number := pod("number")
	number.Spec.Priority = ptr(int32(5))
	_, err = e.create(number)
	wantErr(t, err, metav1.StatusReasonForbidden, "the integer value of priority (5) must not be provided in pod spec")

	robot := pod("robot")
	robot.Spec.ServiceAccountName = "robot"
	_, err = e.create(robot.DeepCopy())
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "robot" is forbidden: error looking up service account default/robot: serviceaccount "robot" not found`)
	mustCreate(e, &corev1.ServiceAccount{
		ObjectMeta:       metav1.ObjectMeta{Namespace: "default", Name: "robot"},
		ImagePullSecrets: []corev1.LocalObjectReference{{Name: "regcred"}},
	})
	if got = mustCreate(e, robot); len(got.Spec.ImagePullSecrets) != 1 || got.Spec.ImagePullSecrets[0].Name != "regcred" {
		t.Errorf("pull secrets %v", got.Spec.ImagePullSecrets)
	}
}

// What is added to each pod when it is created keeps nobody from sharing: of one template there is one copy in memory, with and
// without a controller.
func TestAdmittedPodsShareTheirTemplate(t *testing.T) {
	e := start(t)
	yes := true
	for what, owners := range map[string][]metav1.OwnerReference{
		"alone":    nil,
		"replicas": {{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: &yes}},
	} {
		of := func(name string) *corev1.Pod {
			p := pod(what + name)
			p.OwnerReferences = owners
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": quantity.MustParse("100m")}
			got, err := get(e, mustCreate(e, p))
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		first, second := of("1"), of("2")
		if &first.Spec.Containers[0] != &second.Spec.Containers[0] || &first.Spec.Volumes[0] != &second.Spec.Volumes[0] {
			t.Errorf("%s: two copies of\n%+v\n%+v", what, first.Spec, second.Spec)
		}
	}
}
