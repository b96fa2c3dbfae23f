//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

// page is what a browser got.
type page struct {
	status int
	header http.Header
	body   string
}

const pageLimit = 30 * time.Second

// where a client stands: beside the nodes, or on one of them.
type place struct {
	name string
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// beside is a machine on the same switch as the nodes.
func beside() place { return place{"beside the nodes", cluster.Dial} }

// on is a node itself.
func on(n *lab.Node) place {
	return place{"on " + n.Name, func(ctx context.Context, network, addr string) (net.Conn, error) {
		return lab.DialIn(ctx, filepath.Join("/run/netns", n.Name), network, addr)
	}}
}

// client makes a browser: it keeps cookies and follows redirects. Each request is
// a connection of its own, because a Service balances connections.
func (p place) client() *http.Client {
	jar, _ := cookiejar.New(nil) // without options it cannot fail
	return &http.Client{
		Timeout:   pageLimit,
		Jar:       jar,
		Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true},
	}
}

// get fetches one page.
func (p place) get(ctx context.Context, url string) (page, error) { return fetch(ctx, p.client(), url) }

func fetch(ctx context.Context, c *http.Client, url string) (page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return page{}, err
	}
	return do(c, req)
}

func do(c *http.Client, req *http.Request) (page, error) {
	res, err := c.Do(req)
	if err != nil {
		return page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	return page{res.StatusCode, res.Header, string(body)}, err
}

// shows complains unless the page is there and holds the text.
func (p page) shows(text string) error {
	if p.status != http.StatusOK || !strings.Contains(p.body, text) {
		return fmt.Errorf("status %d, without %q: %.600s", p.status, text, p.body)
	}
	return nil
}

// pageShows waits until the page at url holds the text.
func pageShows(t testing.TB, from place, url, text string) page {
	t.Helper()
	var got page
	eventually(t, settle, fmt.Sprintf("%s, fetched %s, shows %q", url, from.name, text), func() (err error) {
		if got, err = from.get(t.Context(), url); err != nil {
			return err
		}
		return got.shows(text)
	})
	return got
}

// nodeURL is a node's page on a port of its address.
func nodeURL(n *lab.Node, port int) string {
	return "http://" + net.JoinHostPort(n.Address.String(), fmt.Sprint(port)) + "/"
}

// onEveryAddress sees that a NodePort answers on every address that the articles
// try: each node's own from beside the nodes and from the node, the loopback
// address and docker0's from the node.
func onEveryAddress(t testing.TB, port int, text string) {
	t.Helper()
	for _, n := range cluster.Nodes() {
		pageShows(t, beside(), nodeURL(n, port), text)
		for _, addr := range []string{n.Address.String(), "127.0.0.1", docker0(t, n)} {
			pageShows(t, on(n), fmt.Sprintf("http://%s:%d/", addr, port), text)
		}
	}
}

// docker0 is the address of Docker's own bridge on a node.
func docker0(t testing.TB, n *lab.Node) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	out, err := output(n.Command(ctx, "ip", "-4", "-o", "address", "show", "dev", "docker0"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out, " inet ")
	addr, _, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		t.Fatalf("%s: docker0 has no address: %q", n.Name, out)
	}
	return addr
}

// load is a steady stream of requests, each on a new connection, at a rate that
// holds as long as answers come within a second. On a machine that is too busy for
// it the load waits for answers: what is asked is whether requests are lost, not
// how many a machine can serve, and to send on would end in time-outs that nobody
// but the load is to blame for. A Service that answers nobody still has a second's
// requests waiting, which count as lost in the end.
type load struct {
	cancel context.CancelFunc
	begin  time.Time
	done   sync.WaitGroup

	mu       sync.Mutex
	sent     int
	failures []failure
	served   map[string]int // good answers by their body
}

// failure is one request that got no good answer.
type failure struct {
	at   time.Duration // since the load began
	took time.Duration
	err  error
}

func (f failure) String() string {
	return fmt.Sprintf("at %s, after %s: %v", f.at.Round(time.Millisecond), f.took.Round(time.Millisecond), f.err)
}

const (
	// requestLimit is when a request counts as lost that nobody has refused: on a busy machine an answer may take a while.
	requestLimit = 20 * time.Second
	// leastInFlight is for rates whose second is few requests.
	leastInFlight = 8
)

// startLoad begins to send rate requests a second. good judges an answer; nil
// takes any page with status 200. The load ends with the test at the latest.
func startLoad(t testing.TB, from place, url string, rate int, good func(page) error) *load {
	t.Helper()
	if good == nil {
		good = func(p page) error { return p.shows("") }
	}
	return startLoadOf(t, &http.Client{Timeout: requestLimit, Transport: &http.Transport{DialContext: from.dial, DisableKeepAlives: true}}, url, rate, good)
}

// startLoadOf is startLoad with a client that may keep its connections.
func startLoadOf(t testing.TB, client *http.Client, url string, rate int, good func(page) error) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, begin: time.Now(), served: map[string]int{}}
	slots := make(chan struct{}, max(rate, leastInFlight))
	l.done.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case <-ctx.Done():
				return
			case slots <- struct{}{}:
			}
			l.begun()
			l.done.Go(func() {
				l.one(client, url, good)
				<-slots
			})
		}
	})
	t.Cleanup(func() { l.stop() })
	return l
}

// one sends one request. It is not cut off when the load ends: the answer counts.
func (l *load) one(client *http.Client, url string, good func(page) error) {
	start := time.Now()
	p, err := fetch(context.Background(), client, url)
	if err == nil {
		err = good(p)
	}
	l.record(failure{start.Sub(l.begin), time.Since(start), err}, p.body)
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

func (l *load) begun() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
}

const maxBodies = 200 // different pages that a load remembers

func (l *load) record(f failure, body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.err != nil {
		l.failures = append(l.failures, f)
		return
	}
	if _, known := l.served[body]; known || len(l.served) < maxBodies {
		l.served[body]++
	}
}

// elapsed is the time since the load began, as failures count it.
func (l *load) elapsed() time.Duration { return time.Since(l.begin) }

// stop ends the load, waits for the last answers and returns how many requests
// were sent and which failed. It may be called twice.
func (l *load) stop() (sent int, failures []failure) {
	l.cancel()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent, l.failures
}

// lostNone ends the load, which must have sent something and lost nothing.
func (l *load) lostNone(t testing.TB) {
	t.Helper()
	sent, failures := l.stop()
	t.Logf("%d requests in %s, %d lost", sent, l.elapsed().Round(time.Millisecond), len(failures))
	if sent == 0 {
		t.Error("the load sent nothing")
	}
	for i, f := range failures {
		if i == 10 {
			t.Errorf("and %d more", len(failures)-i)
			break
		}
		t.Errorf("request lost %s", f)
	}
}
