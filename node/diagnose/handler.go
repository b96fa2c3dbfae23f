package diagnose

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

// Node is what a node can find out about itself.
type Node interface {
	// Name of the node.
	Name() string
	// Scope of what may be dialed, for one Service ("namespace/name", or empty).
	Scope(service string) Scope
	// Dial from the network of a pod on this node, or with nil from the node's own.
	Dial(ctx context.Context, from *Pod, network string, to netip.AddrPort) (net.Conn, error)
	// Ping an address of a pod with small and with large packets, from the network of a pod or the node's own.
	Ping(ctx context.Context, from *Pod, to netip.Addr) (Pinged, error)
	// Resolver is the resolv.conf of a pod, or with nil one that asks the cluster's DNS on this node for NAME.NAMESPACE.
	Resolver(from *Pod) (Resolver, error)
	// Via is the device that the node's route to an address leads through; empty if that cannot be told.
	Via(to netip.Addr) string
	// Rules of a Service in the node's kernel.
	Rules(ctx context.Context, service string) (*Rules, error)
	// Sockets that a pod's processes listen on.
	Sockets(pod Pod) ([]Socket, error)
	// Drops are rules of others that drop or refuse what comes from or goes to one of the addresses.
	Drops(ctx context.Context, addrs []netip.Addr) ([]string, error)
	// Health examines the machine.
	Health(ctx context.Context) []doctor.Finding
}

// atOnce is how many addresses are dialed at a time: all wait, none works.
const atOnce = 32

// Handler serves questions. Its paths are those of this package.
type Handler struct {
	node Node
	mux  http.ServeMux
	// busy has room for one: that many examinations at a time are enough for people, and bound what a node can be made to do.
	busy chan struct{}
}

// NewHandler makes a Handler.
func NewHandler(n Node) *Handler {
	h := &Handler{node: n, busy: make(chan struct{}, 1)}
	h.mux.HandleFunc("POST "+TracePath, h.trace)
	h.mux.HandleFunc("POST "+DoctorPath, h.doctor)
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) trace(w http.ResponseWriter, r *http.Request) {
	var q Question
	if !read(w, r, &q) {
		return
	}
	if err := q.Validate(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), AnswerWithin)
	defer cancel()
	write(w, Ask(ctx, h.node, &q))
}

func (h *Handler) doctor(w http.ResponseWriter, r *http.Request) {
	var e Exam
	if !read(w, r, &e) {
		return
	}
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	case <-r.Context().Done():
		return // who asked has gone
	}
	ctx, cancel := context.WithTimeout(r.Context(), doctor.Within)
	defer cancel()
	out := Health{Node: h.node.Name(), Findings: h.node.Health(ctx)}
	out.Time = time.Now()
	write(w, out)
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		http.Error(w, "cannot read the question: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // who asked has gone
}

// Ask finds out all that a valid question asks, each part beside the others.
func Ask(ctx context.Context, n Node, q *Question) *Answer {
	a := &Answer{Node: n.Name(), Errors: map[string]string{}}
	var mu sync.Mutex
	fail := func(part string, err error) {
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			a.Errors[part] = err.Error()
		}
	}
	var wg sync.WaitGroup
	if len(q.Names) > 0 {
		wg.Go(func() { fail("names", askNames(ctx, n, q, a)) })
	}
	if len(q.Dial)+len(q.Sockets) > 0 {
		wg.Go(func() {
			dialAll(ctx, n, q, a)
			a.Sockets = sockets(ctx, n, q.Sockets) // after dialing: a program that hangs leaves the connections where they are
		})
	}
	if len(q.Pings) > 0 {
		wg.Go(func() { fail("pings", pingAll(ctx, n, q, a)) })
	}
	if q.Rules {
		wg.Go(func() {
			rules, err := n.Rules(ctx, q.Service)
			a.Rules = rules
			fail("rules", err)
		})
	}
	if len(q.Drops) > 0 {
		wg.Go(func() {
			drops, err := n.Drops(ctx, q.Drops)
			a.Drops = drops
			fail("drops", err)
		})
	}
	wg.Wait()
	return a
}

func askNames(ctx context.Context, n Node, q *Question, a *Answer) error {
	r, err := n.Resolver(q.From)
	if err != nil {
		return err
	}
	dial := func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return n.Dial(ctx, q.From, network, to)
	}
	a.Names = make([]Name, len(q.Names))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, name := range q.Names {
		g.Go(func() error { a.Names[i] = ask(ctx, r, name, exchangeUDP(dial)); return nil })
	}
	return g.Wait()
}

func dialAll(ctx context.Context, n Node, q *Question, a *Answer) {
	scope := n.Scope(q.Service)
	dial := func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return n.Dial(ctx, q.From, network, to)
	}
	a.Dials = make([]Dialed, len(q.Dial))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, t := range q.Dial {
		if !scope.Allows(t.Address) {
			a.Dials[i] = Dialed{Target: t, Result: NotAllowed, Error: "not an address of the cluster"}
			continue
		}
		g.Go(func() error {
			a.Dials[i] = try(ctx, dial, t)
			a.Dials[i].Via = n.Via(t.Address.Addr())
			return nil
		})
	}
	_ = g.Wait() // it collects nothing
}

// pingAtOnce is little: what is measured is the way, not how much it carries.
const pingAtOnce = 8

func pingAll(ctx context.Context, n Node, q *Question, a *Answer) error {
	scope := n.Scope("")
	a.Pings = make([]Pinged, len(q.Pings))
	var g errgroup.Group
	g.SetLimit(pingAtOnce)
	for i, to := range q.Pings {
		a.Pings[i].Address = to
		if !scope.Pods.IsValid() || !scope.Pods.Contains(to) {
			continue
		}
		g.Go(func() (err error) {
			a.Pings[i], err = n.Ping(ctx, q.From, to)
			return err
		})
	}
	return g.Wait()
}

// accepts is how soon a program takes a connection that does not hang.
const accepts = 500 * time.Millisecond

// sockets of some pods, and which connections wait there for longer than a moment.
func sockets(ctx context.Context, n Node, pods []Pod) []PodSockets {
	out := make([]PodSockets, len(pods))
	wait := false
	for i, p := range pods {
		out[i].Pod = p
		list, err := n.Sockets(p)
		if err != nil {
			out[i].Error = err.Error()
		}
		out[i].Listening = list
		wait = wait || slices.ContainsFunc(list, func(s Socket) bool { return s.Waiting > 0 })
	}
	if !wait {
		return out
	}
	select {
	case <-time.After(accepts):
	case <-ctx.Done():
	}
	for i := range out {
		later, _ := n.Sockets(out[i].Pod) // what cannot be seen any more does not wait
		for j := range out[i].Listening {
			s := &out[i].Listening[j]
			again := slices.IndexFunc(later, func(l Socket) bool { return l.Protocol == s.Protocol && l.Address == s.Address })
			if again < 0 {
				s.Waiting = 0
			} else {
				s.Waiting = min(s.Waiting, later[again].Waiting)
			}
		}
	}
	return out
}

// ErrNotYet says that the node's network is not set up.
var ErrNotYet = errors.New("the node's network is not set up yet")

// ErrNoPod says that a pod has no network on this node.
func ErrNoPod(p Pod) error { return fmt.Errorf("pod %s does not run on this node", p) }
