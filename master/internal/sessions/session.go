package sessions

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// Messages other than changes (tunnels, acknowledgements) waiting to be sent to one agent.
const outQueue = 64

// session is one connected agent. Events only name keys (dirty); what is sent is read from the present state, so a slow
// agent costs a set of keys, never a queue of objects.
type session struct {
	node string
	// machine tells two machines apart that go by the same name.
	machine machine
	cancel  func(error)
	// done is closed when the session ends.
	done <-chan struct{}
	out  chan *agentv1.FromMaster
	wake chan struct{}
	// reports: the agent says what it has put in force.
	reports bool

	mu    sync.Mutex
	dirty map[registry.Key]struct{}
	all   bool
	// withdrawn are the UIDs of pods that the agent is to be told about; see drains.
	withdrawn []string
	// Marks number what sessions are told, across all of them. marked is that of the last change to Services or endpoints which
	// concerns the agent, taken how far the sender has come, asked the last one that the agent was asked for, and inForce
	// that up to which it has everything in force.
	marked, taken, asked, inForce uint64
}

func newSession(ctx context.Context, node string, cancel func(error)) *session {
	return &session{
		node: node, cancel: cancel, done: ctx.Done(), out: make(chan *agentv1.FromMaster, outQueue), wake: make(chan struct{}, 1),
		dirty: map[registry.Key]struct{}{}, all: true,
	}
}

// mark keys to be told. The number is that of a change to Services or endpoints; 0 for none.
func (n *session) mark(number uint64, keys ...registry.Key) {
	n.mu.Lock()
	for _, k := range keys {
		n.dirty[k] = struct{}{}
	}
	n.marked = max(n.marked, number)
	n.mu.Unlock()
	n.poke()
}

// markAll asks for a complete snapshot.
func (n *session) markAll(number uint64) {
	n.mu.Lock()
	n.all = true
	n.marked = max(n.marked, number)
	n.mu.Unlock()
	n.poke()
}

func (n *session) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// taken is what a session's sender has to say.
type taken struct {
	keys      map[registry.Key]struct{}
	all       bool
	mark      uint64
	withdrawn []string
}

func (n *session) take() taken {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := taken{n.dirty, n.all, n.marked, n.withdrawn}
	n.dirty, n.all, n.withdrawn = map[registry.Key]struct{}{}, false, nil
	return t
}

// Session implements agentv1.AgentServer.
func (s *Server) Session(stream agentv1.Agent_SessionServer) error {
	node, err := nodeName(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "a session begins with a hello")
	}
	said, err := describedNode(node, hello)
	if err != nil {
		return err
	}
	if err := s.checkMachine(stream.Context(), node, machineOf(said)); err != nil {
		return err
	}
	cidr, err := s.register(stream.Context(), said)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	n := newSession(ctx, node, cancel)
	n.machine, n.reports = machineOf(said), hello.ReportsInForce
	// The welcome is in the queue before anybody else can find the session.
	n.out <- &agentv1.FromMaster{Message: &agentv1.FromMaster_Welcome{Welcome: &agentv1.Welcome{
		Config: s.cfg.Cluster, PodCidr: cidr, HeartbeatMillis: HeartbeatEvery.Milliseconds(),
	}}}
	s.add(n)
	defer s.remove(n)
	s.log.Info("session began", "node", node, "version", hello.Version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.send(ctx, n, stream) })
	g.Go(func() error { return s.receive(ctx, n, stream) })
	// Recv returns only when the stream ends: when another reason ends the session, leaving this function ends the stream.
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.log.Info("session ended", "node", node, "err", err)
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *Server) receive(ctx context.Context, n *session, stream agentv1.Agent_SessionServer) error {
	var renewed time.Time
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		s.heard(n)
		if now := time.Now(); now.Sub(renewed) >= leaseEvery {
			renewed = now
			if err := s.renewLease(ctx, n.node); err != nil && ctx.Err() == nil {
				s.log.Debug("lease not renewed", "node", n.node, "err", err)
			}
		}
		if u := m.GetUsage(); u != nil && s.cfg.Usage != nil {
			s.cfg.Usage(n.node, u)
		}
		if f := m.GetInForce(); f != nil {
			if n.isInForce(f.Mark) {
				s.drains.heard(n)
			}
			continue
		}
		batch := m.GetStatus()
		if batch == nil {
			continue // a heartbeat has said what it has to say
		}
		if err := s.applyStatus(ctx, n.node, batch); err != nil {
			return status.Errorf(codes.Unavailable, "status of node %s not stored: %v", n.node, err)
		}
		ack := &agentv1.FromMaster{Message: &agentv1.FromMaster_Acknowledge{Acknowledge: &agentv1.Acknowledge{Sequence: batch.Sequence}}}
		select {
		case n.out <- ack:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) send(ctx context.Context, n *session, stream agentv1.Agent_SessionServer) error {
	f := newFeed(s, n.node)
	// The welcome goes first.
	if err := stream.Send(<-n.out); err != nil {
		return err
	}
	s.policies.wait(ctx)
	n.poke()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-n.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-n.wake:
			t := n.take()
			asked, err := f.send(t.keys, t.all, t.mark, stream.Send)
			if err != nil {
				return err
			}
			if n.hasSent(t.mark, asked) {
				s.drains.heard(n)
			}
			for _, uid := range t.withdrawn {
				m := &agentv1.FromMaster{Message: &agentv1.FromMaster_Withdrawn{Withdrawn: &agentv1.Withdrawn{PodUid: uid}}}
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		}
	}
}

