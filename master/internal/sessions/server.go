// Package sessions is the master's side of the agent protocol: it lets nodes join, tells each what it needs to know (its
// pods, what they refer to, services, endpoints, peers), writes down what they report, and carries streams to them.
// A node can write only its own Node and the status of its own pods.
package sessions

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	// HeartbeatEvery is how often an agent says that it is alive, and GoneAfter how long silence may last before the
	// session counts as gone.
	HeartbeatEvery = 2 * time.Second
	GoneAfter      = 3 * HeartbeatEvery

	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
	maxMessage       = 16 << 20
)

// Config of the sessions.
type Config struct {
	Registry *registry.Registry
	PKI      *pki.PKI
	// Cluster is what all machines agree on.
	Cluster *agentv1.ClusterConfig
	// NodeMaskBits is the size of a node's part of the pod range, as in /24.
	NodeMaskBits int
	// Usage is told what a node and its containers use; may be nil. It may not wait.
	Usage  func(node string, u *agentv1.Usage)
	Logger *slog.Logger
}

// Server serves agents.
type Server struct {
	agentv1.UnimplementedAgentServer
	cfg Config
	log *slog.Logger
	enc encodings
	// peers are the nodes, as others are told of them.
	peers peers
	// marks numbers changes for all sessions together, so that what an agent says late of an earlier session is no later mark.
	marks  atomic.Uint64
	drains *drainer
	// policies are the addresses that network policies' peers stand for.
	policies *policies

	mu       sync.Mutex
	sessions map[string]*session
	lastSeen map[string]time.Time
	changed  chan struct{}
	tunnels  map[string]*pendingTunnel
}

// New makes a server; Run and Serve start it.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg, log: cfg.Logger.With("component", "sessions"), sessions: map[string]*session{},
		lastSeen: map[string]time.Time{}, changed: make(chan struct{}, 1), tunnels: map[string]*pendingTunnel{},
	}
	s.marks.Store(uint64(time.Now().UnixNano())) // later than those of a master before this one
	s.drains = newDrainer(s)
	s.policies = newPolicies(cfg.Cluster)
	return s
}

// Serve answers agents on a listener until ctx ends.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	tlsConfig := s.cfg.PKI.ServerTLS()
	tlsConfig.NextProtos = []string{"h2"}
	return s.serve(ctx, lis, tlsConfig)
}

func (s *Server) serve(ctx context.Context, lis net.Listener, tlsConfig *tls.Config) error {
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(tlsConfig)),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTimeout, PermitWithoutStream: true}),
	)
	agentv1.RegisterAgentServer(g, s)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(lis); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving agents on %s: %w", lis.Addr(), err)
	}
	return nil
}

// nodeName is the node that the peer's certificate names.
func nodeName(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
			cert := info.State.VerifiedChains[0][0]
			for _, group := range cert.Subject.Organization {
				if name, ok := strings.CutPrefix(cert.Subject.CommonName, pki.NodePrefix); ok && group == pki.GroupNodes {
					return name, nil
				}
			}
		}
	}
	return "", status.Error(codes.Unauthenticated, "this call needs a node's certificate: join first (wp-agent join)")
}

// Alive says which nodes have a session that has been heard of lately.
func (s *Server) Alive() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	alive := make(map[string]bool, len(s.sessions))
	now := time.Now()
	for name := range s.sessions {
		alive[name] = now.Sub(s.lastSeen[name]) < GoneAfter
	}
	return alive
}

// Heard is when a node was last heard of; zero if it has had no session yet.
func (s *Server) Heard(node string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastSeen[node]
}

// Changed is poked when a session begins or ends.
func (s *Server) Changed() <-chan struct{} { return s.changed }

func (s *Server) poke() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// add makes a session the node's current one; an older one of the same node ends.
func (s *Server) add(n *session) {
	s.mu.Lock()
	old := s.sessions[n.node]
	s.sessions[n.node] = n
	s.lastSeen[n.node] = time.Now()
	s.mu.Unlock()
	n.markAll(s.marks.Add(1))
	s.drains.joined(n)
	if old != nil {
		old.cancel(status.Errorf(codes.Aborted, "node %s began another session", n.node))
	}
	s.poke()
}

func (s *Server) remove(n *session) {
	s.mu.Lock()
	if s.sessions[n.node] == n {
		delete(s.sessions, n.node) // lastSeen stays: from then on, and not from now on, the node is lost
	}
	s.mu.Unlock()
	s.drains.left(n)
	s.poke()
}

func (s *Server) heard(n *session) {
	s.mu.Lock()
	if s.sessions[n.node] == n {
		s.lastSeen[n.node] = time.Now()
	}
	s.mu.Unlock()
}

func (s *Server) session(node string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[node]
}

func (s *Server) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.sessions))
	for _, n := range s.sessions {
		out = append(out, n)
	}
	return out
}
