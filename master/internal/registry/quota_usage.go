package registry

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	helper "k8s.io/component-helpers/resource"
)

// How quotas count, as Kubernetes' evaluators do (pkg/quota/v1/evaluator/core): every name that a quota may limit belongs to
// one resource, and each object of it uses some amount of some names.

const (
	countPrefix     = "count/"
	requestsPrefix  = corev1.DefaultResourceRequestsPrefix
	classSuffix     = ".storageclass.storage.k8s.io/"
	nativeDomain    = "kubernetes.io/"
	devicesPrefix   = "deviceclass.resource.kubernetes.io/"
	hugePagesPrefix = corev1.ResourceHugePagesPrefix
)

// quotaNames are the names with a meaning of their own, by the resource that they count.
var quotaNames = map[corev1.ResourceName]string{
	corev1.ResourcePods: "pods", corev1.ResourceCPU: "pods", corev1.ResourceMemory: "pods", corev1.ResourceEphemeralStorage: "pods",
	corev1.ResourceRequestsCPU: "pods", corev1.ResourceRequestsMemory: "pods", corev1.ResourceRequestsEphemeralStorage: "pods",
	corev1.ResourceLimitsCPU: "pods", corev1.ResourceLimitsMemory: "pods", corev1.ResourceLimitsEphemeralStorage: "pods",
	corev1.ResourceServices: "services", corev1.ResourceServicesNodePorts: "services", corev1.ResourceServicesLoadBalancers: "services",
	corev1.ResourcePersistentVolumeClaims: "persistentvolumeclaims", corev1.ResourceRequestsStorage: "persistentvolumeclaims",
	corev1.ResourceConfigMaps: "configmaps", corev1.ResourceSecrets: "secrets", corev1.ResourceQuotas: "resourcequotas",
	corev1.ResourceReplicationControllers: "replicationcontrollers",
}

// mustSpecify are the names that every container has to ask for where a quota limits them; no others, as Kubernetes says of
// its own old mistake.
var mustSpecify = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceRequestsCPU: true, corev1.ResourceRequestsMemory: true,
	corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true,
}

// quotaResource is the resource whose objects use a name of a quota, "" when nothing served does.
func (r *Registry) quotaResource(name corev1.ResourceName) string {
	if res, ok := quotaNames[name]; ok {
		return res
	}
	s := string(name)
	if res, ok := strings.CutPrefix(s, countPrefix); ok {
		if served, ok := r.cfg.Table.ByKey(res); ok && served.Namespaced && res != "events" {
			return res
		}
		return ""
	}
	if strings.HasSuffix(s, classSuffix+string(corev1.ResourceRequestsStorage)) || strings.HasSuffix(s, classSuffix+string(corev1.ResourcePersistentVolumeClaims)) {
		return "persistentvolumeclaims"
	}
	of, requests := strings.CutPrefix(s, requestsPrefix)
	if strings.HasPrefix(of, hugePagesPrefix) || requests && extended(corev1.ResourceName(of)) {
		return "pods"
	}
	return ""
}

// extended resources are those of devices.
func extended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.HasPrefix(s, devicesPrefix) ||
		strings.Contains(s, "/") && !strings.Contains(s, nativeDomain) && !strings.HasPrefix(s, requestsPrefix)
}

// usageOf is what an object of a resource uses of quotas.
func usageOf(res string, obj Object, now time.Time) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	used := corev1.ResourceList{corev1.ResourceName(countPrefix + res): one}
	switch o := obj.(type) {
	case *corev1.Pod:
		if !QuotaPodOver(o, now) {
			usedByPod(o, used)
		}
	case *corev1.Service:
		usedByService(o, used)
	case *corev1.PersistentVolumeClaim:
		usedByClaim(o, used)
	default:
		used[corev1.ResourceName(res)] = one // configmaps, secrets and others that have a short name too
	}
	return used
}

// QuotaPodOver says that a pod is no longer charged for: it ended, or it should have been gone a grace period ago, as on a lost
// node, and must not keep its successor from starting.
func QuotaPodOver(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	over, ok := QuotaPodEnds(pod)
	return ok && now.After(over)
}

// QuotaPodEnds is when a pod that is being deleted will no longer be charged for, whatever it does.
func QuotaPodEnds(pod *corev1.Pod) (time.Time, bool) {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return time.Time{}, false
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second), true
}

func usedByPod(pod *corev1.Pod, used corev1.ResourceList) {
	opts := helper.PodResourcesOptions{UseStatusResources: true}
	containerUsage(helper.PodRequests(pod, opts), helper.PodLimits(pod, opts), used)
	used[corev1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
}

// containerUsage gives requests and limits the names that quotas have for them.
func containerUsage(requests, limits, used corev1.ResourceList) {
	for name, q := range requests {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), hugePagesPrefix):
			used[name], used[requestsPrefix+name] = q, q
		case extended(name):
			used[requestsPrefix+name] = q
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := limits[name]; ok {
			used["limits."+name] = q
		}
	}
}

