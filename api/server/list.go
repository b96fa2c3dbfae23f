package server

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server/internal/quickjson"
)

// tableChunk is how many rows are made at once: enough to be quick, few enough for the memory to stay flat.
const tableChunk = 200

// writeList answers with a list in the form that the client asked for, item by item.
func (s *Server) writeList(rq *request, acc accept, code int, res *ListResult) error {
	rq.writeWarnings()
	a := newAnswer(rq, code, acc.format.mediaType())
	write := s.listWriter(rq, acc, res)
	if acc.format == formatYAML || acc.pretty && acc.format == formatJSON {
		// People read these; they are small, or nobody would.
		compact := getBuffer()
		defer putBuffer(compact)
		err := write(compact, func() error { return nil })
		if err == nil {
			err = restyle(a.buf, acc.format, compact.Bytes())
		}
		if err != nil {
			a.abandon()
			return err
		}
		_ = a.flow()
	} else if err := write(a.buf, a.flow); err != nil {
		a.abandon()
		return err
	}
	_ = a.close() // an error means that the client is gone
	return nil
}

// restyle turns compact JSON into YAML or indented JSON.
func restyle(to *bytes.Buffer, f format, compact []byte) error {
	if f == formatYAML {
		data, err := jsonToYAML(compact)
		to.Write(data)
		return err
	}
	return json.Indent(to, bytes.TrimSuffix(compact, []byte("\n")), "", "  ")
}

// listWriter chooses how to write the list; what it returns calls flow after each piece.
func (s *Server) listWriter(rq *request, acc accept, res *ListResult) func(buf *bytes.Buffer, flow func() error) error {
	lm := metav1.ListMeta{ResourceVersion: res.ResourceVersion, Continue: res.Continue, RemainingItemCount: res.RemainingItemCount}
	switch {
	case acc.isTable():
		return func(buf *bytes.Buffer, flow func() error) error {
			return s.writeTable(rq, acc, lm, res.Items, buf, flow)
		}
	case acc.isPartial() && acc.format == formatProtobuf:
		return func(buf *bytes.Buffer, _ func() error) error {
			return encode(buf, formatProtobuf, false, partialList(acc.as.GroupVersion(), lm, res.Items))
		}
	}
	kind := rq.gv.WithKind(rq.res.ListKind)
	item := func(i int) (runtime.Object, error) { return s.served(rq.res, res.Items[i], rq.gv) }
	own := typeMetaJSON(rq.kind())
	if rq.res.IsCustom() {
		own = nil
	}
	if acc.isPartial() {
		kind, own = *acc.as, nil // these keep their kinds
		item = func(i int) (runtime.Object, error) { return asPartial(res.Items[i], acc.as.GroupVersion()), nil }
	}
	if acc.format == formatProtobuf {
		return func(buf *bytes.Buffer, flow func() error) error {
			return writeProtoList(buf, kind, lm, len(res.Items), item, flow)
		}
	}
	return func(buf *bytes.Buffer, flow func() error) error {
		return writeJSONList(buf, kind, lm, len(res.Items), item, own, flow)
	}
}

func writeListHead(buf *bytes.Buffer, kind schema.GroupVersionKind, lm metav1.ListMeta) error {
	meta, err := json.Marshal(lm)
	if err != nil {
		return err
	}
	api, k := kind.ToAPIVersionAndKind()
	buf.WriteString(`{"kind":"` + k + `","apiVersion":"` + api + `","metadata":`)
	buf.Write(meta)
	return nil
}

// typeMetaJSON is how an object of a kind begins in JSON.
func typeMetaJSON(kind schema.GroupVersionKind) []byte {
	api, k := kind.ToAPIVersionAndKind()
	return []byte(`{"kind":"` + k + `","apiVersion":"` + api + `",`)
}

// writeJSONList writes a list. Items of typed lists have no kind of their own: own, how they would begin with one, is cut
// off again, which is cheaper than a copy of each (shared) object without it.
func writeJSONList(buf *bytes.Buffer, kind schema.GroupVersionKind, lm metav1.ListMeta, n int, item func(int) (runtime.Object, error), own []byte, flow func() error) error {
	if err := writeListHead(buf, kind, lm); err != nil {
		return err
	}
	buf.WriteString(`,"items":[`)
	var memo quickjson.Memo
	for i := range n {
		if i > 0 {
			buf.WriteByte(',')
		}
		obj, err := item(i)
		if err != nil {
			return err
		}
		if err := appendItem(buf, obj, own, &memo); err != nil {
			return err
		}
		if err := flow(); err != nil {
			return err
		}
	}
	buf.WriteString("]}\n")
	return flow()
}

