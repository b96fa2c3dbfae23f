package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// gzipFrom is the size from which answers are compressed when the client accepts it, as Kubernetes' API server does:
// below it the time is worth more than the bytes.
const gzipFrom = 128 << 10

// response remembers what became of an answer.
type response struct {
	http.ResponseWriter
	code  int
	began bool
	bytes int64
}

func (r *response) WriteHeader(code int) {
	if r.began {
		return
	}
	r.code, r.began = code, true
	r.ResponseWriter.WriteHeader(code)
}

func (r *response) Write(p []byte) (int, error) {
	if !r.began {
		r.WriteHeader(http.StatusOK)
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (r *response) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

// Hijack implements http.Hijacker, for exec, attach, port-forward and WebSockets.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.code, r.began = http.StatusSwitchingProtocols, true
	}
	return c, rw, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

var (
	bufferPool = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	gzipPool   = sync.Pool{New: func() any { w, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed); return w }}
)

// maxPooled keeps rare giants from living in the pool.
const maxPooled = 512 << 10

func getBuffer() *bytes.Buffer { return bufferPool.Get().(*bytes.Buffer) }

func putBuffer(b *bytes.Buffer) {
	if b.Cap() > maxPooled {
		return
	}
	b.Reset()
	bufferPool.Put(b)
}

// answer is a body on its way: kept back while it is small, so that it gets a Content-Length and can still become an
// error; streamed, compressed if the client accepts that, once it is large. So the memory of a large list stays flat.
type answer struct {
	out         *response
	code        int
	contentType string
	mayGzip     bool
	buf         *bytes.Buffer
	spilled     bool
	gz          *gzip.Writer
}

func newAnswer(rq *request, code int, contentType string) *answer {
	return &answer{out: rq.out, code: code, contentType: contentType, mayGzip: acceptsGzip(rq.req), buf: getBuffer()}
}

func acceptsGzip(req *http.Request) bool {
	for _, part := range strings.Split(req.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(name) == "gzip" && strings.ReplaceAll(q, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	a.buf.Write(p)
	return len(p), a.flow()
}

// flow sends on what has gathered in the buffer, to which encoders may append directly: not every small piece, because
// each write to TLS or to the compressor costs.
func (a *answer) flow() error {
	switch {
	case a.spilled:
		if a.buf.Len() < 32<<10 {
			return nil
		}
	case a.buf.Len() > gzipFrom:
		a.spill()
	default:
		return nil
	}
	return a.drain()
}

func (a *answer) header() http.Header {
	h := a.out.Header()
	h.Set("Content-Type", a.contentType)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-cache, private")
	}
	return h
}

func (a *answer) spill() {
	a.spilled = true
	h := a.header()
	if a.mayGzip {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		a.gz = gzipPool.Get().(*gzip.Writer)
		a.gz.Reset(a.out)
	}
	a.out.WriteHeader(a.code)
}

func (a *answer) drain() error {
	var err error
	if a.gz != nil {
		_, err = a.gz.Write(a.buf.Bytes())
	} else {
		_, err = a.out.Write(a.buf.Bytes())
	}
	a.buf.Reset()
	return err
}

// close ends the body. The buffer and the compressor go back to their pools whatever happens.
func (a *answer) close() error {
	defer a.release()
	if !a.spilled {
		a.header().Set("Content-Length", strconv.Itoa(a.buf.Len()))
		a.out.WriteHeader(a.code)
	}
	if err := a.drain(); err != nil {
		return err
	}
	if a.gz != nil {
		return a.gz.Close()
	}
	return nil
}

// abandon gives up a body; if nothing was sent yet, an error can still be.
func (a *answer) abandon() { a.release() }

func (a *answer) release() {
	if a.buf != nil {
		putBuffer(a.buf)
		a.buf = nil
	}
	if a.gz != nil {
		gzipPool.Put(a.gz)
		a.gz = nil
	}
}
