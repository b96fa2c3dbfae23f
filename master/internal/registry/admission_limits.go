package registry

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	helper "k8s.io/component-helpers/resource"
)

// limitAnnotation tells what the namespace's LimitRanges put into a pod.
const limitAnnotation = "kubernetes.io/limit-ranger"

// What Kubernetes' LimitRanger admission does is done in two places, as there: defaults come before everything else that
// is made of a pod's resources (its QoS class), and are asked for again by a resize; whether limits hold is checked in the
// transaction that writes.

// defaultLimits fills in what the namespace's LimitRanges give to containers that ask for nothing.
func defaultLimits(v Viewer, pod *corev1.Pod) {
	for limits := range List[*corev1.LimitRange](v, pod.Namespace) {
		var said []string
		defaults := containerDefaults(limits)
		for i := range pod.Spec.Containers {
			said = append(said, fillResources(&pod.Spec.Containers[i], defaults, "container")...)
		}
		for i := range pod.Spec.InitContainers {
			said = append(said, fillResources(&pod.Spec.InitContainers[i], defaults, "init container")...)
		}
		if len(said) == 0 {
			continue
		}
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limitAnnotation] = "LimitRanger plugin set: " + strings.Join(said, "; ")
	}
}

// limited says that LimitRanges have filled something in. A controller's pod is made of a template that was found valid, but what it asks
// for may be more than a limit that it did not have then.
func limited(pod *corev1.Pod) bool { return pod.Annotations[limitAnnotation] != "" }

func containerDefaults(limits *corev1.LimitRange) corev1.ResourceRequirements {
	out := corev1.ResourceRequirements{Limits: corev1.ResourceList{}, Requests: corev1.ResourceList{}}
	for _, item := range limits.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, q := range item.DefaultRequest {
			out.Requests[name] = q
		}
		for name, q := range item.Default {
			out.Limits[name] = q
		}
	}
	return out
}

// fillResources returns the annotation's words about what it set.
func fillResources(c *corev1.Container, defaults corev1.ResourceRequirements, kind string) (said []string) {
	fill := func(have *corev1.ResourceList, defaults corev1.ResourceList, what string) {
		var set []string
		for name, q := range defaults {
			if _, ok := (*have)[name]; ok {
				continue
			}
			if *have == nil {
				*have = corev1.ResourceList{}
			}
			(*have)[name] = q.DeepCopy()
			set = append(set, string(name))
		}
		if len(set) > 0 {
			slices.Sort(set)
			said = append(said, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), what, kind, c.Name))
		}
	}
	fill(&c.Resources.Requests, defaults.Requests, "request")
	fill(&c.Resources.Limits, defaults.Limits, "limit")
	return said
}

