package aggregator_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/aggregator"
	"github.com/whalepod/whalepod/master/internal/controllers/apiservice"
	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// pipes is a listener and its dialer without a network.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

type env struct {
	*controllertest.Env
	api   *server.Server
	other *pki.PKI
	// seen are the requests that the other server got, but for its discovery.
	mu   sync.Mutex
	seen []*http.Request
	down atomic.Bool
}

func openPKI(t *testing.T, names ...string) *pki.PKI {
	t.Helper()
	p, err := pki.Open(pki.Config{Dir: t.TempDir(), SANs: names, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

type everybody struct{}

func (everybody) Authenticate(*http.Request) (server.User, error) {
	return server.User{Name: "jane", Groups: []string{"devs"}, Extra: map[string][]string{"Team": {"sea"}}}, nil
}

// newEnv has a master and another API server, which believes nobody but that master.
func newEnv(t *testing.T) *env {
	e := &env{Env: controllertest.New(t), other: openPKI(t, "api.default.svc")}
	own := openPKI(t)
	conf := e.other.ServerTLS()
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	conf.ClientCAs.AppendCertsFromPEM(own.FrontProxyCA())
	listener := make(pipes)
	other := &http.Server{Handler: http.HandlerFunc(e.serveOther), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = other.Serve(tls.NewListener(listener, conf))
	}()
	t.Cleanup(func() {
		close(listener)
		other.Close()
		<-done
	})
	builtin := []schema.GroupVersion{{Group: "apps", Version: "v1"}}
	a := aggregator.New(aggregator.Config{
		Registry: e.Registry, Builtin: builtin, Certificate: own.FrontProxy, Logger: e.Logger,
		DialService: func(_ context.Context, namespace, name string, port int32) (net.Conn, error) {
			if namespace != "default" || name != "api" || port != 443 || e.down.Load() {
				return nil, errors.New("nobody is there")
			}
			near, far := net.Pipe()
			listener <- far
			return near, nil
		},
	})
	e.Start(apiservice.NewAvailability(apiservice.AvailabilityConfig{Registry: e.Registry, Check: a.Check, Logger: e.Logger}).Run)
	e.api = server.New(server.Config{Table: controllertest.Table(), Backend: e.Registry, Auth: everybody{}, Aggregator: a, Logger: e.Logger,
		Authorize: func(_ context.Context, _ server.User, a server.Attributes) (bool, string) {
			return a.Resource != "secrets", ""
		}})
	return e
}

func (e *env) serveOther(w http.ResponseWriter, req *http.Request) {
	if e.down.Load() {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if req.URL.Path == "/apis/sea.example.com/v1" {
		_ = json.NewEncoder(w).Encode(metav1.APIResourceList{GroupVersion: "sea.example.com/v1", APIResources: []metav1.APIResource{
			{Name: "whales/status", Kind: "Whale"}, {Name: "whales", Kind: "Whale", Namespaced: true, Verbs: metav1.Verbs{"get"}}, {Name: "lost/status", Kind: "Lost"},
		}})
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, req)
	_, _ = io.WriteString(w, `{"kind":"Whale"}`)
}

func (e *env) requests() []*http.Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen
}

func (e *env) get(path string, accept ...string) (int, string) {
	req := httptest.NewRequest(http.MethodGet, "https://master"+path, nil)
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Set("X-Remote-User", "somebody-else")
	req.Header.Set("X-Remote-Extra-Forged", "yes")
	if len(accept) > 0 {
		req.Header.Set("Accept", accept[0])
	}
	out := httptest.NewRecorder()
	e.api.ServeHTTP(out, req)
	return out.Code, out.Body.String()
}

func (e *env) register(group string) {
	port := int32(443)
	controllertest.Create(e.Env, &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1." + group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: group, Version: "v1", GroupPriorityMinimum: 100, VersionPriority: 100, CABundle: e.other.CA(),
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "api", Port: &port},
		},
	})
}

func (e *env) condition(name string) string {
	controllertest.Settle(time.Second)
	c := controllertest.Get[*apiregistrationv1.APIService](e.Env, "", name).Status.Conditions
	if len(c) != 1 {
		return "none"
	}
	return string(c[0].Status) + " " + c[0].Reason + ": " + c[0].Message
}

func (e *env) service() {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "api"}
	controllertest.Create(e.Env, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}},
	}})
}

func (e *env) endpoints() {
	controllertest.Create(e.Env, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "api"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.244.0.9"}}, Ports: []corev1.EndpointPort{{Name: "https", Port: 8443, Protocol: corev1.ProtocolTCP}},
	}}})
}

