package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/whalepod/whalepod/api/resource"
)

const (
	// maxBody is the largest request body, as in Kubernetes' API server (3 MiB).
	maxBody = 3 * 1024 * 1024
	// requestTimeout bounds requests that are neither watches nor connections, as Kubernetes' --request-timeout.
	requestTimeout = 60 * time.Second
	// defaultMaxInFlight bounds the requests served at once. Cheap servers have one core: more would only wait in memory.
	defaultMaxInFlight = 200
	// slotPatience is how long a request waits for its turn before 429.
	slotPatience = 2 * time.Second
	// drainPatience is how long Serve waits for requests in flight when it is asked to end.
	drainPatience = 10 * time.Second
)

// Config of a Server. Table, Backend and Auth are required.
type Config struct {
	Table   *resource.Table
	Backend Backend
	// Connector serves log, exec and the like; without it they answer 404.
	Connector Connector
	Auth      Authenticator
	// Aggregator serves what other API servers answer for; nil for nothing.
	Aggregator Aggregator
	// Authorize says whether a user may do something, and why (not). nil allows everything to everybody who was
	// authenticated. It is not asked about members of system:masters.
	Authorize func(ctx context.Context, u User, a Attributes) (allowed bool, reason string)
	// Rules lists what a user may do in a namespace and in the cluster; err says why the list may not be whole. Without it
	// only members of system:masters get an answer.
	Rules func(ctx context.Context, u User, namespace string) ([]authorizationv1.ResourceRule, []authorizationv1.NonResourceRule, error)
	// Version as /version tells it, as in "v1.36.3+whalepod-0.1.0"; Commit and BuildDate go with it.
	Version, Commit, BuildDate string
	// Checks are further /readyz checks, each with its name.
	Checks []Check
	// Metrics serves /metrics; Registerer receives the server's own metrics. Either may be nil.
	Metrics http.Handler
	// Handlers serve further paths to those who may GET them. What takes longer than a request may clears the deadlines.
	Handlers   map[string]http.Handler
	Registerer prometheus.Registerer
	Logger     *slog.Logger
	// MaxInFlight bounds the requests served at once; 0 means the default.
	MaxInFlight int
}

// Check is one named part of /readyz.
type Check struct {
	Name string
	Do   func() error
}

// Server is the http.Handler. It starts nothing until Serve.
type Server struct {
	Config
	log       *slog.Logger
	codecs    codecs
	slots     chan struct{}
	patience  time.Duration
	events    *eventCache
	discovery discoveryCache
	managers  fieldManagers
	metrics   *metrics

	// life is the context of Serve: watches and connections end with it, other requests may finish.
	life     atomic.Pointer[context.Context]
	draining atomic.Bool
}

// New makes a server.
func New(c Config) *Server {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = defaultMaxInFlight
	}
	s := &Server{
		Config:   c,
		log:      c.Logger.With("component", "apiserver"),
		codecs:   newCodecs(c.Table.Scheme()),
		slots:    make(chan struct{}, c.MaxInFlight),
		patience: slotPatience,
		events:   newEventCache(),
		metrics:  newMetrics(c.Registerer),
	}
	return s
}

// Serve answers on the listener until ctx ends, then ends watches, lets other requests finish, and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	s.life.Store(&ctx)
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       3 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// Pings find clients whose machine is gone; a watch would keep them otherwise.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 500, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 30 * time.Second},
	}
	if tlsConfig != nil {
		srv.TLSConfig = serverTLS(tlsConfig)
		l = tls.NewListener(l, srv.TLSConfig)
	}
	var silent newConns
	srv.ConnState = silent.note
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.draining.Store(true)
	silent.close()
	drain, done := context.WithTimeout(context.WithoutCancel(ctx), drainPatience)
	defer done()
	if err := srv.Shutdown(drain); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.log.Info("requests cut off at the end", "err", err)
		srv.Close()
	}
	<-failed
	return nil
}

// newConns are the connections on which nothing was asked yet: of port checks and of clients that connect ahead. Shutdown
// would wait five seconds for each.
type newConns struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// note is for http.Server.ConnState.
func (n *newConns) note(c net.Conn, state http.ConnState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(n.open, c)
	case n.closed:
		c.Close()
	default:
		if n.open == nil {
			n.open = map[net.Conn]struct{}{}
		}
		n.open[c] = struct{}{}
	}
}

// close ends those that there are, and those that still come.
func (n *newConns) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	for c := range n.open {
		c.Close()
	}
}

// serverTLS adds what the server needs to a configuration, also to those that it makes for single clients.
func serverTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"h2", "http/1.1"}
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	if each := c.GetConfigForClient; each != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := each(hello)
			if own == nil || err != nil {
				return own, err
			}
			return serverTLS(own), nil
		}
	}
	return c
}
