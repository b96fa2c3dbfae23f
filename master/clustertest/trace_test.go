package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
	"github.com/whalepod/whalepod/node/diagnose/trace"
	"github.com/whalepod/whalepod/node/streams"
)

// kernel stands for what of a node there is only with a kernel: its rules and names are those of the Services that the agent
// has been told of, and the processes of all pods listen on port 80.
type kernel struct {
	*agent
	flushed bool
}

var _ diagnose.Node = (*kernel)(nil)

func (k *kernel) Name() string { return k.name }

func (k *kernel) Scope(string) diagnose.Scope {
	return diagnose.Scope{Pods: netip.MustParsePrefix("10.244.0.0/16"), Services: netip.MustParsePrefix("10.254.0.0/16")}
}

func (k *kernel) Dial(_ context.Context, _ *diagnose.Pod, proto string, to netip.AddrPort) (net.Conn, error) {
	here, there := net.Pipe()
	switch {
	case to.Port() == 53:
		go k.answer(there)
		return here, nil
	case to.Port() != 80 || k.flushed && netip.MustParsePrefix("10.254.0.0/16").Contains(to.Addr()):
		here.Close()
		there.Close()
		return nil, &net.OpError{Op: "dial", Net: proto, Err: syscall.ECONNREFUSED}
	}
	there.Close()
	return here, nil
}

// answer one question of DNS from the Services that are known.
func (k *kernel) answer(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	var m dnsmessage.Message
	if err != nil || m.Unpack(buf[:n]) != nil {
		return
	}
	m.Response, m.RCode = true, dnsmessage.RCodeNameError
	part := append(strings.Split(m.Questions[0].Name.String(), "."), "", "", "")
	if svc, ok := k.state.Service(part[1], part[0]); ok && part[2] == "svc" {
		m.RCode = dnsmessage.RCodeSuccess
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: netip.MustParseAddr(svc.Spec.ClusterIP).As4()},
		}}
	}
	if out, err := m.Pack(); err == nil {
		_, _ = conn.Write(out)
	}
}

func (k *kernel) Ping(_ context.Context, _ *diagnose.Pod, to netip.Addr) (diagnose.Pinged, error) {
	return diagnose.Pinged{Address: to, Small: true, Full: true, Size: 1500}, nil
}

func (k *kernel) Resolver(from *diagnose.Pod) (diagnose.Resolver, error) {
	r := diagnose.Resolver{Servers: []netip.Addr{netip.MustParseAddr("10.254.254.1")}, Search: []string{"svc.cluster.local"}, NDots: 5}
	if from != nil {
		r.Search = append([]string{from.Namespace + ".svc.cluster.local"}, r.Search...)
	}
	return r, nil
}

func (k *kernel) Via(netip.Addr) string { return "eth0" }

func (k *kernel) Rules(_ context.Context, service string) (*diagnose.Rules, error) {
	namespace, name, _ := strings.Cut(service, "/")
	svc, ok := k.state.Service(namespace, name)
	if !ok {
		return &diagnose.Rules{}, nil
	}
	var eps []netip.AddrPort
	for _, s := range k.state.EndpointSlices() {
		if s.Labels["kubernetes.io/service-name"] != name || len(s.Ports) == 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				eps = append(eps, netip.AddrPortFrom(netip.MustParseAddr(e.Addresses[0]), uint16(*s.Ports[0].Port)))
			}
		}
	}
	slices.SortFunc(eps, netip.AddrPort.Compare)
	w := diagnose.Way{
		Port: "80", Protocol: "TCP", Address: netip.AddrPortFrom(netip.MustParseAddr(svc.Spec.ClusterIP), 80),
		Want: diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: eps},
	}
	if len(eps) == 0 {
		w.Want.Action = diagnose.Reject
	}
	if w.Have = w.Want; k.flushed {
		w.Have = diagnose.Verdict{Action: diagnose.Reject, Missing: "chain WP-SERVICES is empty"}
	}
	return &diagnose.Rules{Known: true, Applied: true, Ways: []diagnose.Way{w}}, nil
}

func (k *kernel) Sockets(p diagnose.Pod) ([]diagnose.Socket, error) {
	if _, err := k.manager.Sandbox(p.Namespace, p.Name, p.UID); err != nil {
		return nil, diagnose.ErrNoPod(p)
	}
	return []diagnose.Socket{{Protocol: "TCP", Address: netip.MustParseAddrPort("0.0.0.0:80")}}, nil
}

func (k *kernel) Drops(context.Context, []netip.Addr) ([]string, error) { return nil, nil }
func (k *kernel) Health(context.Context) []doctor.Finding {
	return []doctor.Finding{{Check: "docker", State: doctor.OK, What: k.name}}
}

