package server

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/whalepod/whalepod/api/resource"
)

// minWatch is the shortest life of a watch that names none; the real one is random up to twice that, so that watches
// do not all end at once.
const minWatch = 30 * time.Minute

// watchStream writes the events of one watch.
type watchStream struct {
	s     *Server
	rq    *request
	acc   accept
	table resource.TableOptions
	// form names the representation: watchers of the same form share encoded objects.
	form eventForm
	send func(frame []byte) error
	// flush sends what send has gathered.
	flush func() error
	frame []byte
}

// watchEvents serves a watch: initial objects, then events and bookmarks until the client, the time or the server ends it.
func (s *Server) watchEvents(rq *request) error {
	acc, err := negotiateStream(rq)
	if err != nil {
		return err
	}
	o, err := rq.listOptions()
	if err != nil {
		return err
	}
	st := &watchStream{s: s, rq: rq, acc: acc}
	st.form = eventForm{format: acc.format, gv: rq.gv}
	if acc.as != nil {
		st.form.as = *acc.as
	}
	if acc.isTable() {
		if st.table, err = rq.tableOptions(); err != nil {
			return err
		}
		st.form.include = st.table.IncludeObject
	}
	ctx, cancel := context.WithTimeout(rq.req.Context(), watchLife(o))
	defer cancel()
	defer endWith(rq.res.Gone(), cancel)()
	w, err := s.Backend.Watch(ctx, rq.res, WatchQuery{Namespace: rq.namespace, Labels: o.LabelSelector, Fields: o.FieldSelector,
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch, SendInitialEvents: o.SendInitialEvents})
	if err != nil {
		return err
	}
	defer w.Close()
	if isWebSocket(rq.req) {
		return st.serveWebSocket(ctx, w, o)
	}
	st.startHTTP()
	st.run(ctx, w, o)
	return nil
}

func watchLife(o *internalversion.ListOptions) time.Duration {
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		return time.Duration(*o.TimeoutSeconds) * time.Second
	}
	return minWatch + rand.N(minWatch)
}

// startHTTP begins the chunked answer at once, so that the client knows its watch stands.
func (st *watchStream) startHTTP() {
	rq := st.rq
	ct := st.acc.format.mediaType()
	if st.acc.format != formatJSON {
		ct += ";stream=watch"
	}
	h := rq.out.Header()
	h.Set("Content-Type", ct)
	h.Set("Cache-Control", "no-cache, private")
	rq.writeWarnings()
	rq.out.WriteHeader(http.StatusOK)
	ctl := http.NewResponseController(rq.out.ResponseWriter)
	st.flush = ctl.Flush
	st.send = func(frame []byte) error {
		_, err := rq.out.Write(frame)
		return err
	}
	_ = st.flush()
}

// run hands out events until there is a reason to end. Errors of sending mean that the client is gone.
func (st *watchStream) run(ctx context.Context, w Watch, o *internalversion.ListOptions) {
	items, end := w.Initial()
	for _, obj := range items {
		if st.event(watch.Added, obj, false) != nil {
			return
		}
	}
	if end && o.AllowWatchBookmarks {
		if st.bookmark(w.ResourceVersion(), true) != nil {
			return
		}
	}
	if len(items) > 0 || end {
		if st.flush() != nil {
			return
		}
	}
	for ctx.Err() == nil {
		// One context for a whole interval: making one for each event would cost a timer each.
		turn, cancel := context.WithTimeout(ctx, BookmarkInterval)
		err := st.events(turn, w)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errSend):
			return
		case errors.Is(err, context.DeadlineExceeded):
			if o.AllowWatchBookmarks && (st.bookmark(w.ResourceVersion(), false) != nil || st.flush() != nil) {
				return
			}
		default:
			st.fail(err)
			return
		}
	}
}

// errSend says that the client cannot be reached.
var errSend = errors.New("watch not sent")

// events hands out events until the context ends or the watch fails.
func (st *watchStream) events(ctx context.Context, w Watch) error {
	for {
		events, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if st.event(watch.EventType(e.Type), e.Object, true) != nil {
				return errSend
			}
		}
		if st.flush() != nil {
			return errSend
		}
	}
}