func usedByService(s *corev1.Service, used corev1.ResourceList) {
	ports, balancers := 0, 0
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(s.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers, ports = 1, len(s.Spec.Ports)
		if allocate := s.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = len(slices.DeleteFunc(slices.Clone(s.Spec.Ports), func(p corev1.ServicePort) bool { return p.NodePort == 0 }))
		}
	}
	used[corev1.ResourceServices] = *resource.NewQuantity(1, resource.DecimalSI)
	used[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(int64(ports), resource.DecimalSI)
	used[corev1.ResourceServicesLoadBalancers] = *resource.NewQuantity(int64(balancers), resource.DecimalSI)
}

func usedByClaim(c *corev1.PersistentVolumeClaim, used corev1.ResourceList) {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	class, named := c.Annotations[corev1.BetaStorageClassAnnotation]
	if !named && c.Spec.StorageClassName != nil {
		class = *c.Spec.StorageClassName
	}
	used[corev1.ResourcePersistentVolumeClaims] = one
	if class != "" {
		used[corev1.ResourceName(class+classSuffix)+corev1.ResourcePersistentVolumeClaims] = one
	}
	size, asked := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if !asked {
		return
	}
	if given, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && given.Cmp(size) > 0 {
		size = given
	}
	size = size.DeepCopy()
	size.RoundUp(0) // whole bytes
	used[corev1.ResourceRequestsStorage] = size
	if class != "" {
		used[corev1.ResourceName(class+classSuffix)+corev1.ResourceRequestsStorage] = size
	}
}

// inScope says whether a quota is about an object: all its scopes have to hold, and only pods and claims know any.
func inScope(q *corev1.ResourceQuota, obj Object) bool {
	for _, scope := range q.Spec.Scopes {
		if !holds(corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists}, obj) {
			return false
		}
	}
	if q.Spec.ScopeSelector == nil {
		return true
	}
	for _, s := range q.Spec.ScopeSelector.MatchExpressions {
		if !holds(s, obj) {
			return false
		}
	}
	return true
}

func holds(s corev1.ScopedResourceSelectorRequirement, obj Object) bool {
	if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok {
		return s.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass && selects(s, attributesClasses(claim))
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return false
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return hasDeadline(pod)
	case corev1.ResourceQuotaScopeNotTerminating:
		return !hasDeadline(pod)
	case corev1.ResourceQuotaScopeBestEffort:
		return pod.Status.QOSClass == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return pod.Status.QOSClass != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		var class []string
		if pod.Spec.PriorityClassName != "" {
			class = append(class, pod.Spec.PriorityClassName)
		}
		return selects(s, class)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Spec.Affinity)
	}
	return false
}

// hasDeadline is what quotas call terminating.
func hasDeadline(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// selects says whether a selector takes any of the values that an object has for its scope.
func selects(s corev1.ScopedResourceSelectorRequirement, values []string) bool {
	op := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[s.Operator]
	r, err := labels.NewRequirement(string(s.ScopeName), op, s.Values)
	if err != nil {
		return false // validation lets none through
	}
	if len(values) == 0 {
		return r.Matches(labels.Set{})
	}
	return slices.ContainsFunc(values, func(v string) bool { return r.Matches(labels.Set{string(s.ScopeName): v}) })
}

// attributesClasses are those that a claim has, had until a moment ago, or will have.
func attributesClasses(c *corev1.PersistentVolumeClaim) (names []string) {
	add := func(name *string) {
		if name != nil && *name != "" && !slices.Contains(names, *name) {
			names = append(names, *name)
		}
	}
	add(c.Spec.VolumeAttributesClassName)
	add(c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	return names
}

func crossesNamespaces(a *corev1.Affinity) bool {
	crosses := func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil }
	weighted := func(t corev1.WeightedPodAffinityTerm) bool { return crosses(t.PodAffinityTerm) }
	if a == nil {
		return false
	}
	if p := a.PodAffinity; p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted)) {
		return true
	}
	p := a.PodAntiAffinity
	return p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, crosses) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, weighted))
}

// unspecified says which of the limited names which containers do not ask for; nil when none. A pod that says what it needs as
// a whole need not say it for its containers.
func unspecified(pod *corev1.Pod, limited []corev1.ResourceName) error {
	if helper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := map[corev1.ResourceName][]string{}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range containers {
			has := corev1.ResourceList{}
			containerUsage(c.Resources.Requests, c.Resources.Limits, has)
			for _, name := range limited {
				if _, ok := has[name]; !ok && mustSpecify[name] {
					missing[name] = append(missing[name], c.Name)
				}
			}
		}
	}
	var words []string
	for name, containers := range missing {
		slices.Sort(containers)
		words = append(words, fmt.Sprintf("%s for: %s", name, strings.Join(containers, ",")))
	}
	if len(words) == 0 {
		return nil
	}
	slices.Sort(words)
	return errorf("must specify %s", strings.Join(words, "; "))
}