// ask as wpctl does: through the API server, which finds the node's tunnel.
func (c *cluster) ask(ctx context.Context, node string, q *diagnose.Question) (*diagnose.Answer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	res, err := c.proxied(ctx, node, strings.TrimPrefix(diagnose.TracePath, "/"), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return nil, fmt.Errorf("%s: %s", res.Status, text)
	}
	a := &diagnose.Answer{}
	return a, json.NewDecoder(res.Body).Decode(a)
}

// The whole way of wpctl trace: objects that the master's controllers write, questions through tunnels, and agents that
// answer from what they have been told.
func TestTraceThroughTheTunnels(t *testing.T) {
	run(t, 2, func(c *cluster) {
		kernels := map[string]*kernel{}
		for _, a := range c.agents {
			a.stop()
			k := &kernel{agent: a}
			kernels[a.name] = k
			a.serve = func(ctx context.Context, conn net.Conn) {
				streams.New(streams.Config{Engine: a.engine.As(a.name), Lookup: lookup{a.manager}, Diagnose: diagnose.NewHandler(k)}).ServeConn(ctx, conn)
			}
			c.start(a)
		}
		for i, name := range []string{"p1", "p2"} {
			p := pinned(name, fmt.Sprint("n", i+1))
			p.Labels = map[string]string{"app": "web"}
			c.createPod(p)
		}
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}},
		}}
		if _, err := c.kube.CoreV1().Services("default").Create(c.ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		look := func(o trace.Options) (string, *trace.Report) {
			o.Kind, o.Namespace, o.Name = "service", "default", "web"
			r, err := trace.Run(c.ctx, c.kube, c.ask, o)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			r.Print(&b)
			return b.String(), r
		}
		expect := func(what, broken string, words ...string) {
			t.Helper()
			var text string
			var r *trace.Report
			c.eventually(time.Minute, what, func() bool {
				text, r = look(trace.Options{})
				return r.Broken == broken
			})
			for _, w := range words {
				if !strings.Contains(text, w) {
					t.Errorf("%s: no %q in\n%s", what, w, text)
				}
			}
		}
		patch := func(text string) {
			t.Helper()
			if _, err := c.kube.CoreV1().Services("default").Patch(c.ctx, "web", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		expect("all is well", "", "tried from n1, n2", "✓ rules", "to 2 endpoints", "✓ container   listens on 80/TCP", "✓ connection  all 2 endpoints answer", "✓ address", "Nothing is broken")
		if text, r := look(trace.Options{FromPod: "p1"}); r.Broken != "" || !strings.Contains(text, "tried from pod p1") {
			t.Error(text)
		}
		kernels["n2"].flushed = true
		expect("flushed rules", "rules", "n2: no rule leads", "chain WP-SERVICES is empty")
		kernels["n2"].flushed = false
		patch(`{"spec": {"ports": [{"port": 80, "targetPort": 81}]}}`)
		expect("a wrong targetPort", "targetPort", "set targetPort: 80 ")
		patch(`{"spec": {"ports": [{"port": 80, "targetPort": 80}], "selector": {"app": "wbe"}}}`)
		expect("a typo in the selector", "selector", "pod p1 has app=web")
		patch(`{"spec": {"selector": {"app": "web"}}}`)
		expect("all is well again", "")
		c.agents["n2"].cable(false)
		expect("an agent without a session", "nodes", "n2: ", "has no session with the master", "wpctl doctor --node n2")
	})
}

// doctor's question takes the same way; a node that answers as agents did before has no such path.
func TestDoctorThroughTheTunnel(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		a.stop()
		a.serve = func(ctx context.Context, conn net.Conn) {
			streams.New(streams.Config{Engine: a.engine.As("n1"), Lookup: lookup{a.manager}, Diagnose: diagnose.NewHandler(&kernel{agent: a})}).ServeConn(ctx, conn)
		}
		c.start(a)
		var h diagnose.Health
		c.eventually(10*time.Second, "an answer", func() bool {
			res, err := c.proxied(c.ctx, "n1", strings.TrimPrefix(diagnose.DoctorPath, "/"), strings.NewReader("{}"))
			if err != nil {
				return false
			}
			defer res.Body.Close()
			return res.StatusCode == http.StatusOK && json.NewDecoder(res.Body).Decode(&h) == nil
		})
		if h.Node != "n1" || len(h.Findings) != 1 || h.Findings[0].What != "n1" {
			t.Errorf("%+v", h)
		}
		a.stop()
		a.serve = func(ctx context.Context, conn net.Conn) {
			streams.New(streams.Config{Engine: a.engine.As("n1"), Lookup: lookup{a.manager}}).ServeConn(ctx, conn)
		}
		c.start(a)
		c.eventually(10*time.Second, "no such path", func() bool {
			_, err := c.ask(c.ctx, "n1", &diagnose.Question{})
			return err != nil && strings.Contains(err.Error(), "404") && !errors.Is(err, io.EOF)
		})
	})
}
