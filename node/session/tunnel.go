package session

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/metadata"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	tunnelIDKey = "tunnel-id"
	tunnelChunk = 64 << 10
	// Streams at a time; more wait for the master's patience.
	maxTunnels = 256
)

// Listener is a net.Listener whose connections are the tunnels that the master asks for. An http.Server serves it.
type Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	slots  chan struct{}
}

// NewListener makes one.
func NewListener() *Listener {
	return &Listener{conns: make(chan net.Conn), closed: make(chan struct{}), slots: make(chan struct{}, maxTunnels)}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return tunnelAddr{} }

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "tunnel" }
func (tunnelAddr) String() string  { return "master" }

// open answers one request of the master; the goroutine ends with the tunnel, which ends with ctx at the latest.
func (l *Listener) open(ctx context.Context, api agentv1.AgentClient, id string) {
	select {
	case l.slots <- struct{}{}:
	default:
		return // the master's dial times out and says so
	}
	go func() {
		defer func() { <-l.slots }()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, tunnelIDKey, id))
		defer cancel()
		stream, err := api.Tunnel(ctx)
		if err != nil {
			return
		}
		local, remote := net.Pipe()
		defer local.Close()
		select {
		case l.conns <- remote:
		case <-l.closed:
			return
		case <-ctx.Done():
			return
		}
		pump(ctx, local, stream)
	}()
}

// pump copies between a connection and a stream until either ends.
func pump(ctx context.Context, c net.Conn, stream agentv1.Agent_TunnelClient) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	down := make(chan struct{})
	go func() {
		defer close(down)
		defer c.Close()
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if _, err := c.Write(m.Data); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, tunnelChunk)
	for {
		n, err := c.Read(buf)
		if n > 0 && stream.Send(&agentv1.TunnelData{Data: buf[:n]}) != nil {
			break
		}
		if err != nil {
			break
		}
	}
	_ = stream.CloseSend()
	c.Close()
	<-down
}
