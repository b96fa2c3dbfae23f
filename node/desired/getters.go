package desired

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
)

// Pods of this node.
func (s *State) Pods() []*corev1.Pod { return list[*corev1.Pod](s, Pods) }

// Pod of this node.
func (s *State) Pod(namespace, name string) (*corev1.Pod, bool) {
	return get[*corev1.Pod](s, Pods, Key(namespace, name))
}

// Services of the cluster.
func (s *State) Services() []*corev1.Service { return list[*corev1.Service](s, Services) }

// Service by name.
func (s *State) Service(namespace, name string) (*corev1.Service, bool) {
	return get[*corev1.Service](s, Services, Key(namespace, name))
}

// EndpointSlices of the cluster.
func (s *State) EndpointSlices() []*discoveryv1.EndpointSlice {
	return list[*discoveryv1.EndpointSlice](s, EndpointSlices)
}

// EndpointSlice by name.
func (s *State) EndpointSlice(namespace, name string) (*discoveryv1.EndpointSlice, bool) {
	return get[*discoveryv1.EndpointSlice](s, EndpointSlices, Key(namespace, name))
}

// ConfigMap that a pod of this node refers to.
func (s *State) ConfigMap(namespace, name string) (*corev1.ConfigMap, bool) {
	return get[*corev1.ConfigMap](s, ConfigMaps, Key(namespace, name))
}

// Secret that a pod of this node refers to.
func (s *State) Secret(namespace, name string) (*corev1.Secret, bool) {
	return get[*corev1.Secret](s, Secrets, Key(namespace, name))
}

// ServiceAccount that a pod of this node runs as.
func (s *State) ServiceAccount(namespace, name string) (*corev1.ServiceAccount, bool) {
	return get[*corev1.ServiceAccount](s, ServiceAccounts, Key(namespace, name))
}

// Nodes of the cluster.
func (s *State) Nodes() []*corev1.Node { return list[*corev1.Node](s, Nodes) }

// Node by name.
func (s *State) Node(name string) (*corev1.Node, bool) { return get[*corev1.Node](s, Nodes, name) }

// Namespace by name.
func (s *State) Namespace(name string) (*corev1.Namespace, bool) {
	return get[*corev1.Namespace](s, Namespaces, name)
}

// RuntimeClass that a pod of this node names.
func (s *State) RuntimeClass(name string) (*nodev1.RuntimeClass, bool) {
	return get[*nodev1.RuntimeClass](s, RuntimeClasses, name)
}

// Claim that a pod of this node has.
func (s *State) Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return get[*corev1.PersistentVolumeClaim](s, Claims, Key(namespace, name))
}

// Volume that a claim of this node's pods is bound to.
func (s *State) Volume(name string) (*corev1.PersistentVolume, bool) {
	return get[*corev1.PersistentVolume](s, Volumes, name)
}

// Policies that select pods of this node.
func (s *State) Policies() []*networkingv1.NetworkPolicy {
	return list[*networkingv1.NetworkPolicy](s, Policies)
}

// Policy by name.
func (s *State) Policy(namespace, name string) (*networkingv1.NetworkPolicy, bool) {
	return get[*networkingv1.NetworkPolicy](s, Policies, Key(namespace, name))
}

// PolicySet is one part of a set that the policies refer to.
func (s *State) PolicySet(set, part string) (*PolicySet, bool) {
	return get[*PolicySet](s, PolicySets, Key(set, part))
}

// PolicySets calls f with all parts of sets, in no particular order.
func (s *State) PolicySets(f func(set, part string, members *PolicySet)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, e := range s.objects[PolicySets] {
		if o, ok := e.object.(*PolicySet); ok {
			set, part, _ := strings.Cut(key, "/")
			f(set, part, o)
		}
	}
}
