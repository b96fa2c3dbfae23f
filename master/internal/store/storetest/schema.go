package storetest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/store"
)

// The resources of Schema. Events are volatile; pods have the index ByNode; nodes belong to the cluster.
const (
	Pods   = "pods"
	Maps   = "configmaps"
	Nodes  = "nodes"
	Events = "events"

	ByNode = "node"
	// ByLabel has an entry for each key of a pod's labels, so none or several.
	ByLabel = "label"
)

// Schema is what stores under test keep.
func Schema() store.Schema {
	return store.Schema{
		Codec:    codec{},
		Volatile: map[string]bool{Events: true},
		Indexes: map[string]map[string]store.Index{Pods: {
			ByNode: func(o store.Object) []string {
				if node := o.(*corev1.Pod).Spec.NodeName; node != "" {
					return []string{node}
				}
				return nil
			},
			ByLabel: func(o store.Object) []string {
				var out []string
				for label := range o.GetLabels() {
					out = append(out, label)
				}
				return out
			},
		}},
	}
}

type protoObject interface {
	store.Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// codec writes Kubernetes' protobuf, as the real one does.
type codec struct{}

func (codec) Encode(_ string, object store.Object) ([]byte, error) {
	p, ok := object.(protoObject)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", object)
	}
	return p.Marshal()
}

func (codec) Decode(resource string, data []byte) (store.Object, error) {
	var object protoObject
	switch resource {
	case Pods:
		object = new(corev1.Pod)
	case Maps:
		object = new(corev1.ConfigMap)
	case Nodes:
		object = new(corev1.Node)
	case Events:
		object = new(corev1.Event)
	default:
		return nil, fmt.Errorf("unknown resource %q", resource)
	}
	if err := object.Unmarshal(data); err != nil {
		return nil, err
	}
	return object, nil
}

// Key is short for store.Key.
func Key(resource, namespace, name string) store.Key {
	return store.Key{Resource: resource, Namespace: namespace, Name: name}
}

func meta(key store.Key) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, UID: types.UID("uid-" + key.Namespace + "-" + key.Name)}
}

// New makes an object for a key, with value in a field of its kind: a pod's node, a config map's data, a node's provider
// or an event's message.
func New(key store.Key, value string) store.Object {
	switch key.Resource {
	case Pods:
		return &corev1.Pod{ObjectMeta: meta(key), Spec: corev1.PodSpec{NodeName: value}}
	case Maps:
		return &corev1.ConfigMap{ObjectMeta: meta(key), Data: map[string]string{"value": value}}
	case Nodes:
		return &corev1.Node{ObjectMeta: meta(key), Spec: corev1.NodeSpec{ProviderID: value}}
	default:
		return &corev1.Event{ObjectMeta: meta(key), Message: value}
	}
}

// Value returns what New has put in.
func Value(object store.Object) string {
	switch o := object.(type) {
	case *corev1.Pod:
		return o.Spec.NodeName
	case *corev1.ConfigMap:
		return o.Data["value"]
	case *corev1.Node:
		return o.Spec.ProviderID
	case *corev1.Event:
		return o.Message
	}
	return ""
}

// Set puts an object for a key, new or not, and returns its resourceVersion.
func Set(tx store.Tx, key store.Key, value string) (string, error) {
	object := New(key, value)
	current, err := tx.Get(key)
	if err != nil {
		err = tx.Create(key, object)
	} else {
		object.SetUID(current.GetUID())
		object.SetResourceVersion(current.GetResourceVersion())
		err = tx.Put(key, object)
	}
	return object.GetResourceVersion(), err
}
