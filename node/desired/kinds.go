package desired

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Resource names a kind as the API's paths do.
type Resource string

// The resources an agent is told about.
const (
	Pods            Resource = "pods"
	Services        Resource = "services"
	EndpointSlices  Resource = "endpointslices"
	ConfigMaps      Resource = "configmaps"
	Secrets         Resource = "secrets"
	ServiceAccounts Resource = "serviceaccounts"
	Nodes           Resource = "nodes"
	Namespaces      Resource = "namespaces"
	RuntimeClasses  Resource = "runtimeclasses"
	Claims          Resource = "persistentvolumeclaims"
	Volumes         Resource = "persistentvolumes"
	Policies        Resource = "networkpolicies"
	PolicySets      Resource = "policysets"
)

// Object is any of the kinds above. k8s.io/api's types implement it, and PolicySet.
type Object interface {
	metav1.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// constructors makes an empty object of each resource, for reading from disk and for the session's decoder.
var constructors = map[Resource]func() Object{
	Pods:            func() Object { return &corev1.Pod{} },
	Services:        func() Object { return &corev1.Service{} },
	EndpointSlices:  func() Object { return &discoveryv1.EndpointSlice{} },
	ConfigMaps:      func() Object { return &corev1.ConfigMap{} },
	Secrets:         func() Object { return &corev1.Secret{} },
	ServiceAccounts: func() Object { return &corev1.ServiceAccount{} },
	Nodes:           func() Object { return &corev1.Node{} },
	Namespaces:      func() Object { return &corev1.Namespace{} },
	RuntimeClasses:  func() Object { return &nodev1.RuntimeClass{} },
	Claims:          func() Object { return &corev1.PersistentVolumeClaim{} },
	Volumes:         func() Object { return &corev1.PersistentVolume{} },
	Policies:        func() Object { return &networkingv1.NetworkPolicy{} },
	PolicySets:      func() Object { return &PolicySet{} },
}

// New makes an empty object of a resource; nil when the resource is not one an agent knows.
func New(r Resource) Object {
	if make, ok := constructors[r.bare()]; ok {
		return make()
	}
	return nil
}

// bare is the resource without its group: the wire says endpointslices.discovery.k8s.io.
func (r Resource) bare() Resource {
	name, _, _ := strings.Cut(string(r), ".")
	return Resource(name)
}

// Key names an object within its resource: namespace/name, or name alone.
func Key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// Change is one object that came, changed or (Object nil) went.
type Change struct {
	Resource Resource
	Key      string
	Object   Object
	Revision uint64
}

// Ref names an object in a poke.
type Ref struct {
	Resource Resource
	Key      string
}
