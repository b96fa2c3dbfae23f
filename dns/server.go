package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sync/errgroup"
)

const (
	// batch is how many datagrams one system call may move when clients are many.
	batch = 32
	// maxDatagram is the largest query taken; a query is a name and an OPT record.
	maxDatagram = 4096
	// maxFailures is how many errors in a row a socket may report.
	maxFailures = 100
	// cacheSize is the default number of answers kept.
	cacheSize = 8192
)

var errTooManyAliases = errors.New("too many aliases")

// Config says where to listen and whom to ask.
type Config struct {
	Zone        *Zone
	PacketConns []net.PacketConn
	Listeners   []net.Listener
	// Forwarding says whom to ask for other names; the server's own addresses are left out.
	Forwarding Forwarding
	// CacheSize bounds the number of answers kept; 0 is 8192.
	CacheSize int
	Logger    *slog.Logger

	exchange exchange // for tests
}

// Server answers on the sockets it was given.
type Server struct {
	cfg     Config
	zone    *Zone
	log     *slog.Logger
	cache   *cache
	forward *forwarder
	turn    atomic.Uint32
	pending sync.WaitGroup
	changed chan struct{} // whom to ask
}

// New starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Zone == nil {
		return nil, errors.New("dns: no zone")
	}
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = cacheSize
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	log := cfg.Logger.With("component", "dns")
	s := &Server{cfg: cfg, zone: cfg.Zone, log: log, cache: newCache(cfg.CacheSize), forward: newForwarder(cfg.exchange, log), changed: make(chan struct{}, 1)}
	s.SetForwarding(cfg.Forwarding)
	return s, nil
}

// SetForwarding replaces the servers that are asked for names outside the cluster. What others said is forgotten.
func (s *Server) SetForwarding(to Forwarding) {
	var own []net.Addr
	for _, c := range s.cfg.PacketConns {
		own = append(own, c.LocalAddr())
	}
	for _, l := range s.cfg.Listeners {
		own = append(own, l.Addr())
	}
	s.forward.set(to, own)
	s.cache.clear()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run answers until ctx ends, then closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range s.cfg.PacketConns {
		g.Go(func() error { return s.serveUDP(ctx, c) })
	}
	for _, l := range s.cfg.Listeners {
		g.Go(func() error { return s.serveTCP(ctx, l) })
	}
	g.Go(func() error {
		s.watchLoops(ctx)
		for _, c := range s.cfg.PacketConns {
			_ = c.Close()
		}
		for _, l := range s.cfg.Listeners {
			_ = l.Close()
		}
		return nil
	})
	err := g.Wait()
	s.pending.Wait()
	return err
}

// watchLoops probes servers that are new, that nobody hears of, and those that loop, until ctx ends.
func (s *Server) watchLoops(ctx context.Context) {
	var rest <-chan time.Time
	for {
		suspect := s.forward.suspect
		if rest != nil {
			suspect = nil // not more often
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		case <-suspect:
		case <-rest:
			rest = nil
			if !s.forward.looping() {
				continue
			}
		}
		s.forward.probe(ctx)
		rest = time.After(probeAfter)
	}
}

func (s *Server) serveUDP(ctx context.Context, conn net.PacketConn) error {
	pc := ipv4.NewPacketConn(conn)
	in, out := make([]ipv4.Message, batch), make([]ipv4.Message, 0, batch)
	buffers := make([][]byte, batch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, maxDatagram)}
		buffers[i] = make([]byte, udpMost)
	}
	failures := 0
	for {
		n, err := pc.ReadBatch(in, 0)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("DNS socket %s: %w", conn.LocalAddr(), err)
			}
			// One error may belong to an earlier answer; one after the other means that the socket is of no use.
			if failures++; failures > maxFailures {
				return fmt.Errorf("DNS socket %s: %w", conn.LocalAddr(), err)
			}
			if !pause(ctx, time.Duration(failures)*time.Millisecond) {
				return nil
			}
			continue
		}
		failures = 0
		now := time.Now()
		out = out[:0]
		for i := range n {
			msg := in[i].Buffers[0][:in[i].N]
			var q question
			answer, done := s.quick(&q, msg, buffers[i], 0, now)
			if !done {
				s.forwardUDP(ctx, conn, in[i].Addr, msg)
				continue
			}
			if answer != nil {
				out = append(out, ipv4.Message{Buffers: [][]byte{answer}, Addr: in[i].Addr})
			}
		}
		for sent := 0; sent < len(out); {
			n, err := pc.WriteBatch(out[sent:], 0)
			if err != nil || n == 0 {
				n = 1 // this client is not reachable; the next may be
			}
			sent += n
		}
	}
}

// forwardUDP answers later, from a goroutine of its own; when too many are out the client is told to ask again.
func (s *Server) forwardUDP(ctx context.Context, conn net.PacketConn, to net.Addr, msg []byte) {
	copied := append([]byte(nil), msg...)
	var q question
	q.parse(copied)
	if len(s.forward.slots) == cap(s.forward.slots) { // without even a goroutine
		_, _ = conn.WriteTo(refuse(&q, make([]byte, headerLen, udpMost), dns.RcodeServerFailure), to)
		return
	}
	s.pending.Add(1)
	go func() {
		defer s.pending.Done()
		_, _ = conn.WriteTo(s.slowly(ctx, &q, make([]byte, udpMost), 0), to)
	}()
}

// slowly is slow, as long as not too many questions are out.
func (s *Server) slowly(ctx context.Context, q *question, out []byte, limit int) []byte {
	select {
	case s.forward.slots <- struct{}{}:
	default:
		return refuse(q, out, dns.RcodeServerFailure)
	}
	defer func() { <-s.forward.slots }()
	return s.slow(ctx, q, out, limit)
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
