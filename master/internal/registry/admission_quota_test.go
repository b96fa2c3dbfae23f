package registry_test

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func quota(name string, pairs ...string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: amounts(pairs...)}}
}

// wantUsed checks some of what a quota says, and that counting anew says the same of everything.
func (e *env) wantUsed(name string, pairs ...string) {
	e.Helper()
	q := mustGet(e, quota(name))
	for i := 0; i < len(pairs); i += 2 {
		used, ok := q.Status.Used[corev1.ResourceName(pairs[i])]
		if got := used.String(); got != pairs[i+1] || !ok {
			e.Errorf("quota %s: %s of %s used, want %s", name, got, pairs[i], pairs[i+1])
		}
	}
	_ = e.View(func(v *registry.View) error {
		want := printed(registry.QuotaStatus(v, q).Used)
		if diff := cmp.Diff(want, printed(q.Status.Used)); diff != "" {
			e.Errorf("quota %s: counted (-), kept (+):\n%s", name, diff)
		}
		return nil
	})
}

func printed(list corev1.ResourceList) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		q := list[name]
		out = append(out, fmt.Sprintf("%s=%s", name, q.String()))
	}
	return out
}

func TestQuotaCounts(t *testing.T) {
	e := start(t)
	mustCreate(e, configMap("old"))
	q := mustCreate(e, quota("q", "configmaps", "2", "count/configmaps", "5", "secrets", "1", "services", "3", "services.nodeports", "1", "services.loadbalancers", "1",
		"resourcequotas", "2", "count/deployments.apps", "1", "replicationcontrollers", "1", "count/whales.example.com", "1"))
	if diff := cmp.Diff(q.Spec.Hard, q.Status.Hard); diff != "" {
		t.Error(diff)
	}
	if _, ok := q.Status.Used["count/whales.example.com"]; ok {
		t.Error("counts what is not served")
	}
	e.wantUsed("q", "configmaps", "1", "count/configmaps", "1", "resourcequotas", "1", "replicationcontrollers", "0", "secrets", "0")

	a := mustCreate(e, configMap("a"))
	e.wantUsed("q", "configmaps", "2")
	_, err := e.create(configMap("b"))
	wantErr(t, err, metav1.StatusReasonForbidden, `configmaps "b" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2`)
	if _, err := e.Create(e.ctx, res("configmaps"), "default", configMap("old"), server.WriteOptions{}); !apierrors.IsForbidden(err) {
		t.Error(err)
	}
	mustChange(e, "", a, func(c *corev1.ConfigMap) { c.Data = map[string]string{"a": "b"} })
	if _, err := e.delete(a, server.DeleteOptions{WriteOptions: server.WriteOptions{DryRun: true}}); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", "configmaps", "2")
	if _, err := e.delete(a, server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Create(e.ctx, res("configmaps"), "default", configMap("dry"), server.WriteOptions{DryRun: true}); err != nil {
		t.Error(err)
	}
	// A name that is taken costs nothing.
	if _, err := e.create(configMap("old")); !apierrors.IsAlreadyExists(err) {
		t.Error(err)
	}
	e.wantUsed("q", "configmaps", "1")
	held := configMap("held")
	held.Finalizers = []string{"example.com/hold"}
	held = mustCreate(e, held)
	if _, err := e.delete(held, server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", "configmaps", "2")
	mustChange(e, "", held, func(c *corev1.ConfigMap) { c.Finalizers = nil })
	e.wantUsed("q", "configmaps", "1")

	mustCreate(e, service("plain", corev1.ServiceTypeClusterIP, 80, 81))
	node := mustCreate(e, service("node", corev1.ServiceTypeNodePort, 80))
	e.wantUsed("q", "services", "2", "services.nodeports", "1")
	_, err = e.create(service("both", corev1.ServiceTypeLoadBalancer, 80))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: services.nodeports=1")
	lb := service("lb", corev1.ServiceTypeLoadBalancer, 80)
	lb.Spec.AllocateLoadBalancerNodePorts = ptr(false)
	mustCreate(e, lb)
	e.wantUsed("q", "services", "3", "services.nodeports", "1", "services.loadbalancers", "1")
	_, err = change(e, "", node, func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "b", Port: 81}) })
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: services.nodeports=1")
	mustChange(e, "", node, func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0 })
	e.wantUsed("q", "services.nodeports", "0")

	second := mustCreate(e, quota("second", "pods", "1"))
	_, err = e.create(quota("third", "pods", "1"))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: resourcequotas=1, used: resourcequotas=2, limited: resourcequotas=2")
	if _, err := e.delete(second, server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.wantUsed("q", "resourcequotas", "1")

	q = mustChange(e, "", q, func(q *corev1.ResourceQuota) { q.Spec.Hard = amounts("configmaps", "1", "count/services", "9") })
	e.wantUsed("q", "configmaps", "1", "count/services", "3")
	if _, err = e.delete(q, server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	mustCreate(e, configMap("b"))
}

func TestQuotaOfPods(t *testing.T) {
	e := start(t)
	mustCreate(e, quota("q", "pods", "3", "count/pods", "5", "requests.cpu", "1", "memory", "1Gi", "limits.cpu", "2", "requests.example.com/gpu", "1", "hugepages-2Mi", "4Mi"))
	_, err := e.create(podWith("p", amounts("memory", "1Mi"), nil))
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "p" is forbidden: failed quota: q: must specify limits.cpu for: c; requests.cpu for: c`)
	need := func() corev1.ResourceList { return amounts("cpu", "500m", "memory", "300Mi") }
	limits := amounts("cpu", "500m", "memory", "300Mi", "example.com/gpu", "1", "hugepages-2Mi", "2Mi")
	a := mustCreate(e, podWith("a", need(), limits.DeepCopy()))
	e.wantUsed("q", "pods", "1", "count/pods", "1", "requests.cpu", "500m", "memory", "300Mi", "limits.cpu", "500m", "requests.example.com/gpu", "1", "hugepages-2Mi", "2Mi")
	_, err = e.create(podWith("b", need(), limits.DeepCopy()))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: requests.example.com/gpu=1, used: requests.example.com/gpu=1, limited: requests.example.com/gpu=1")
	_, err = e.create(podWith("b", amounts("cpu", "600m", "memory", "800Mi"), amounts("cpu", "1", "memory", "1Gi")))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: memory=800Mi,requests.cpu=600m, used: memory=300Mi,requests.cpu=500m, limited: memory=1Gi,requests.cpu=1")
	b := mustCreate(e, podWith("b", need(), need()))
	e.wantUsed("q", "pods", "2", "requests.cpu", "1", "memory", "600Mi")

	resize := func(cpu string) error {
		_, err := change(e, "resize", b, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["cpu"] = amounts("cpu", cpu)["cpu"]
			p.Spec.Containers[0].Resources.Limits["cpu"] = amounts("cpu", cpu)["cpu"]
		})
		return err
	}
	wantErr(t, resize("501m"), metav1.StatusReasonForbidden, "exceeded quota: q, requested: requests.cpu=1m, used: requests.cpu=1, limited: requests.cpu=1")
	if err := resize("400m"); err != nil {
		t.Error(err)
	}
	e.wantUsed("q", "requests.cpu", "900m")

	// A pod that ended is there, but uses nothing.
	mustChange(e, "status", a, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	e.wantUsed("q", "pods", "1", "count/pods", "2", "requests.cpu", "400m", "requests.example.com/gpu", "0")
	for _, p := range []*corev1.Pod{a, b} {
		if _, err := e.delete(p, server.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e.wantUsed("q", "pods", "0", "count/pods", "0", "requests.cpu", "0", "memory", "0")
}

// While a node has not carried out a resize, the larger amount counts; then the status makes room.
func TestQuotaOfPendingResizes(t *testing.T) {
	e := start(t)
	mustCreate(e, quota("q", "requests.cpu", "1"))
	p := mustCreate(e, podWith("p", amounts("cpu", "800m"), amounts("cpu", "800m")))
	has := func(cpu string) {
		mustChange(e, "status", p, func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: amounts("cpu", cpu),
				Resources: &corev1.ResourceRequirements{Requests: amounts("cpu", cpu), Limits: amounts("cpu", cpu)}}}
		})
	}
	has("800m")
	mustChange(e, "resize", p, func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts("cpu", "300m"), Limits: amounts("cpu", "300m")}
	})
	e.wantUsed("q", "requests.cpu", "800m")
	_, err := e.create(podWith("r", amounts("cpu", "300m"), nil))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: requests.cpu=1")
	has("300m")
	e.wantUsed("q", "requests.cpu", "300m")
	mustCreate(e, podWith("r", amounts("cpu", "300m"), nil))
}

func TestQuotaScopes(t *testing.T) {
	e := start(t)
	mustCreate(e, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 10})
	scoped := func(name string, scope corev1.ResourceQuotaScope) {
		q := quota(name, "pods", "1")
		q.Spec.Scopes = []corev1.ResourceQuotaScope{scope}
		mustCreate(e, q)
	}
	scoped("terminating", corev1.ResourceQuotaScopeTerminating)
	scoped("lasting", corev1.ResourceQuotaScopeNotTerminating)
	scoped("modest", corev1.ResourceQuotaScopeBestEffort)
	scoped("demanding", corev1.ResourceQuotaScopeNotBestEffort)
	scoped("crossing", corev1.ResourceQuotaScopeCrossNamespacePodAffinity)
	for name, op := range map[string]corev1.ScopeSelectorOperator{"high": corev1.ScopeSelectorOpIn, "other": corev1.ScopeSelectorOpNotIn, "none": corev1.ScopeSelectorOpDoesNotExist} {
		q := quota(name, "pods", "1")
		s := corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: op}
		if op != corev1.ScopeSelectorOpDoesNotExist {
			s.Values = []string{"high"}
		}
		q.Spec.ScopeSelector = &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{s}}
		mustCreate(e, q)
	}
	used := func(want map[string]string) {
		t.Helper()
		for _, name := range []string{"terminating", "lasting", "modest", "demanding", "crossing", "high", "other", "none"} {
			n := want[name]
			if n == "" {
				n = "0"
			}
			e.wantUsed(name, "pods", n)
		}
	}
	used(nil)
	p := mustCreate(e, pod("modest"))
	used(map[string]string{"lasting": "1", "modest": "1", "other": "1", "none": "1"})
	_, err := e.create(pod("second"))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: lasting, requested: pods=1, used: pods=1, limited: pods=1")
	// Limiting the time of a pod moves it from one quota to the other.
	mustChange(e, "", p, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(60)) })
	used(map[string]string{"terminating": "1", "modest": "1", "other": "1", "none": "1"})
	big := podWith("demanding", amounts("cpu", "1"), nil)
	big.Spec.PriorityClassName = "high"
	big.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: "zone", Namespaces: []string{"other"}},
	}}}
	big = mustCreate(e, big)
	used(map[string]string{"terminating": "1", "modest": "1", "other": "1", "none": "1", "lasting": "1", "demanding": "1", "crossing": "1", "high": "1"})
	_, err = change(e, "", big, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(60)) })
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: terminating")
}

func TestQuotaOfClaims(t *testing.T) {
	e := start(t)
	mustCreate(e, quota("q", "persistentvolumeclaims", "2", "requests.storage", "5Gi",
		"gold.storageclass.storage.k8s.io/requests.storage", "2Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"))
	gold := claimOf("a", "2Gi")
	gold.Spec.StorageClassName = ptr("gold")
	mustCreate(e, gold)
	e.wantUsed("q", "persistentvolumeclaims", "1", "requests.storage", "2Gi",
		"gold.storageclass.storage.k8s.io/requests.storage", "2Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1")
	_, err := e.create(claimOf("b", "4Gi"))
	wantErr(t, err, metav1.StatusReasonForbidden, "exceeded quota: q, requested: requests.storage=4Gi, used: requests.storage=2Gi, limited: requests.storage=5Gi")
	mustCreate(e, claimOf("b", "1Gi"))
	e.wantUsed("q", "persistentvolumeclaims", "2", "requests.storage", "3Gi", "gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1")
}

// Somebody who writes nonsense into the status locks the door, rather than opening it.
func TestQuotaOfUnknownStatus(t *testing.T) {
	e := start(t)
	q := mustCreate(e, quota("q", "configmaps", "2"))
	mustChange(e, "status", q, func(q *corev1.ResourceQuota) { q.Status.Used = nil })
	_, err := e.create(configMap("a"))
	wantErr(t, err, metav1.StatusReasonForbidden, `configmaps "a" is forbidden: status unknown for quota: q, resources: configmaps`)
}

// A controller that goes on after a refusal keeps what was made, and the refused object costs nothing.
func TestQuotaInOneTransaction(t *testing.T) {
	e := start(t)
	mustCreate(e, quota("q", "pods", "3"))
	made := 0
	err := e.Transact(e.ctx, func(tx *registry.Tx) error {
		made = 0
		for range 5 {
			p := pod("")
			p.GenerateName = "p-"
			if _, err := registry.Create(tx, p); err == nil {
				made++
			} else if !apierrors.IsForbidden(err) {
				return err
			}
		}
		return nil
	})
	if err != nil || made != 3 {
		t.Errorf("%d pods, %v", made, err)
	}
	e.wantUsed("q", "pods", "3")
}

func TestQuotaIsNeverOverdrawn(t *testing.T) {
	e := start(t)
	const grants, writers, each = 20, 8, 10
	mustCreate(e, quota("q", "configmaps", fmt.Sprint(grants)))
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				c := configMap(fmt.Sprintf("c-%d-%d", w, i))
				_, err := e.create(c)
				switch {
				case err == nil && i == 0: // makes room again
					_, err = e.delete(c, server.DeleteOptions{})
					if err != nil {
						t.Error(err)
					}
				case err == nil:
					mu.Lock()
					made++
					mu.Unlock()
				case !apierrors.IsForbidden(err):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if made > grants || made < grants-writers {
		t.Errorf("%d made where %d were granted", made, grants)
	}
	e.wantUsed("q", "configmaps", fmt.Sprint(made))
}