// The way of an APIService: what it lacks is told in kube-aggregator's words, then requests go through, and stop with it.
func TestAggregation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		const path = "/apis/sea.example.com/v1/namespaces/default/whales/moby?x=1"
		if code, _ := e.get(path); code != http.StatusNotFound {
			t.Error("before it is registered:", code)
		}
		e.register("sea.example.com")
		is := func(want string) {
			t.Helper()
			if got := e.condition("v1.sea.example.com"); got != want {
				t.Errorf("%s, not %s", got, want)
			}
		}
		is(`False ServiceNotFound: service/api in "default" is not present`)
		if code, _ := e.get(path); code != http.StatusServiceUnavailable {
			t.Error("not available:", code)
		}
		e.service()
		is(`False EndpointsNotFound: cannot find endpointslices for service/api in "default"`)
		e.down.Store(true)
		e.endpoints()
		is(`False FailedDiscoveryCheck: failing or missing response from https://api.default.svc:443/apis/sea.example.com/v1: Get "https://api.default.svc:443/apis/sea.example.com/v1": nobody is there`)
		e.down.Store(false)
		time.Sleep(2 * time.Minute)
		is("True Passed: all checks passed")
		if code, body := e.get(path); code != http.StatusOK || body != `{"kind":"Whale"}` {
			t.Error(code, body)
		}
		checkSeen(t, e.requests())
		if code, _ := e.get("/apis/sea.example.com/v1/namespaces/default/secrets"); code != http.StatusForbidden {
			t.Error("without the right:", code)
		}
		checkDiscovery(t, e)
		e.down.Store(true)
		time.Sleep(5 * time.Minute)
		if got := e.condition("v1.sea.example.com"); !strings.HasPrefix(got, "False FailedDiscoveryCheck") {
			t.Error("after it has gone down:", got)
		}
		if _, body := e.get("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"); !strings.Contains(body, `"freshness":"Stale"`) {
			t.Error("discovery does not say that it is stale")
		}
		controllertest.Delete[*apiregistrationv1.APIService](e.Env, "", "v1.sea.example.com", registry.DeleteOptions{})
		if code, _ := e.get(path); code != http.StatusNotFound {
			t.Error("after it was deleted:", code)
		}
		if _, body := e.get("/apis"); strings.Contains(body, "sea.example.com") {
			t.Error("discovery still has the deleted group")
		}
	})
}

// checkSeen: the other server gets the names of who asks, and neither a secret nor a name that a client made up.
func checkSeen(t *testing.T, seen []*http.Request) {
	t.Helper()
	if len(seen) != 1 {
		t.Fatalf("%d requests", len(seen))
	}
	got := map[string][]string{}
	for key, values := range seen[0].Header {
		if strings.HasPrefix(key, "X-Remote-") || key == "Authorization" {
			got[key] = values
		}
	}
	want := map[string][]string{"X-Remote-User": {"jane"}, "X-Remote-Group": {"devs"}, "X-Remote-Extra-Team": {"sea"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if seen[0].URL.RequestURI() != "/apis/sea.example.com/v1/namespaces/default/whales/moby?x=1" || seen[0].TLS.PeerCertificates[0].Subject.CommonName != pki.FrontProxyName {
		t.Error(seen[0].URL.RequestURI(), seen[0].TLS.PeerCertificates[0].Subject)
	}
}

func checkDiscovery(t *testing.T, e *env) {
	t.Helper()
	if _, body := e.get("/apis"); !strings.Contains(body, `"groupVersion":"sea.example.com/v1"`) {
		t.Error("not among the groups")
	}
	if _, body := e.get("/apis/sea.example.com"); !strings.Contains(body, `"preferredVersion":{"groupVersion":"sea.example.com/v1"`) {
		t.Error("no group document:", body)
	}
	if _, body := e.get("/apis/sea.example.com/v1"); !strings.Contains(body, `"whales"`) {
		t.Error("not its own document:", body)
	}
	_, body := e.get("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	var all apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		t.Fatal(err)
	}
	last := all.Items[len(all.Items)-1]
	if last.Name != "sea.example.com" || last.Versions[0].Freshness != apidiscoveryv2.DiscoveryFreshnessCurrent ||
		len(last.Versions[0].Resources) != 1 || len(last.Versions[0].Resources[0].Subresources) != 1 {
		t.Errorf("%+v", last)
	}
}

// What the master serves itself nobody can take away, but metrics.
func TestBuiltin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.service()
		e.endpoints()
		e.register("apps")
		e.condition("v1.apps")
		if code, body := e.get("/apis/apps/v1"); code != http.StatusOK || !strings.Contains(body, "deployments") {
			t.Error(code, body)
		}
		if len(e.requests()) != 0 {
			t.Error("a request for apps went to another server")
		}
	})
}