func appendItem(buf *bytes.Buffer, obj runtime.Object, own []byte, memo *quickjson.Memo) error {
	if own != nil && obj.GetObjectKind().GroupVersionKind().Empty() {
		own = nil
	}
	start := buf.Len()
	if err := appendListed(buf, obj, memo); err != nil || own == nil {
		return err
	}
	written := buf.Bytes()[start:]
	if !bytes.HasPrefix(written, own) {
		// An object with nothing but its kind, or with another one.
		buf.Truncate(start)
		return appendObject(buf, stamped(obj, schema.GroupVersionKind{}))
	}
	n := copy(written[1:], written[len(own):])
	buf.Truncate(start + 1 + n)
	return nil
}

// writeProtoList writes a list whose fields are metadata = 1 and items = 2, as those of all Kubernetes lists are. The
// length comes first in protobuf, so items are measured before they are written; converted ones are kept meanwhile.
func writeProtoList(buf *bytes.Buffer, kind schema.GroupVersionKind, lm metav1.ListMeta, n int, item func(int) (runtime.Object, error), flow func() error) error {
	items, sizes := make([]protoObject, n), make([]int, n)
	size := fieldSize(lm.Size())
	for i := range n {
		obj, err := item(i)
		if err != nil {
			return err
		}
		p, ok := obj.(protoObject)
		if !ok {
			return errNotAcceptable(mediaTypes[formatJSON], mediaTypes[formatYAML])
		}
		items[i], sizes[i] = p, p.Size()
		size += fieldSize(sizes[i])
	}
	writeUnknownHead(buf, kind, size)
	if err := writeProtoField(buf, 1, &lm, lm.Size()); err != nil {
		return err
	}
	for i, p := range items {
		if err := writeProtoField(buf, 2, p, sizes[i]); err != nil {
			return err
		}
		if err := flow(); err != nil {
			return err
		}
	}
	buf.Write(unknownTail)
	return flow()
}

func writeProtoField(buf *bytes.Buffer, field int, p protoObject, size int) error {
	buf.WriteByte(byte(field<<3 | 2))
	buf.Write(binary.AppendUvarint(buf.AvailableBuffer(), uint64(size)))
	return writeProto(buf, p, size)
}

// fieldSize is the size of a length-delimited field (number below 16).
func fieldSize(n int) int {
	size := 1 + 1 + n
	for v := n; v >= 0x80; v >>= 7 {
		size++
	}
	return size
}

// partialList is a list of metadata; the two versions number their fields differently.
func partialList(gv schema.GroupVersion, lm metav1.ListMeta, items []resource.Object) runtime.Object {
	list := make([]metav1.PartialObjectMetadata, len(items))
	for i, obj := range items {
		list[i] = *asPartial(obj, gv)
	}
	var out runtime.Object = &metav1.PartialObjectMetadataList{ListMeta: lm, Items: list}
	if gv == metav1beta1.SchemeGroupVersion {
		out = &metav1beta1.PartialObjectMetadataList{ListMeta: lm, Items: list}
	}
	out.GetObjectKind().SetGroupVersionKind(gv.WithKind("PartialObjectMetadataList"))
	return out
}

// writeTable writes the columns and then the rows, some at a time.
func (s *Server) writeTable(rq *request, acc accept, lm metav1.ListMeta, items []resource.Object, buf *bytes.Buffer, flow func() error) error {
	o, err := rq.tableOptions()
	if err != nil {
		return err
	}
	head, err := s.table(rq, acc, o, nil)
	if err != nil {
		return err
	}
	if err := writeListHead(buf, acc.as.GroupVersion().WithKind("Table"), lm); err != nil {
		return err
	}
	buf.WriteString(`,"columnDefinitions":`)
	if err := appendObject(buf, head.ColumnDefinitions); err != nil {
		return err
	}
	buf.WriteString(`,"rows":[`)
	o.NoHeaders = true
	first := true
	for part := range slices.Chunk(items, tableChunk) {
		t, err := s.table(rq, acc, o, part)
		if err != nil {
			return err
		}
		for i := range t.Rows {
			if !first {
				buf.WriteByte(',')
			}
			first = false
			if err := appendRow(buf, &t.Rows[i]); err != nil {
				return err
			}
			if err := flow(); err != nil {
				return err
			}
		}
	}
	buf.WriteString("]}\n")
	return flow()
}

// appendRow writes a row; its object directly, since RawExtension would encode it twice.
func appendRow(buf *bytes.Buffer, row *metav1.TableRow) error {
	buf.WriteString(`{"cells":`)
	if err := appendObject(buf, row.Cells); err != nil {
		return err
	}
	if len(row.Conditions) > 0 {
		buf.WriteString(`,"conditions":`)
		if err := appendObject(buf, row.Conditions); err != nil {
			return err
		}
	}
	buf.WriteString(`,"object":`)
	if row.Object.Object == nil {
		buf.WriteString("null}")
		return nil
	}
	if err := appendObject(buf, row.Object.Object); err != nil {
		return err
	}
	buf.WriteByte('}')
	return nil
}
