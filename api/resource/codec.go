package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// envelope begins every stored object: Kubernetes' own protobuf envelope (runtime.Unknown), so that the bytes say which
// version they hold and a later storage version can still read them.
var envelope = []byte{'k', '8', 's', 0}

// protoMessage is what generated Kubernetes types offer.
type protoMessage interface {
	Size() int
	MarshalTo([]byte) (int, error)
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// storageKind is what the codec needs to know of one kind.
type storageKind struct {
	gvk   schema.GroupVersionKind
	typ   reflect.Type
	types runtime.TypeMeta
}

func newStorageKind(gvk schema.GroupVersionKind) storageKind {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	return storageKind{
		gvk: gvk, typ: legacyscheme.Scheme.AllKnownTypes()[gvk],
		types: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind},
	}
}

func mustNew(gvk schema.GroupVersionKind) runtime.Object {
	obj, err := legacyscheme.Scheme.New(gvk)
	if err != nil {
		panic(err) // a kind of this package that Kubernetes does not know: seen by every test
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

// StorageCodec turns objects of the storage version into bytes and back. Its methods are those of a store's codec.
type StorageCodec struct{ table *Table }

// StorageCodec of this table.
func (t *Table) StorageCodec() StorageCodec { return StorageCodec{t} }

// Encode gives the bytes of an object of the resource ("deployments.apps") in its storage version.
func (c StorageCodec) Encode(resource string, obj Object) ([]byte, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return json.Marshal(u.Object)
	}
	kind, ok := c.table.storageOf[resource]
	if !ok {
		return nil, fmt.Errorf("no kind is stored as %q", resource)
	}
	if t := reflect.TypeOf(obj); t.Kind() != reflect.Pointer || t.Elem() != kind.typ {
		return nil, fmt.Errorf("%s holds %s, not %T", resource, kind.gvk, obj)
	}
	message, ok := obj.(protoMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	size := message.Size()
	unknown := runtime.Unknown{TypeMeta: kind.types}
	// The envelope's own fields and the length of the nested message.
	data := make([]byte, len(envelope)+unknown.Size()+1+varintSize(size)+size)
	copy(data, envelope)
	n, err := unknown.NestedMarshalTo(data[len(envelope):], message, uint64(size))
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", resource, err)
	}
	return data[:len(envelope)+n], nil
}

// Decode reads what Encode wrote; the object does not share data's memory. Objects of custom kinds are JSON and are read
// without their definitions, which are objects of the same store.
func (c StorageCodec) Decode(resource string, data []byte) (Object, error) {
	if len(data) > 0 && data[0] == '{' {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(data); err != nil {
			return nil, fmt.Errorf("stored object of %s is damaged: %w", resource, err)
		}
		return u, nil
	}
	kind, ok := c.table.storageOf[resource]
	if !ok {
		return nil, fmt.Errorf("no kind is stored as %q", resource)
	}
	if !bytes.HasPrefix(data, envelope) {
		return nil, errors.New("not a stored object: the envelope is missing")
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(data[len(envelope):]); err != nil {
		return nil, fmt.Errorf("stored object of %s is damaged: %w", resource, err)
	}
	if len(unknown.Raw) == 0 {
		// Even an empty object has bytes for its metadata.
		return nil, fmt.Errorf("stored object of %s is cut off", resource)
	}
	gvk := schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind)
	var obj runtime.Object
	if gvk == kind.gvk {
		obj = reflect.New(kind.typ).Interface().(runtime.Object)
	} else {
		var err error
		if obj, err = c.otherVersion(kind, gvk); err != nil {
			return nil, fmt.Errorf("stored object of %s: %w", resource, err)
		}
	}
	message, ok := obj.(protoMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	if err := message.Unmarshal(unknown.Raw); err != nil {
		return nil, fmt.Errorf("stored object of %s is damaged: %w", resource, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if gvk != kind.gvk {
		return c.table.ToStorage(obj)
	}
	settle(obj)
	return obj.(Object), nil
}

// otherVersion makes room for an object that was written when another version was the storage version.
func (c StorageCodec) otherVersion(kind storageKind, gvk schema.GroupVersionKind) (runtime.Object, error) {
	r, ok := c.table.builtin.byKind[gvk]
	if !ok || r.GroupVersionKind() != kind.gvk {
		return nil, fmt.Errorf("%s is not a version of %s", gvk, kind.gvk)
	}
	return c.table.scheme.New(gvk)
}

// settle makes an object safe to share: a Quantity writes its text into itself when it is first asked for its protobuf size,
// and two readers that encode one object would race for that.
func settle(obj runtime.Object) {
	if message, ok := obj.(protoMessage); ok {
		message.Size()
	}
}

func varintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
