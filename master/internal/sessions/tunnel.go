package sessions

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	tunnelIDKey = "tunnel-id"
	// An agent that lives answers within a round trip.
	tunnelTimeout = 10 * time.Second
	tunnelChunk   = 64 << 10
)

// pendingTunnel waits for the agent to open it.
type pendingTunnel struct {
	node string
	conn chan net.Conn
}

// Dial opens a byte stream to a node's agent. The returned connection has working deadlines.
func (s *Server) Dial(ctx context.Context, node string) (net.Conn, error) {
	n := s.session(node)
	if n == nil {
		return nil, fmt.Errorf("node %s has no session with the master: is it up, and can it reach port 6444 of the master?", node)
	}
	ctx, cancel := context.WithTimeout(ctx, tunnelTimeout)
	defer cancel()
	id := uuid.NewString()
	p := &pendingTunnel{node: node, conn: make(chan net.Conn, 1)}
	s.mu.Lock()
	s.tunnels[id] = p
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.tunnels, id)
		s.mu.Unlock()
	}()
	open := &agentv1.FromMaster{Message: &agentv1.FromMaster_OpenTunnel{OpenTunnel: &agentv1.OpenTunnel{Id: id}}}
	select {
	case n.out <- open:
	case <-n.done:
		return nil, errSessionEnded(node)
	case <-ctx.Done():
		return nil, fmt.Errorf("node %s does not take a stream: %w", node, ctx.Err())
	}
	select {
	case c := <-p.conn:
		return c, nil
	case <-n.done:
		s.abandon(id, p)
		return nil, errSessionEnded(node)
	case <-ctx.Done():
		s.abandon(id, p)
		return nil, fmt.Errorf("node %s did not open a stream in time: %w", node, ctx.Err())
	}
}

func errSessionEnded(node string) error {
	return fmt.Errorf("the session of node %s ended: is it up, and can it reach port 6444 of the master?", node)
}

// abandon ends a tunnel that was opened just as its dialer gave up.
func (s *Server) abandon(id string, p *pendingTunnel) {
	s.mu.Lock()
	delete(s.tunnels, id)
	s.mu.Unlock()
	select {
	case c := <-p.conn:
		c.Close()
	default:
	}
}

// Tunnel implements agentv1.AgentServer.
func (s *Server) Tunnel(stream agentv1.Agent_TunnelServer) error {
	node, err := nodeName(stream.Context())
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	ids := md.Get(tunnelIDKey)
	if len(ids) != 1 {
		return status.Error(codes.InvalidArgument, "a tunnel needs its id in the metadata")
	}
	// net.Pipe has the deadlines that net/http needs of a connection; the stream itself has none.
	local, remote := net.Pipe()
	if !s.answer(ids[0], node, remote) {
		return status.Error(codes.NotFound, "nobody waits for this tunnel any more")
	}
	return pump(stream.Context(), local, stream)
}

// answer hands a node's connection to whom waits for it. All under the lock: whoever gives up afterwards finds it.
func (s *Server) answer(id, node string, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.tunnels[id]
	if p == nil || p.node != node {
		return false
	}
	delete(s.tunnels, id)
	p.conn <- c // has room for the one that there is
	return true
}

// tunnelStream is either end of a Tunnel call.
type tunnelStream interface {
	Send(*agentv1.TunnelData) error
	Recv() (*agentv1.TunnelData, error)
}

// pump copies between a connection and a stream until either ends.
func pump(ctx context.Context, c net.Conn, stream tunnelStream) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	up := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				c.Close()
				up <- err
				return
			}
			if _, err := c.Write(m.Data); err != nil {
				up <- err
				return
			}
		}
	}()
	buf := make([]byte, tunnelChunk)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			if serr := stream.Send(&agentv1.TunnelData{Data: buf[:n]}); serr != nil {
				return serr
			}
		}
		if err != nil {
			select {
			case rerr := <-up:
				if rerr == io.EOF {
					return nil
				}
				return rerr
			default:
				return nil
			}
		}
	}
}
