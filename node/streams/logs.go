package streams

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gorilla/websocket"

	"github.com/whalepod/whalepod/node/runtime"
)

// logQuery is PodLogOptions without what only the API server needs.
type logQuery struct {
	follow, previous, timestamps bool
	tail, limit                  int64 // -1: none
	since                        time.Time
	stdout, stderr               bool
}

func parseLogQuery(q url.Values, now time.Time) (logQuery, error) {
	o := logQuery{tail: -1, limit: -1, stdout: true, stderr: true}
	for name, to := range map[string]*bool{"follow": &o.follow, "previous": &o.previous, "timestamps": &o.timestamps} {
		v := q.Get(name)
		if !q.Has(name) {
			continue
		}
		b, err := strconv.ParseBool(v)
		if err != nil && v != "" { // ?follow alone means yes, as the kubelet reads it
			return o, BadRequest("%s: invalid value %q", name, v)
		}
		*to = b || v == ""
	}
	var seconds int64 = -1
	for _, n := range []struct {
		name string
		to   *int64
		min  int64
	}{{"tailLines", &o.tail, 0}, {"limitBytes", &o.limit, 1}, {"sinceSeconds", &seconds, 1}} {
		v := q.Get(n.name)
		if v == "" {
			continue
		}
		i, err := strconv.ParseInt(v, 10, 64)
		if err != nil || i < n.min {
			return o, BadRequest("%s: invalid value %q: must be a number of at least %d", n.name, v, n.min)
		}
		*n.to = i
	}
	if seconds > 0 {
		o.since = now.Add(-time.Duration(min(seconds, int64(1<<62/time.Second))) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		if seconds > 0 {
			return o, BadRequest("at most one of `sinceTime` or `sinceSeconds` may be specified")
		}
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return o, BadRequest("sinceTime: invalid value %q: must be a time as in RFC 3339", v)
		}
		o.since = t
	}
	switch v := q.Get("stream"); v {
	case "", "All":
	case "Stdout":
		o.stderr = false
	case "Stderr":
		o.stdout = false
	default:
		return o, BadRequest("invalid stream type %q", v)
	}
	return o, nil
}

// errLimit ends a log that has reached limitBytes.
var errLimit = errors.New("limit reached")

// logWriter sends at once when following, and no more than the limit.
type logWriter struct {
	w     io.Writer
	flush func() error // nil: when the server likes
	left  int64        // -1: no limit
	wrote bool
}

func (l *logWriter) Write(p []byte) (int, error) {
	full := len(p)
	if l.left >= 0 && int64(len(p)) > l.left {
		p = p[:l.left]
	}
	l.wrote = true
	n, err := l.w.Write(p)
	if err == nil && l.flush != nil {
		err = l.flush()
	}
	if l.left >= 0 {
		if l.left -= int64(n); err == nil && l.left == 0 {
			return n, errLimit
		}
	}
	if err == nil && n < full {
		err = io.ErrShortWrite
	}
	return n, err
}

func (h *Handler) logs(w http.ResponseWriter, r *http.Request) {
	q, err := parseLogQuery(r.URL.Query(), time.Now())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	t := targetOf(r)
	want := WantLog
	if q.previous {
		want = WantPrevious
	}
	id, _, _, err := h.find(r.Context(), t, want)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if websocket.IsWebSocketUpgrade(r) {
		h.logsOverWebSocket(w, r, id, q)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	out := &logWriter{w: w, left: q.limit}
	if q.follow {
		// A client that waits for the first line must know that the stream stands.
		out.flush = http.NewResponseController(w).Flush
		w.WriteHeader(http.StatusOK)
		out.flush()
		out.wrote = true
	}
	err = h.copyLog(r.Context(), id, q, out)
	switch {
	case err == nil, errors.Is(err, context.Canceled):
	case !out.wrote:
		h.fail(w, r, err)
	default:
		h.log.Debug("log broke off", "pod", t.pod, "container", t.container, "err", err)
		panic(http.ErrAbortHandler) // the client sees that it was not the end
	}
}

// copyLog writes what the query asks for.
func (h *Handler) copyLog(ctx context.Context, id string, q logQuery, out io.Writer) error {
	opts := runtime.LogOptions{Follow: q.follow, Timestamps: q.timestamps, Since: q.since, Tail: q.tail}
	if q.stdout {
		opts.Stdout = out
	}
	if q.stderr {
		opts.Stderr = out
	}
	if err := h.engine.Logs(ctx, id, opts); !errors.Is(err, errLimit) {
		return err
	}
	return nil
}

// Subprotocols of a log over a WebSocket, as in Kubernetes' wsstream: without one, messages are binary.
const (
	logBinary = "binary.k8s.io"
	logBase64 = "base64.binary.k8s.io"
)

// logsOverWebSocket sends each piece as a message, for clients that ask so, browsers mostly.
func (h *Handler) logsOverWebSocket(w http.ResponseWriter, r *http.Request, id string, q logQuery) {
	upgrader := websocket.Upgrader{
		CheckOrigin:  func(*http.Request) bool { return true }, // the master has authenticated the client
		Subprotocols: []string{logBinary, logBase64},
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // answered
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() { // ends with the connection
		defer cancel()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	messages := &logMessages{conn, conn.Subprotocol() == logBase64}
	if _, err := messages.Write(nil); err != nil { // a client that waits for the first line must know that the stream stands
		return
	}
	if err := h.copyLog(ctx, id, q, &logWriter{w: messages, left: q.limit}); err != nil {
		h.log.Debug("log broke off", "container", id, "err", err)
		return
	}
	_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(closeTimeout))
}

// logMessages makes a message of each write.
type logMessages struct {
	conn *websocket.Conn
	text bool
}

func (m *logMessages) Write(p []byte) (int, error) {
	if m.text {
		return len(p), m.conn.WriteMessage(websocket.TextMessage, []byte(base64.StdEncoding.EncodeToString(p)))
	}
	return len(p), m.conn.WriteMessage(websocket.BinaryMessage, p)
}
