package clustertest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/session"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// agent is one node: all of the real agent that touches no kernel.
type agent struct {
	c      *cluster
	name   string
	dir    string
	engine *fake.Engine
	net    *network
	mounts *mounter

	state   *desired.State
	outbox  *session.Outbox
	manager *pods.Manager
	stop    func()
	// serve, if set before the start, takes the tunnels.
	serve func(ctx context.Context, conn net.Conn)

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
	dials int
	// pools are what the master said last.
	pools []string
}

// caHash is what `wpctl token create` prints beside the token.
func (c *cluster) caHash() string {
	p, err := pki.Open(pki.Config{Dir: filepath.Join(c.dir, "master", "pki"), Logger: c.logger("pki")})
	if err != nil {
		c.Fatal(err)
	}
	return p.CAHash()
}

// join makes a machine a node; start starts its agent.
func (c *cluster) join(name string) *agent {
	c.Helper()
	a := &agent{
		c: c, name: name, dir: filepath.Join(c.dir, name), engine: fake.New(name), mounts: &mounter{}, conns: map[net.Conn]struct{}{}, stop: func() {},
		net: &network{node: len(c.agents) + 1, attached: map[string]string{}},
	}
	a.engine.AddImage("nginx:1", "nginx:2", "nginx")
	if _, err := session.Join(c.ctx, a.dir, session.JoinOptions{Master: "127.0.0.1:6444", Token: token, NodeName: name, CAHash: c.caHash(), Dial: c.dialNodes}); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, "resolv.conf"), []byte("nameserver 198.51.100.53\n"), 0o600); err != nil {
		c.Fatal(err)
	}
	c.agents[name] = a
	return a
}

// start begins an agent, or begins it again with what is on its disk.
func (c *cluster) start(a *agent) {
	c.Helper()
	id, err := session.LoadIdentity(a.dir)
	if err != nil {
		c.Fatal(err)
	}
	if a.state, err = desired.Open(desired.Config{Dir: filepath.Join(a.dir, "desired"), Log: c.logger(a.name)}); err != nil {
		c.Fatal(err)
	}
	a.outbox = session.NewOutbox()
	serve := a.serve
	if serve == nil {
		serve = answerHTTP(a.name)
	}
	client := session.New(session.Config{
		Identity: id, Dir: a.dir, Version: "v0.0.0-test", Node: func(context.Context) (*corev1.Node, error) { return a.node(), nil },
		Desired: a.state, Outbox: a.outbox, Serve: serve, Dial: a.dial, Logger: c.logger(a.name),
		Welcomed: func(config *agentv1.ClusterConfig, _ string) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.pools = config.LbPools
			return nil
		},
	})
	a.manager = pods.New(pods.Config{
		NodeName: a.name, DataDir: a.dir, Desired: a.state, Engine: a.engine.As(a.name), Network: a.net, Mounter: a.mounts,
		Report: reporter{a.outbox}, Record: recorder{a.outbox}, Tokens: tokens{client},
		Cluster:    func() netfiles.Cluster { return netfiles.Cluster{Domain: "cluster.local", DNS: "10.254.254.1"} },
		HostIPs:    func() []string { return []string{a.address()} },
		ResolvConf: filepath.Join(a.dir, "resolv.conf"), Log: c.logger(a.name),
	})
	a.outbox.Node(&a.node().Status)
	ctx, cancel := context.WithCancel(c.ctx)
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{a.manager.Run, client.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				c.Error(a.name, err)
			}
		})
	}
	c.gossip.set(a.name, true)
	a.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		a.state.Close()
	})
}

// tokens asks the master for service account tokens, as the agent does.
type tokens struct{ session *session.Client }

func (t tokens) Token(ctx context.Context, r volume.TokenRequest) (string, time.Time, error) {
	return t.session.Token(ctx, &agentv1.TokenRequest{Namespace: r.Namespace, PodName: r.PodName, PodUid: r.PodUID, ExpirationSeconds: r.ExpirationSeconds})
}

func (a *agent) address() string { return fmt.Sprintf("198.51.100.%d", 10+a.net.node) }

