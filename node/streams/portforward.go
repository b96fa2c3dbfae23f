package streams

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

const (
	// tunnelPrefix and tunnelSuffix enclose the protocol that is spoken in SPDY inside a WebSocket (kubectl 1.31 on).
	tunnelPrefix, tunnelSuffix = "SPDY/3.1+", ".k8s.io"
	// connectTimeout of a forwarded connection: loopback answers at once or never.
	connectTimeout = 10 * time.Second
	// portCreationTimeout is how long a client may take between the two streams of a connection.
	portCreationTimeout = 30 * time.Second
)

func (h *Handler) portForward(w http.ResponseWriter, r *http.Request) {
	t := targetOf(r)
	_, _, pid, err := h.find(r.Context(), t, WantSandbox)
	if err == nil && pid <= 0 {
		err = NotRunning("pod not found (%q)", t.pod+"_"+t.namespace)
	}
	tunnelled := wsstream.IsWebSocketRequestWithTunnelingProtocol(r)
	ports := &portforward.V4Options{}
	if err == nil && !tunnelled {
		if ports, err = portforward.NewV4Options(r); err != nil {
			err = BadRequest("%v", err)
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	u, r, done := upgrade(w, r)
	defer done()
	var writer http.ResponseWriter = u
	if tunnelled {
		if writer, r, err = openTunnel(u, r); err != nil {
			h.log.Debug("tunnel refused", "err", err)
			return
		}
	}
	portforward.ServePortForward(writer, r, forwarder{h, r.Context(), pid}, t.pod, t.uid, ports, idleTimeout,
		portCreationTimeout, portforward.SupportedProtocols)
}

// openTunnel upgrades to WebSocket and makes of the request one for SPDY on the bytes inside.
func openTunnel(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, error) {
	inner := ""
	for _, p := range websocket.Subprotocols(r) {
		if name, ok := strings.CutPrefix(p, tunnelPrefix); ok && strings.HasSuffix(name, tunnelSuffix) {
			inner = name
			break
		}
	}
	upgrader := websocket.Upgrader{
		CheckOrigin:  func(*http.Request) bool { return true }, // the master has authenticated the client
		Subprotocols: []string{tunnelPrefix + inner},
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, err // answered
	}
	r = r.Clone(r.Context())
	r.Header = http.Header{}
	r.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	r.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	r.Header.Set(httpstream.HeaderProtocolVersion, inner)
	return &upgraded{conn: &wsConn{Conn: conn}, header: http.Header{}}, r, nil
}

// upgraded is a ResponseWriter whose client is past the upgrade; the inner one happens without words.
type upgraded struct {
	conn   net.Conn
	header http.Header
}

func (u *upgraded) Header() http.Header         { return u.header }
func (u *upgraded) WriteHeader(int)             {}
func (u *upgraded) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements http.Hijacker.
func (u *upgraded) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return u.conn, bufio.NewReadWriter(bufio.NewReader(u.conn), bufio.NewWriter(u.conn)), nil
}

// forwarder implements portforward.PortForwarder for one client. The context that the library hands it never ends.
type forwarder struct {
	h   *Handler
	ctx context.Context
	pid int
}

// PortForward copies both ways until the pod's side ends; when the client's side ends first, the pod is told and may
// still answer.
func (f forwarder) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	if port <= 0 || port > 65535 {
		return fmt.Errorf("invalid port %d", port)
	}
	dialing, cancel := context.WithTimeout(f.ctx, connectTimeout)
	defer cancel()
	conn, err := f.h.dial(dialing, f.pid, uint16(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(f.ctx, func() { conn.Close() })()
	go func() {
		io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, conn)
	if f.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// dialPod connects to a port on the loopback of the network namespace of a process, IPv4 first.
func dialPod(ctx context.Context, pid int, port uint16) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := dialInside(ctx, pid, port)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// dialInside must have a goroutine of its own: if its thread cannot go back to where it came from, it keeps the lock
// on it, and Go ends the thread with the goroutine.
func dialInside(ctx context.Context, pid int, port uint16) (net.Conn, error) {
	goruntime.LockOSThread()
	own, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())) // thread-self needs Linux 3.17
	if err != nil {
		goruntime.UnlockOSThread()
		return nil, err
	}
	defer own.Close()
	pod, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		goruntime.UnlockOSThread()
		return nil, errors.New("the pod has ended")
	}
	defer pod.Close()
	if err := unix.Setns(int(pod.Fd()), unix.CLONE_NEWNET); err != nil {
		goruntime.UnlockOSThread()
		return nil, fmt.Errorf("entering the pod's network: %w", err)
	}
	// A literal address is dialed on the calling thread; the socket belongs to the namespace it was made in.
	var d net.Dialer
	conn, err4 := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	if err4 != nil {
		var err6 error
		if conn, err6 = d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", fmt.Sprint(port))); err6 != nil {
			err = fmt.Errorf("failed to connect to localhost:%d inside the pod, IPv4: %v IPv6: %v", port, err4, err6)
		}
	}
	if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
		goruntime.UnlockOSThread()
	}
	return conn, err
}