// event sends one event; shared says that other watchers are likely to send the same object now.
func (st *watchStream) event(typ watch.EventType, obj resource.Object, shared bool) error {
	var data []byte
	var err error
	if shared {
		data, err = st.s.events.encoded(eventKey{obj: obj, form: st.form}, func() ([]byte, error) { return st.encode(obj) })
	} else {
		data, err = st.encode(obj)
	}
	if err != nil {
		st.s.log.Error("watch event not encoded", "resource", st.rq.res.Key(), "name", obj.GetName(), "err", err)
		st.fail(err)
		return err
	}
	if err := st.write(typ, data); err != nil {
		return err
	}
	// Only the first event of a Table names the columns.
	if st.acc.isTable() {
		st.form.noHeaders, st.table.NoHeaders = true, true
	}
	return nil
}

// encode makes the bytes of one object as this watch wants it.
func (st *watchStream) encode(obj resource.Object) ([]byte, error) {
	var out runtime.Object
	var err error
	switch {
	case st.acc.isTable():
		var t *metav1.Table
		if t, err = st.s.table(st.rq, st.acc, st.table, []resource.Object{obj}); err == nil {
			t.ResourceVersion = obj.GetResourceVersion()
			out = t
		}
	case st.acc.isPartial():
		out = asPartial(obj, st.acc.as.GroupVersion())
	default:
		out, err = st.s.versioned(st.rq.res, obj, st.rq.gv)
	}
	if err != nil {
		return nil, err
	}
	return encodeBytes(st.acc.format, out)
}

// encodeBytes is encode into memory of its own, without the newline.
func encodeBytes(f format, obj runtime.Object) ([]byte, error) {
	buf := getBuffer()
	defer putBuffer(buf)
	if err := encode(buf, f, false, obj); err != nil {
		return nil, err
	}
	data := buf.Bytes()
	if f == formatJSON {
		data = data[:len(data)-1]
	}
	return append(make([]byte, 0, len(data)), data...), nil
}

// bookmark tells up to where the client has seen everything.
func (st *watchStream) bookmark(revision string, initialEnd bool) error {
	obj := st.rq.res.New()
	obj.SetResourceVersion(revision)
	if initialEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	table := st.table
	if initialEnd && table.IncludeObject == metav1.IncludeNone {
		// The annotation is the message: it has to travel.
		st.table.IncludeObject = metav1.IncludeMetadata
	}
	data, err := st.encodeBookmark(obj)
	st.table = table
	if err != nil {
		return err
	}
	return st.write(watch.Bookmark, data)
}

// encodeBookmark is encode for an object that says nothing but a revision.
func (st *watchStream) encodeBookmark(obj resource.Object) ([]byte, error) {
	if st.rq.res.IsCustom() && st.acc.as == nil {
		obj.GetObjectKind().SetGroupVersionKind(st.rq.kind()) // there is nothing to convert, and there are no defaults
		return encodeBytes(st.acc.format, obj)
	}
	return st.encode(obj)
}

// endWith cancels when the channel is closed; what it returns ends that.
func endWith(gone <-chan struct{}, cancel func()) func() {
	if gone == nil {
		return func() {}
	}
	stop := make(chan struct{})
	go func() {
		select {
		case <-gone:
			cancel()
		case <-stop:
		}
	}()
	return func() { close(stop) }
}

// fail ends the watch with an ERROR event.
func (st *watchStream) fail(err error) {
	status, known := statusOf(err)
	if !known {
		st.s.log.Error("watch failed", "resource", st.rq.res.Key(), "err", err)
	}
	if data, err := encodeBytes(st.acc.format, status); err == nil && st.write(watch.Error, data) == nil {
		_ = st.flush()
	}
}

// write frames an encoded object as a metav1.WatchEvent.
func (st *watchStream) write(typ watch.EventType, object []byte) error {
	b := st.frame[:0]
	if st.acc.format == formatJSON {
		b = append(b, `{"type":"`...)
		b = append(b, typ...)
		b = append(b, `","object":`...)
		b = append(b, object...)
		b = append(b, '}', '\n')
	} else {
		b = appendProtoEvent(b, typ, object)
	}
	st.frame = b
	if cap(st.frame) > maxPooled {
		st.frame = nil
	}
	return st.send(b)
}

// appendProtoEvent writes a length-prefixed WatchEvent{type = 1, object = 2: RawExtension{raw = 1}}; as in Kubernetes only
// the object within has an envelope.
func appendProtoEvent(b []byte, typ watch.EventType, object []byte) []byte {
	ext := fieldSize(len(object))
	b = binary.BigEndian.AppendUint32(b, uint32(fieldSize(len(typ))+fieldSize(ext)))
	b = appendString(b, 1, string(typ))
	b = append(b, 2<<3|2)
	b = binary.AppendUvarint(b, uint64(ext))
	b = append(b, 1<<3|2)
	b = binary.AppendUvarint(b, uint64(len(object)))
	return append(b, object...)
}