// Run routes changes to sessions until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		var ending []*corev1.Pod
		w, err := s.cfg.Registry.ViewAndWatch(append([]string{namespaces}, feedResources...), func(v *registry.View) error {
			s.policies.reset(v)
			for pod := range registry.List[*corev1.Pod](v, "") {
				if drains(pod) {
					ending = append(ending, pod)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.policies.isReady()
		number := s.marks.Add(1)
		for _, n := range s.all() {
			n.markAll(number)
		}
		s.drains.begin(ending)
		why := s.route(ctx, w)
		w.Close()
		if ctx.Err() == nil {
			s.log.Warn("changes came faster than they could be routed; sending complete snapshots", "err", why)
		}
	}
	return nil
}

const routeBatch = 256

// route marks keys until the watcher fails, and returns why.
func (s *Server) route(ctx context.Context, w interface {
	Next(context.Context, int) ([]registry.Event, error)
},
) error {
	for {
		events, err := w.Next(ctx, routeBatch)
		if err != nil {
			return err
		}
		number := uint64(0)
		everybody, byNode, err := s.policies.follow(s.cfg.Registry, events)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Key.Resource == namespaces {
				continue // nodes are told what follows for policies
			}
			if e.Key.Resource == "nodes" && !concernsOthers(e) {
				byNode[e.Key.Name] = append(byNode[e.Key.Name], e.Key)
				continue
			}
			if e.Key.Resource != "pods" {
				everybody = append(everybody, e.Key)
				if rules(e.Key) && number == 0 {
					number = s.marks.Add(1)
				}
				s.endIfDeleted(e)
				continue
			}
			for _, o := range []registry.Object{e.Object, e.Prev} {
				if pod, ok := o.(*corev1.Pod); ok && pod != nil && pod.Spec.NodeName != "" {
					byNode[pod.Spec.NodeName] = append(byNode[pod.Spec.NodeName], e.Key)
				}
			}
		}
		for node, keys := range byNode {
			if n := s.session(node); n != nil {
				n.mark(0, keys...)
			}
		}
		if len(everybody) > 0 {
			for _, n := range s.all() {
				n.mark(number, everybody...)
			}
		}
		s.drains.follow(events)
	}
}

// endIfDeleted ends the session of a node whose Node was deleted: an agent that lives registers again at once.
func (s *Server) endIfDeleted(e registry.Event) {
	if e.Key.Resource != "nodes" || !e.Deleted {
		return
	}
	if n := s.session(e.Key.Name); n != nil {
		n.cancel(status.Errorf(codes.Aborted, "the Node %s was deleted", n.node))
	}
}
