package server

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server/internal/quickjson"
)

// protoMagic begins every protobuf body of Kubernetes; a runtime.Unknown follows.
var protoMagic = []byte{0x6b, 0x38, 0x73, 0x00}

// protoObject is what the generated types offer.
type protoObject interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// stamped returns obj with its kind and version set, or cleared for gvk == {} as items of typed lists have it. Objects of
// the backend are shared, so it is a shallow copy where something has to change.
func stamped(obj runtime.Object, gvk schema.GroupVersionKind) runtime.Object {
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return stampedCustom(u, gvk)
	}
	v := reflect.ValueOf(obj).Elem()
	c := reflect.New(v.Type())
	c.Elem().Set(v)
	out := c.Interface().(runtime.Object)
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

// stampedCustom is stamped for an object of a custom kind, which keeps its kind in lists, too.
func stampedCustom(u *unstructured.Unstructured, gvk schema.GroupVersionKind) runtime.Object {
	if gvk.Empty() {
		return u
	}
	out := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
	out.SetGroupVersionKind(gvk)
	return out
}

// versioned returns obj in a served version, with its kind and version set.
func (s *Server) versioned(r *resource.Resource, obj runtime.Object, gv schema.GroupVersion) (runtime.Object, error) {
	out, err := s.served(r, obj, gv)
	if err != nil {
		return nil, err
	}
	return stamped(out, gv.WithKind(r.Kind)), nil
}

// served converts an object of the backend to a served version; kind and version are as they happen to be.
func (s *Server) served(r *resource.Resource, obj runtime.Object, gv schema.GroupVersion) (runtime.Object, error) {
	if gv == r.Storage && !r.IsCustom() { // custom ones may have been stored in another version, or before there were defaults
		return obj, nil
	}
	o, ok := obj.(resource.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object of %s", obj, r.Key())
	}
	return s.Table.FromStorage(o, gv)
}

// encode writes one object, its kind and version being set.
func encode(buf *bytes.Buffer, f format, pretty bool, obj runtime.Object) error {
	switch {
	case f == formatProtobuf:
		gvk := obj.GetObjectKind().GroupVersionKind()
		p, ok := obj.(protoObject)
		if !ok {
			return errNotAcceptable(mediaTypes[formatJSON], mediaTypes[formatYAML])
		}
		size := p.Size()
		writeUnknownHead(buf, gvk, size)
		if err := writeProto(buf, p, size); err != nil {
			return err
		}
		buf.Write(unknownTail)
		return nil
	case f == formatYAML:
		data, err := json.Marshal(obj)
		if err != nil {
			return err
		}
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
		buf.Write(data)
		return nil
	case pretty:
		data, err := json.MarshalIndent(obj, "", "  ")
		if err != nil {
			return err
		}
		buf.Write(data)
		return nil
	}
	return encodeJSON(buf, obj)
}

// encodeJSON writes compact JSON and a newline.
func encodeJSON(buf *bytes.Buffer, v any) error {
	if err := appendObject(buf, v); err != nil {
		return err
	}
	return buf.WriteByte('\n')
}

// appendObject writes compact JSON.
func appendObject(buf *bytes.Buffer, v any) error { return appendListed(buf, v, nil) }

// appendListed writes one of many objects as compact JSON.
func appendListed(buf *bytes.Buffer, v any, memo *quickjson.Memo) error {
	buf.Grow(4 << 10) // most objects fit: then the encoder writes into the buffer itself
	b, err := quickjson.Append(buf.AvailableBuffer(), v, memo)
	buf.Write(b)
	return err
}

// writeProto appends a message of known size.
func writeProto(buf *bytes.Buffer, p protoObject, size int) error {
	buf.Grow(size)
	b := buf.AvailableBuffer()[:size]
	if _, err := p.MarshalToSizedBuffer(b); err != nil {
		return err
	}
	buf.Write(b)
	return nil
}

// unknownTail are the (empty) contentEncoding and contentType of a runtime.Unknown.
var unknownTail = []byte{0x1a, 0x00, 0x22, 0x00}

// writeUnknownHead writes the magic number and a runtime.Unknown up to the rawSize bytes of its content.
func writeUnknownHead(buf *bytes.Buffer, gvk schema.GroupVersionKind, rawSize int) {
	api, kind := gvk.ToAPIVersionAndKind()
	tm := appendString(appendString(nil, 1, api), 2, kind)
	head := append([]byte(nil), protoMagic...)
	head = appendString(head, 1, string(tm))
	head = append(head, 2<<3|2)
	head = binary.AppendUvarint(head, uint64(rawSize))
	buf.Write(head)
}

// appendString appends a length-delimited protobuf field.
func appendString(b []byte, field int, s string) []byte {
	b = append(b, byte(field<<3|2))
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// writeObject answers with one object, its kind and version being set.
func (s *Server) writeObject(rq *request, acc accept, code int, obj runtime.Object) error {
	rq.writeWarnings()
	a := newAnswer(rq, code, acc.format.mediaType())
	buf := getBuffer()
	defer putBuffer(buf)
	if err := encode(buf, acc.format, acc.pretty, obj); err != nil {
		a.abandon()
		return err
	}
	if _, err := a.Write(buf.Bytes()); err != nil {
		a.abandon()
		return nil // the client is gone
	}
	_ = a.close()
	return nil
}

// asPartial is the object's metadata as the client asked for it.
func asPartial(obj metav1.Object, gv schema.GroupVersion) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{}
	if m, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if om, ok := m.GetObjectMeta().(*metav1.ObjectMeta); ok {
			p.ObjectMeta = *om
		}
	} else {
		p = meta.AsPartialObjectMetadata(obj)
	}
	p.SetGroupVersionKind(gv.WithKind("PartialObjectMetadata"))
	return p
}

func jsonToYAML(data []byte) ([]byte, error) { return yaml.JSONToYAML(data) }
