package registry

import (
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podTemplates lets pods of one template share what they have from it: with 20,000 replicas more than half of all memory.
// Its methods are called one at a time.
type podTemplates struct {
	// recent is, by what tells templates apart mostly, the last pod that was new. It may keep some deleted pods alive.
	recent map[podKind]*corev1.Pod
}

type podKind struct {
	namespace, container, image string
	controller                  types.UID
}

// maxTemplates bounds recent: beyond, all are forgotten, and learned again from the pods to come.
const maxTemplates = 500

// share replaces parts of a pod by those of its former state, or of the last pod of its kind, where they are equal.
func (t *podTemplates) share(old, object Object) {
	pod := object.(*corev1.Pod)
	var like *corev1.Pod
	if old != nil {
		like = old.(*corev1.Pod)
	} else if like = t.swap(pod); like == nil {
		return
	}
	shareMeta(&pod.ObjectMeta, &like.ObjectMeta)
	shareSpec(&pod.Spec, &like.Spec)
	if reflect.DeepEqual(pod.Status, like.Status) {
		pod.Status = like.Status
	}
}

// swap returns the last new pod of a pod's kind and puts the pod in its place.
func (t *podTemplates) swap(pod *corev1.Pod) *corev1.Pod {
	kind := podKind{namespace: pod.Namespace}
	if c := pod.Spec.Containers; len(c) > 0 {
		kind.container, kind.image = c[0].Name, c[0].Image
	}
	if c := metav1.GetControllerOfNoCopy(pod); c != nil {
		kind.controller = c.UID
	}
	like := t.recent[kind]
	if t.recent == nil || like == nil && len(t.recent) >= maxTemplates {
		t.recent = make(map[podKind]*corev1.Pod)
	}
	t.recent[kind] = pod
	return like
}

func shareMeta(m, like *metav1.ObjectMeta) {
	if maps.Equal(m.Labels, like.Labels) {
		m.Labels = like.Labels
	}
	if maps.Equal(m.Annotations, like.Annotations) {
		m.Annotations = like.Annotations
	}
	if slices.Equal(m.Finalizers, like.Finalizers) {
		m.Finalizers = like.Finalizers
	}
	shareIfEqual(&m.OwnerReferences, &like.OwnerReferences)
	shareIfEqual(&m.ManagedFields, &like.ManagedFields)
	shareString(&m.Namespace, like.Namespace)
	shareString(&m.GenerateName, like.GenerateName)
}

// shareSpec shares every part of a pod's spec that lies in memory of its own and is the template's; what pods of one
// template differ in (node, host name) is in fields that are not here.
func shareSpec(s, like *corev1.PodSpec) {
	shareIfEqual(&s.Containers, &like.Containers)
	shareIfEqual(&s.InitContainers, &like.InitContainers)
	shareIfEqual(&s.EphemeralContainers, &like.EphemeralContainers)
	shareIfEqual(&s.Volumes, &like.Volumes)
	shareIfEqual(&s.Tolerations, &like.Tolerations)
	shareIfEqual(&s.Affinity, &like.Affinity)
	shareIfEqual(&s.SecurityContext, &like.SecurityContext)
	shareIfEqual(&s.TopologySpreadConstraints, &like.TopologySpreadConstraints)
	shareIfEqual(&s.NodeSelector, &like.NodeSelector)
	shareIfEqual(&s.ImagePullSecrets, &like.ImagePullSecrets)
	shareIfEqual(&s.HostAliases, &like.HostAliases)
	shareIfEqual(&s.DNSConfig, &like.DNSConfig)
	shareIfEqual(&s.TerminationGracePeriodSeconds, &like.TerminationGracePeriodSeconds)
	shareIfEqual(&s.EnableServiceLinks, &like.EnableServiceLinks)
	shareIfEqual(&s.Priority, &like.Priority)
	shareIfEqual(&s.PreemptionPolicy, &like.PreemptionPolicy)
	shareString(&s.NodeName, like.NodeName)
	shareString(&s.SchedulerName, like.SchedulerName)
	shareString(&s.ServiceAccountName, like.ServiceAccountName)
	shareString(&s.DeprecatedServiceAccount, like.DeprecatedServiceAccount)
	shareString((*string)(&s.RestartPolicy), string(like.RestartPolicy))
	shareString((*string)(&s.DNSPolicy), string(like.DNSPolicy))
}

// shareIfEqual compares as the objects are in memory: Quantities that are written differently are not the same.
func shareIfEqual[T any](v, like *T) {
	if reflect.DeepEqual(*v, *like) {
		*v = *like
	}
}

func shareString(s *string, like string) {
	if *s == like {
		*s = like
	}
}
