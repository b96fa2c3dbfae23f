package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/runtime"
)

// maxOutput is how much of a program's answer is kept for the event.
const maxOutput = 10 << 10

// Exec runs a command in a container; runtime.Streamer does.
type Exec interface {
	Exec(ctx context.Context, id string, cmd []string, s runtime.Streams) (exitCode int, err error)
}

// Target is what is asked.
type Target struct {
	Container   *corev1.Container
	ContainerID string
	PodIP       string
}

// Answer of one probe. Warning counts as success but is told.
type Answer struct {
	OK, Warning bool
	Output      string
}

// Prober asks. Safe for concurrent use.
type Prober struct {
	exec Exec
	http *http.Transport
	dial *net.Dialer
}

// New makes a Prober. Connections are closed at once with RST where the kernel can (no TIME_WAIT pile-up), and
// certificates are not checked: the API says so of HTTPS probes.
func New(exec Exec) *Prober {
	d := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 1})
		})
	}}
	return &Prober{exec: exec, dial: d, http: &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        d.DialContext,
	}}
}

// Probe asks once. An error means that it could not be asked; the answer then counts for nothing.
func (p *Prober) Probe(ctx context.Context, spec *corev1.Probe, t Target) (Answer, error) {
	timeout := time.Duration(max(spec.TimeoutSeconds, 1)) * time.Second
	if spec.HTTPGet != nil {
		req, err := request(spec.HTTPGet, t.Container, t.PodIP, "probe")
		if err != nil {
			return Answer{}, err
		}
		// The client has the timeout, not ctx too: whichever ended first would say so in its own words.
		return p.probeHTTP(req.WithContext(ctx), timeout), nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case spec.Exec != nil:
		return p.probeExec(ctx, spec.Exec.Command, timeout, t)
	case spec.TCPSocket != nil:
		port, err := Port(spec.TCPSocket.Port, t.Container)
		if err != nil {
			return Answer{}, err
		}
		host := spec.TCPSocket.Host
		if host == "" {
			host = t.PodIP
		}
		d := *p.dial
		d.Timeout = timeout // gives the text "i/o timeout" rather than the context's
		conn, err := d.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return Answer{Output: err.Error()}, nil
		}
		_ = conn.Close()
		return Answer{OK: true}, nil
	case spec.GRPC != nil:
		return p.probeGRPC(ctx, spec.GRPC, timeout, t), nil
	}
	return Answer{}, fmt.Errorf("missing probe handler for container %s", t.Container.Name)
}

func (p *Prober) probeExec(ctx context.Context, cmd []string, timeout time.Duration, t Target) (Answer, error) {
	vars := make([]string, 0, len(t.Container.Env))
	for _, e := range t.Container.Env {
		if e.ValueFrom == nil {
			vars = append(vars, e.Name+"="+e.Value)
		}
	}
	out := &limitedBuffer{max: maxOutput}
	code, err := p.exec.Exec(ctx, t.ContainerID, env.ExpandAll(cmd, vars), runtime.Streams{Stdout: out, Stderr: out})
	switch {
	case errors.Is(err, runtime.ErrUnavailable):
		return Answer{}, err // the engine is silent, not the command: nobody is restarted for that
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Answer{Output: fmt.Sprintf("command timed out: %q timed out after %v", cmd, timeout)}, nil
	case err != nil:
		return Answer{}, err
	}
	return Answer{OK: code == 0, Output: out.String()}, nil
}

func (p *Prober) probeHTTP(req *http.Request, timeout time.Duration) Answer {
	client := &http.Client{Transport: p.http, Timeout: timeout, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse // another host's health says nothing about this one
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	res, err := client.Do(req)
	if err != nil {
		return Answer{Output: err.Error()}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err != nil {
		return Answer{Output: err.Error()}
	}
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return Answer{OK: true, Output: string(body)}
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return Answer{OK: true, Warning: true, Output: "Probe terminated redirects, Response body: " + string(body)}
	}
	return Answer{Output: fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode)}
}

func (p *Prober) probeGRPC(ctx context.Context, a *corev1.GRPCAction, timeout time.Duration, t Target) Answer {
	addr := net.JoinHostPort(t.PodIP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithUserAgent("kube-probe/"+version),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return p.dial.DialContext(ctx, "tcp", addr) }))
	if err != nil {
		return Answer{Output: fmt.Sprintf("error: failed to connect service at %q: %+v", addr, err)}
	}
	defer func() { _ = conn.Close() }()
	req := &healthv1.HealthCheckRequest{}
	if a.Service != nil {
		req.Service = *a.Service
	}
	res, err := healthv1.NewHealthClient(conn).Check(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		st := status.Convert(err)
		switch st.Code() {
		case codes.Unimplemented:
			return Answer{Output: "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + st.Message()}
		case codes.DeadlineExceeded:
			return Answer{Output: fmt.Sprintf("timeout: failed to connect service %q within %v: %v", addr, timeout, context.DeadlineExceeded)}
		}
		return Answer{Output: fmt.Sprintf("error: health rpc probe failed: %+v", err)}
	}
	if s := res.GetStatus(); s != healthv1.HealthCheckResponse_SERVING {
		return Answer{Output: fmt.Sprintf("service unhealthy (responded with %q)", s)}
	}
	return Answer{OK: true, Output: "service healthy"}
}

// limitedBuffer keeps the beginning and forgets the rest without an error. Two streams may write to it.
type limitedBuffer struct {
	lock sync.Mutex
	max  int
	buf  bytes.Buffer
}

// Write never fails.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.lock.Lock()
	defer b.lock.Unlock()
	if room := b.max - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// String is what was kept.
func (b *limitedBuffer) String() string {
	b.lock.Lock()
	defer b.lock.Unlock()
	return b.buf.String()
}