func (a *agent) node() *corev1.Node {
	have := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: a.name, Labels: map[string]string{corev1.LabelHostname: a.name}},
		Status: corev1.NodeStatus{
			Capacity: have, Allocatable: have, NodeInfo: corev1.NodeSystemInfo{MachineID: "machine-" + a.dir},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.address()}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}},
		},
	}
}

func (a *agent) dial(ctx context.Context, address string) (net.Conn, error) {
	a.mu.Lock()
	a.dials++
	cut := a.cut
	a.mu.Unlock()
	if cut {
		return nil, errCut
	}
	c, err := a.c.dialNodes(ctx, address)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns[c] = struct{}{}
	return c, nil
}

// cable cuts the agent off from the master, or plugs it in again.
func (a *agent) cable(in bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cut = !in
	if a.cut {
		for c := range a.conns {
			c.Close()
			delete(a.conns, c)
		}
	}
}

// told says which of the ConfigMaps and Secrets of these names in default the agent knows, and which pods.
func (a *agent) told(names ...string) string {
	var out []string
	for _, name := range names {
		if _, ok := a.state.ConfigMap("default", name); ok {
			out = append(out, "configmap/"+name)
		}
		if _, ok := a.state.Secret("default", name); ok {
			out = append(out, "secret/"+name)
		}
	}
	for _, p := range a.state.Pods() {
		out = append(out, "pod/"+p.Name)
	}
	return strings.Join(out, " ")
}

type reporter struct{ out *session.Outbox }

func (r reporter) Status(pod types.NamespacedName, uid string, status corev1.PodStatus) {
	r.out.Pod(pod.Namespace, pod.Name, types.UID(uid), &status)
}

func (r reporter) Gone(pod types.NamespacedName, uid string) {
	r.out.Gone(pod.Namespace, pod.Name, types.UID(uid))
}

type recorder struct{ out *session.Outbox }

func (r recorder) Event(pod *corev1.Pod, eventType, reason, message, fieldPath string) {
	r.out.Event(session.Event{
		Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), FieldPath: fieldPath,
		Type: eventType, Reason: reason, Message: message,
	})
}

// answerHTTP serves HTTP on tunnels: it echoes the body, says who it is, and on /drip writes until the client goes.
func answerHTTP(node string) func(context.Context, net.Conn) {
	return func(ctx context.Context, conn net.Conn) {
		done := make(chan struct{})
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/drip") {
				for r.Context().Err() == nil {
					fmt.Fprintln(w, "drip")
					w.(http.Flusher).Flush()
					select {
					case <-r.Context().Done():
					case <-time.After(time.Second):
					}
				}
				return
			}
			w.Header().Set("Node", node)
			fmt.Fprintf(w, "%s %s\n", r.Method, r.URL.RequestURI())
			io.Copy(w, r.Body)
		})}
		server.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				close(done)
			}
		}
		l := &oneConn{conn: conn, done: done}
		server.Serve(l)
	}
}

type oneConn struct {
	conn net.Conn
	once bool
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.once {
		l.once = true
		return l.conn, nil
	}
	<-l.done
	return nil, io.EOF
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// network gives addresses from memory.
type network struct {
	node     int
	mu       sync.Mutex
	attached map[string]string
	serial   int
	// attaching, if set, is told of each pod before it gets its address.
	attaching func(pod string)
}

func (n *network) Attach(_ context.Context, pod runtime.PodRef, _ int, want string, _ []pods.HostPort) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ip, ok := n.attached[pod.UID]; ok {
		return ip, nil
	}
	if n.attaching != nil {
		n.attaching(pod.Name)
	}
	if want == "" {
		n.serial++
		want = fmt.Sprintf("10.244.%d.%d", n.node, n.serial+1)
	}
	n.attached[pod.UID] = want
	return want, nil
}

func (n *network) Detach(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, uid)
	return nil
}

// mounter only writes down.
type mounter struct {
	mu sync.Mutex
	at []string
}

func (m *mounter) Tmpfs(dir string, _ int64) error      { return m.add(dir) }
func (m *mounter) Bind(_ *os.File, target string) error { return m.add(target) }
func (m *mounter) Below(dir string) (out []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.at {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}

func (m *mounter) add(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = append(m.at, dir)
	return nil
}

func (m *mounter) Unmount(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = slices.DeleteFunc(m.at, func(s string) bool { return s == dir })
	return nil
}
