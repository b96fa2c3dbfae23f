package clustertest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"google.golang.org/grpc/test/bufconn"

	"github.com/whalepod/whalepod/master"
	"github.com/whalepod/whalepod/node/membership"
)

// The join token that every cluster here has.
const token = "abcdef.0123456789abcdef"

// cluster is a master and its agents.
type cluster struct {
	*testing.T
	ctx    context.Context
	dir    string
	gossip *gossip
	http   *http.Client
	kube   *kubernetes.Clientset
	agents map[string]*agent
	// pools are for the next start of the master.
	pools []string

	mu         sync.Mutex
	api, nodes *bufconn.Listener // of the master that runs
	stopMaster func()
}

// run calls a test in a bubble of virtual time with a cluster of n agents that are ready.
func run(t *testing.T, n int, test func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		c := &cluster{T: t, ctx: ctx, dir: t.TempDir(), gossip: newGossip(), agents: map[string]*agent{}}
		defer c.end()
		c.startMaster()
		c.connect()
		c.createToken()
		for i := range n {
			c.start(c.join([]string{"n1", "n2", "n3", "n4", "n5"}[i]))
		}
		c.eventually(10*time.Second, "all nodes ready", func() bool { return c.readyNodes() == n })
		test(c)
	})
}

// end stops everything, so that nothing outlives the bubble.
func (c *cluster) end() {
	for _, a := range c.agents {
		a.stop()
	}
	c.stopMaster()
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
	synctest.Wait()
}

func (c *cluster) startMaster() {
	c.Helper()
	api, nodes := bufconn.Listen(1<<20), bufconn.Listen(1<<20)
	m, err := master.New(master.Config{
		DataDir: filepath.Join(c.dir, "master"), API: api, Agents: nodes,
		Advertise: netip.MustParseAddr("127.0.0.1"), APIPort: 6443, AgentsPort: 6444,
		ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), PodCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		ClusterDomain: "cluster.local", DNSIP: netip.MustParseAddr("10.254.254.1"), NodeGrace: 10 * time.Second, NotReadyToleration: 10 * time.Second,
		GossipPort: 7946, NodeGossipPort: 7946, Gossip: c.gossip, Version: "v0.0.0-test", Logger: c.logger("master"), LBPools: c.pools,
	})
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			c.Error("master:", err)
		}
	}()
	c.mu.Lock()
	c.api, c.nodes = api, nodes
	c.mu.Unlock()
	c.stopMaster = sync.OnceFunc(func() {
		cancel()
		<-done
		api.Close()
		nodes.Close()
	})
}

// restartMaster ends the master and starts another on the same files, after a while without one.
func (c *cluster) restartMaster(away time.Duration) {
	c.Helper()
	c.stopMaster()
	time.Sleep(away)
	c.startMaster()
}

func (c *cluster) logger(of string) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("of", of)
}

func (c *cluster) dialAPI(ctx context.Context, _, _ string) (net.Conn, error) {
	c.mu.Lock()
	l := c.api
	c.mu.Unlock()
	return l.DialContext(ctx)
}

func (c *cluster) dialNodes(ctx context.Context, _ string) (net.Conn, error) {
	c.mu.Lock()
	l := c.nodes
	c.mu.Unlock()
	return l.DialContext(ctx)
}

// connect makes the client that the admin's kubeconfig describes.
func (c *cluster) connect() {
	c.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "master", "admin.kubeconfig"))
	if err != nil {
		c.Fatal(err)
	}
	config.Dial = c.dialAPI
	config.Proxy = http.ProxyURL(nil)
	config.QPS = -1
	config.Timeout = 0
	if c.http, err = rest.HTTPClientFor(config); err != nil {
		c.Fatal(err)
	}
	if c.kube, err = kubernetes.NewForConfigAndClient(config, c.http); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) createToken() {
	c.Helper()
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"expiration": time.Now().Add(time.Hour).Format(time.RFC3339),
		},
	}
	c.eventually(10*time.Second, "the join token", func() bool {
		_, err := c.kube.CoreV1().Secrets(s.Namespace).Create(c.ctx, s, metav1.CreateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			c.Fatal(err)
		}
		return err == nil
	})
}

// eventually lets time pass until cond holds.
func (c *cluster) eventually(within time.Duration, what string, cond func() bool) {
	c.Helper()
	const step = 100 * time.Millisecond
	for began := time.Now(); time.Since(began) <= within; time.Sleep(step) {
		synctest.Wait()
		if cond() {
			return
		}
	}
	c.Fatalf("not within %v: %s", within, what)
}

func (c *cluster) readyNodes() (n int) {
	list, err := c.kube.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	for _, node := range list.Items {
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				n++
			}
		}
	}
	return n
}

// gossip is told by the test who is dead.
type gossip struct {
	changed chan struct{}
	mu      sync.Mutex
	dead    map[string]time.Time
	alive   map[string]bool
}

func newGossip() *gossip {
	return &gossip{changed: make(chan struct{}, 1), dead: map[string]time.Time{}, alive: map[string]bool{}}
}

func (g *gossip) Members() (out []membership.Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.alive {
		out = append(out, membership.Member{Name: name, Addr: "127.0.0.1"})
	}
	return out
}

func (g *gossip) Dead() map[string]time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]time.Time{}
	for name, at := range g.dead {
		out[name] = at
	}
	return out
}

func (g *gossip) Changed() <-chan struct{} { return g.changed }

func (g *gossip) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (g *gossip) set(name string, alive bool) {
	g.mu.Lock()
	if alive {
		g.alive[name] = true
		delete(g.dead, name)
	} else {
		delete(g.alive, name)
		g.dead[name] = time.Now()
	}
	g.mu.Unlock()
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

var errCut = errors.New("the cable is cut")
