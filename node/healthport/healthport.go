// Package healthport answers at the healthCheckNodePort of each Service with externalTrafficPolicy Local, so that a load
// balancer in front of the nodes sends only to those that have an endpoint. Answers are kube-proxy's, word for word. It reads
// no API objects: it is told what to answer.
package healthport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// retryEvery is how often a port that was taken is tried again.
	retryEvery = 15 * time.Second
	// Load balancers ask often and say little.
	readTimeout, writeTimeout, idleTimeout = 5 * time.Second, 5 * time.Second, 30 * time.Second
	maxHeader                              = 8 << 10
	// ReasonFailed is the reason of the event about a port that cannot be listened on.
	ReasonFailed = "FailedToStartServiceHealthcheck"
)

// Service is one with a health check port.
type Service struct {
	Namespace, Name, UID string
	Port                 uint16
	// Endpoints are how many different ready endpoints it has on this node.
	Endpoints int
}

// Config of a Server.
type Config struct {
	Node string
	// Healthy says whether the node's rules for Services are in force.
	Healthy func() bool
	// Listen opens a port on all addresses of the node; nil: TCP over IPv4, as kube-proxy has it.
	Listen func(port uint16) (net.Listener, error)
	// Warn is told what users should know about a Service; it must return at once. It may be nil.
	Warn   func(s Service, reason, message string)
	Logger *slog.Logger
}

// Server listens on the ports. Set returns at once; Run does the work.
type Server struct {
	cfg  Config
	log  *slog.Logger
	poke chan struct{}

	mu   sync.Mutex
	want map[uint16]Service

	open   map[uint16]*http.Server // only Run's
	warned map[uint16]bool         // only Run's
}

// New starts nothing.
func New(cfg Config) *Server {
	if cfg.Listen == nil {
		cfg.Listen = func(port uint16) (net.Listener, error) {
			return new(net.ListenConfig).Listen(context.Background(), "tcp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port))))
		}
	}
	if cfg.Warn == nil {
		cfg.Warn = func(Service, string, string) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, log: cfg.Logger.With("component", "healthport"), poke: make(chan struct{}, 1),
		want: map[uint16]Service{}, open: map[uint16]*http.Server{}, warned: map[uint16]bool{},
	}
}

// Set replaces the Services that have a port.
func (s *Server) Set(services []Service) {
	want := make(map[uint16]Service, len(services))
	for _, svc := range services {
		want[svc.Port] = svc
	}
	s.mu.Lock()
	s.want = want
	s.mu.Unlock()
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// Run listens until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var serving sync.WaitGroup
	defer func() {
		for _, server := range s.open {
			_ = server.Close()
		}
		serving.Wait()
	}()
	for {
		var retry <-chan time.Time
		if !s.sync(&serving) {
			retry = time.After(retryEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		case <-retry:
		}
	}
}

// sync closes ports that no Service has any more and opens those that are new. It returns whether all are open.
func (s *Server) sync(serving *sync.WaitGroup) (all bool) {
	s.mu.Lock()
	want := s.want
	s.mu.Unlock()
	for port, server := range s.open {
		if _, keep := want[port]; !keep {
			_ = server.Close()
			delete(s.open, port)
		}
	}
	for port := range s.warned {
		if _, keep := want[port]; !keep {
			delete(s.warned, port)
		}
	}
	all = true
	for port, svc := range want {
		if s.open[port] != nil {
			continue
		}
		l, err := s.cfg.Listen(port)
		if err != nil {
			all = false
			if !s.warned[port] {
				s.warned[port] = true
				s.log.Warn("health check port cannot be opened", "service", svc.Namespace+"/"+svc.Name, "port", port, "err", err)
				s.cfg.Warn(svc, ReasonFailed, fmt.Sprintf("node %s failed to start healthcheck %q on port %d: %v", s.cfg.Node, svc.Namespace+"/"+svc.Name, port, err))
			}
			continue
		}
		delete(s.warned, port)
		server := &http.Server{
			Handler: s.handler(port), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
			ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}
		s.open[port] = server
		serving.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				s.log.Warn("health check port is closed", "port", port, "err", err)
			}
		})
	}
	return all
}

// health is what kube-proxy answers.
type health struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// handler answers for whichever Service has the port now, on any path and to any method, as kube-proxy does.
func (s *Server) handler(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		svc, ok := s.want[port]
		s.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable) // it is being closed
			return
		}
		var body health
		body.Service.Namespace, body.Service.Name = svc.Namespace, svc.Name
		body.LocalEndpoints, body.ServiceProxyHealthy = svc.Endpoints, s.cfg.Healthy()
		text, err := json.MarshalIndent(body, "", "\t")
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(svc.Endpoints))
		if svc.Endpoints == 0 || !body.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(text)
	})
}