// admitLimits refuses new pods, resized ones and claims that break their namespace's LimitRanges. old is nil on creation.
func admitLimits(v Viewer, obj, old Object) error {
	if old != nil && (old.GetDeletionTimestamp() != nil || !limitsConcern(obj, old)) {
		return nil
	}
	for limits := range List[*corev1.LimitRange](v, obj.GetNamespace()) {
		var errs []error
		kind := ""
		switch o := obj.(type) {
		case *corev1.Pod:
			kind, errs = "pods", podLimitErrors(limits, o)
		case *corev1.PersistentVolumeClaim:
			kind, errs = "persistentvolumeclaims", claimLimitErrors(limits, o)
		}
		if len(errs) > 0 {
			return apierrors.NewForbidden(corev1.Resource(kind), obj.GetName(), utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// limitsConcern says whether a change is one that limits are about: nothing but a resize changes the resources of a pod.
func limitsConcern(obj, old Object) bool {
	switch o := obj.(type) {
	case *corev1.Pod:
		before := old.(*corev1.Pod)
		return o.Generation != before.Generation && !sameResources(&o.Spec, &before.Spec)
	case *corev1.PersistentVolumeClaim:
		return !apiequality.Semantic.DeepEqual(o.Spec, old.(*corev1.PersistentVolumeClaim).Spec)
	}
	return false
}

func sameResources(a, b *corev1.PodSpec) bool {
	same := func(a, b corev1.Container) bool { return apiequality.Semantic.DeepEqual(a.Resources, b.Resources) }
	return apiequality.Semantic.DeepEqual(a.Resources, b.Resources) &&
		slices.EqualFunc(a.Containers, b.Containers, same) && slices.EqualFunc(a.InitContainers, b.InitContainers, same)
}

func podLimitErrors(limits *corev1.LimitRange, pod *corev1.Pod) (errs []error) {
	for _, item := range limits.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for _, c := range containers {
					errs = append(errs, itemErrors(item, c.Resources.Requests, c.Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			// What a RuntimeClass adds is not the pod's own.
			opts := helper.PodResourcesOptions{ExcludeOverhead: true}
			errs = append(errs, itemErrors(item, helper.PodRequests(pod, opts), helper.PodLimits(pod, opts))...)
		}
	}
	return errs
}

func itemErrors(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	each := func(list corev1.ResourceList, check func(kind string, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error) {
		for _, name := range sortedNames(list) {
			if err := check(string(item.Type), name, list[name], requests, limits); err != nil {
				errs = append(errs, err)
			}
		}
	}
	each(item.Min, checkMin)
	each(item.Max, checkMax)
	each(item.MaxLimitRequestRatio, checkRatio)
	return errs
}

// claimLimitErrors: claims have requests only.
func claimLimitErrors(limits *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) (errs []error) {
	requests := claim.Spec.Resources.Requests
	for _, item := range limits.Spec.Limits {
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, name := range sortedNames(item.Min) {
			if err := checkMin(string(item.Type), name, item.Min[name], requests, nil); err != nil {
				errs = append(errs, err)
			}
		}
		for _, name := range sortedNames(item.Max) {
			if err := checkMaxRequest(string(item.Type), name, item.Max[name], requests); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

func checkMin(kind string, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !asked:
		return errorf("minimum %s usage per %s is %s.  No request is specified", name, kind, bound.String())
	case below(request, bound):
		return errorf("minimum %s usage per %s is %s, but request is %s", name, kind, bound.String(), request.String())
	case limited && below(limit, bound):
		return errorf("minimum %s usage per %s is %s, but limit is %s", name, kind, bound.String(), limit.String())
	}
	return nil
}

func checkMax(kind string, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return errorf("maximum %s usage per %s is %s.  No limit is specified", name, kind, bound.String())
	case below(bound, limit):
		return errorf("maximum %s usage per %s is %s, but limit is %s", name, kind, bound.String(), limit.String())
	case asked && below(bound, request):
		return errorf("maximum %s usage per %s is %s, but request is %s", name, kind, bound.String(), request.String())
	}
	return nil
}

func checkMaxRequest(kind string, name corev1.ResourceName, bound resource.Quantity, requests corev1.ResourceList) error {
	request, asked := requests[name]
	switch {
	case !asked:
		return errorf("maximum %s usage per %s is %s.  No request is specified", name, kind, bound.String())
	case below(bound, request):
		return errorf("maximum %s usage per %s is %s, but request is %s", name, kind, bound.String(), request.String())
	}
	return nil
}

func checkRatio(kind string, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !asked || request.IsZero():
		return errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, kind, bound.String())
	case !limited || limit.IsZero():
		return errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, kind, bound.String())
	}
	if ratio := number(limit) / number(request); ratio > number(bound) {
		return errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, kind, bound.String(), ratio)
	}
	return nil
}

// below compares as Kubernetes does: by the thousandth, where the amounts are small enough to be counted so.
func below(a, b resource.Quantity) bool {
	if a.Value() <= resource.MaxMilliValue && b.Value() <= resource.MaxMilliValue {
		return a.MilliValue() < b.MilliValue()
	}
	return a.Value() < b.Value()
}

func number(q resource.Quantity) float64 {
	if q.Value() <= resource.MaxMilliValue {
		return float64(q.MilliValue()) / 1000
	}
	return float64(q.Value())
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
