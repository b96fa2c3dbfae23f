package healthport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// ports are listeners in memory, by number.
type ports struct {
	mu    sync.Mutex
	open  map[uint16]*listener
	taken map[uint16]bool // by another program
}

type listener struct {
	all   *ports
	port  uint16
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *ports) listen(port uint16) (net.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[port] || p.open[port] != nil {
		return nil, errors.New("address already in use")
	}
	l := &listener{all: p, port: port, conns: make(chan net.Conn), done: make(chan struct{})}
	p.open[port] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.all.mu.Lock()
		defer l.all.mu.Unlock()
		delete(l.all.open, l.port)
		close(l.done)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{Port: int(l.port)} }

// ask fetches from a port; a status of 0 means that nobody listens.
func (p *ports) ask(t *testing.T, port uint16) (status int, header http.Header, body string) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	l := p.open[port]
	p.mu.Unlock()
	if l == nil {
		return 0, nil, ""
	}
	client, server := net.Pipe()
	defer client.Close()
	l.conns <- server
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

func TestHealthPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &ports{open: map[uint16]*listener{}, taken: map[uint16]bool{30003: true}}
		var mu sync.Mutex
		healthy := false
		var warnings []string
		s := New(Config{
			Node: "node1", Listen: p.listen,
			Healthy: func() bool { mu.Lock(); defer mu.Unlock(); return healthy },
			Warn:    func(s Service, reason, message string) { warnings = append(warnings, s.Name+" "+reason+": "+message) },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if len(p.open) != 0 {
				t.Errorf("still open: %d", len(p.open))
			}
		}()
		a, b, c := Service{Namespace: "default", Name: "a", Port: 30001, Endpoints: 2}, Service{Namespace: "default", Name: "b", Port: 30002}, Service{Namespace: "default", Name: "c", Port: 30003, Endpoints: 1}
		s.Set([]Service{a, b, c})

		status, _, body := p.ask(t, 30001)
		if status != 503 || !strings.Contains(body, `"serviceProxyHealthy": false`) {
			t.Errorf("before the rules are in force: %d %s", status, body)
		}
		mu.Lock()
		healthy = true
		mu.Unlock()
		status, header, body := p.ask(t, 30001)
		want := "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"a\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
		if status != 200 || body != want || header.Get("X-Load-Balancing-Endpoint-Weight") != "2" || header.Get("Content-Type") != "application/json" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%d %v\n%s\nwant\n%s", status, header, body, want)
		}
		if status, header, _ = p.ask(t, 30002); status != 503 || header.Get("X-Load-Balancing-Endpoint-Weight") != "0" {
			t.Errorf("without an endpoint: %d %v", status, header)
		}
		b.Endpoints = 1
		s.Set([]Service{a, b, c})
		if status, _, _ = p.ask(t, 30002); status != 200 {
			t.Errorf("an endpoint came: %d", status)
		}

		if status, _, _ = p.ask(t, 30003); status != 0 {
			t.Errorf("somebody else's port answers %d", status)
		}
		if want := []string{`c FailedToStartServiceHealthcheck: node node1 failed to start healthcheck "default/c" on port 30003: address already in use`}; !slices.Equal(warnings, want) {
			t.Errorf("%q", warnings)
		}
		time.Sleep(2 * retryEvery)
		p.mu.Lock()
		p.taken[30003] = false
		p.mu.Unlock()
		time.Sleep(2 * retryEvery)
		if status, _, _ = p.ask(t, 30003); status != 200 || len(warnings) != 1 {
			t.Errorf("the port is free: %d; %q", status, warnings)
		}

		b.Port = 30004
		s.Set([]Service{b})
		for port, want := range map[uint16]int{30001: 0, 30002: 0, 30003: 0, 30004: 200} {
			if status, _, _ = p.ask(t, port); status != want {
				t.Errorf("port %d after the change: %d, want %d", port, status, want)
			}
		}
	})
}
