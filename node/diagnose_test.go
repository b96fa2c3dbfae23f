package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/diagnose"
	"github.com/whalepod/whalepod/node/diagnose/doctor"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/session"
	"github.com/whalepod/whalepod/node/streams"
)

// early is an agent whose data plane is not set up.
func early(t *testing.T, changes ...desired.Change) *Agent {
	t.Helper()
	state, err := desired.Open(desired.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { state.Close() })
	state.Begin()
	if err := state.Apply(changes); err != nil {
		t.Fatal(err)
	}
	return &Agent{
		cfg: Config{
			DataDir: t.TempDir(), NodeIP: netip.MustParseAddr("198.51.100.11"), GossipPort: 7946, Logger: slog.New(slog.DiscardHandler),
			Identity: &session.Identity{Node: "n1", Masters: []string{"198.51.100.11:6444"}},
		},
		log: slog.New(slog.DiscardHandler), desired: state, guard: &guard{cfg: guardConfig{Thresholds: []pressure.Threshold{
			{Signal: pressure.NodeFsAvailable, Quantity: resource.NewQuantity(300<<20, resource.BinarySI)}, {Signal: pressure.NodeFsInodesFree, Fraction: 0.01},
		}}},
	}
}

func known() *cluster {
	return &cluster{
		service: netip.MustParsePrefix("10.254.0.0/16"), pods: netip.MustParsePrefix("10.244.0.0/16"), node: netip.MustParsePrefix("10.244.1.0/24"),
		dns: netip.MustParseAddr("10.254.254.1"), domain: "cluster.local",
	}
}

func TestQuestionsBeforeTheNetworkIsSetUp(t *testing.T) {
	a := early(t)
	e := examined{a}
	if _, err := e.Rules(t.Context(), "default/web"); !errors.Is(err, diagnose.ErrNotYet) {
		t.Error(err)
	}
	if _, err := e.Resolver(nil); !errors.Is(err, diagnose.ErrNotYet) {
		t.Error(err)
	}
	if _, err := e.Sockets(diagnose.Pod{Namespace: "default", Name: "web"}); !errors.Is(err, diagnose.ErrNotYet) {
		t.Error(err)
	}
	if s := e.Scope("default/web"); s.Allows(netip.MustParseAddrPort("10.244.1.5:80")) {
		t.Error("dials without knowing the cluster")
	}
	a.setTrouble(errors.New("DNS: address already in use"))
	if _, err := e.Rules(t.Context(), "default/web"); err == nil || !strings.Contains(err.Error(), "could not be set up: DNS: address already in use") {
		t.Error(err)
	}
	if p := e.place(); p.Trouble != "DNS: address already in use" || !p.Master || !p.Agent || !p.Running || p.MTU != 0 ||
		!maps.Equal(p.Floors, map[string]doctor.Floor{"nodefs.available": {Bytes: 300 << 20}, "nodefs.inodesFree": {Fraction: 0.01}}) {
		t.Errorf("%+v", p)
	}
	a.setTrouble(nil)
	if p := e.place(); p.Trouble != "" {
		t.Errorf("%+v", p)
	}
	// Streams to pods are refused in words, questions are answered.
	h := streams.New(streams.Config{Lookup: noPods{}, Diagnose: diagnose.NewHandler(e)})
	for path, want := range map[string]string{
		"GET /containerLogs/default/web/web": "the node's network is not set up yet",
		"POST " + diagnose.TracePath:         `"rules":"the node's network is not set up yet"`,
	} {
		method, path, _ := strings.Cut(path, " ")
		body, err := json.Marshal(diagnose.Question{Service: "default/web", Rules: true})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
		if !strings.Contains(w.Body.String(), want) || method == http.MethodPost && w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestWhatMayBeDialed(t *testing.T) {
	meta := func(ns, name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }
	svc := &corev1.Service{ObjectMeta: meta("default", "web"), Spec: corev1.ServiceSpec{
		ClusterIP: "10.254.0.9", ExternalIPs: []string{"203.0.113.5"}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.16"}, {Hostname: "lb.example.org"}}
	port := int32(6443)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-x", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}, {}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"198.51.100.20"}}},
	}
	peer := &corev1.Node{ObjectMeta: meta("", "n2"), Spec: corev1.NodeSpec{PodCIDR: "10.244.2.0/24"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "198.51.100.12"}},
	}}
	a := early(t,
		desired.Change{Resource: desired.Services, Key: "default/web", Object: svc, Revision: 1},
		desired.Change{Resource: desired.EndpointSlices, Key: "default/web-x", Object: slice, Revision: 1},
		desired.Change{Resource: desired.Nodes, Key: "n2", Object: peer, Revision: 1})
	a.cluster = known()
	e := examined{a}
	for _, c := range []struct {
		service, to string
		want        bool
	}{
		{"", "10.244.2.9:5432", true}, {"", "198.51.100.11:30080", true}, {"", "198.51.100.12:30080", true}, {"", "198.51.100.12:22", false},
		{"", "203.0.113.5:80", false}, {"default/web", "203.0.113.5:80", true}, {"default/web", "203.0.113.16:80", true}, {"default/web", "203.0.113.5:22", false},
		{"default/web", "198.51.100.20:6443", true}, {"default/other", "198.51.100.20:6443", false}, {"default/web", "198.51.100.20:22", false}, {"nonsense", "203.0.113.5:80", false},
	} {
		if got := e.Scope(c.service).Allows(netip.MustParseAddrPort(c.to)); got != c.want {
			t.Errorf("%s for %q: %v", c.to, c.service, got)
		}
	}
	p := e.place()
	if got := fmt.Sprint(p.Peers, p.Pods, p.Services, p.DNS); got != "[{n2 198.51.100.12 10.244.2.1 false}] 10.244.0.0/16 10.254.0.0/16 10.254.254.1" {
		t.Error(got)
	}
}

func TestResolverOfAPod(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: types.UID("u1")}}
	a := early(t, desired.Change{Resource: desired.Pods, Key: "default/web", Object: pod, Revision: 1})
	a.cluster = known()
	e := examined{a}
	dir := filepath.Join(a.cfg.DataDir, "pods", "u1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("search default.svc.cluster.local\nnameserver 10.254.254.1\noptions ndots:5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := e.Resolver(&diagnose.Pod{Namespace: "default", Name: "web"})
	if err != nil || fmt.Sprint(r) != "{[10.254.254.1] [default.svc.cluster.local] 5}" {
		t.Error(r, err)
	}
	if _, err := e.Resolver(&diagnose.Pod{Namespace: "default", Name: "gone"}); err == nil || err.Error() != "pod default/gone does not run on this node" {
		t.Error(err)
	}
	r, err = e.Resolver(nil)
	if err != nil || r.Candidates("web.default")[0] != "web.default.svc.cluster.local." {
		t.Error(r, err)
	}
}
