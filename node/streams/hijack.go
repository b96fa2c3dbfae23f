package streams

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

// closing tells when it is closed.
type closing struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *closing) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// upgradable is a ResponseWriter whose hijacked connection ends a context when the client goes: once a connection is
// hijacked net/http no longer watches it, and the streaming libraries tell nobody. It has no Unwrap on purpose: they
// would go round it.
type upgradable struct {
	http.ResponseWriter
	gone func()
	conn net.Conn
}

// upgrade gives a handler such a writer, and a request whose context ends with the client or by calling done, which
// also closes the connection (not every path of the libraries does).
func upgrade(w http.ResponseWriter, r *http.Request) (u *upgradable, req *http.Request, done func()) {
	ctx, cancel := context.WithCancel(r.Context())
	u = &upgradable{ResponseWriter: w, gone: cancel}
	return u, r.WithContext(ctx), func() {
		cancel()
		if u.conn != nil {
			u.conn.Close()
		}
	}
}

// Hijack implements http.Hijacker.
func (u *upgradable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(u.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := buffered.Reader.Peek(buffered.Reader.Buffered())
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	w := &watched{Conn: conn, r: io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn), gone: u.gone}
	u.conn = w
	return w, bufio.NewReadWriter(bufio.NewReader(w), bufio.NewWriter(w)), nil
}

// watched is a connection that tells when it is over.
type watched struct {
	net.Conn
	r    io.Reader
	gone func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.note(err)
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.note(err)
	return n, err
}

func (w *watched) Close() error {
	w.gone()
	return w.Conn.Close()
}

func (w *watched) note(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.gone()
	}
}
