package session

import (
	"context"
	"net"

	"google.golang.org/grpc/metadata"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	tunnelIDKey = "tunnel-id"
	tunnelChunk = 64 << 10
	// Streams at a time; the master's dial of a further one times out and says so.
	maxTunnels = 256
)

// tunnels answers the master's requests for byte streams.
type tunnels struct {
	serve func(ctx context.Context, conn net.Conn)
	slots chan struct{}
}

func newTunnels(serve func(context.Context, net.Conn)) *tunnels {
	return &tunnels{serve: serve, slots: make(chan struct{}, maxTunnels)}
}

// open answers one request; its goroutines end with the tunnel, which ends with ctx at the latest.
func (t *tunnels) open(ctx context.Context, api agentv1.AgentClient, id string) {
	select {
	case t.slots <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-t.slots }()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, tunnelIDKey, id))
		defer cancel()
		stream, err := api.Tunnel(ctx)
		if err != nil {
			return // the session broke, or the master has given up waiting
		}
		// net.Pipe has the deadlines that net/http needs of a connection; the stream itself has none.
		local, remote := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			defer remote.Close()
			t.serve(ctx, remote)
		}()
		pump(ctx, local, stream)
		cancel()
		<-served
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
