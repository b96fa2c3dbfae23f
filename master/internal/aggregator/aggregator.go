package aggregator

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	apiServices = "apiservices.apiregistration.k8s.io"
	// replaceable is served by the master, until somebody registers another server for it.
	replaceable = "metrics.k8s.io"
	httpsPort   = 443
	// idleTimeout closes connections that wait for the next request; patience bounds handshakes.
	idleTimeout = 90 * time.Second
	patience    = 10 * time.Second
)

// Config of an Aggregator.
type Config struct {
	Registry *registry.Registry
	// Builtin are the group versions that the master serves itself.
	Builtin []schema.GroupVersion
	// DialService connects to one of a Service's endpoints.
	DialService func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)
	// Certificate shows the others who asks.
	Certificate func() (*tls.Certificate, error)
	Logger      *slog.Logger
}

// Aggregator implements server.Aggregator. While nothing is registered a request compares two pointers.
type Aggregator struct {
	cfg  Config
	log  *slog.Logger
	last atomic.Pointer[state]

	mu sync.Mutex
	// told is what the others said that they serve, by version.
	told map[schema.GroupVersion][]metav1.APIResource
}

// state is what one revision of the APIServices means. It never changes.
type state struct {
	stamp any
	list  []server.External
	to    map[schema.GroupVersion]*upstream
}

// upstream is another server, as one APIService has it.
type upstream struct {
	spec      apiregistrationv1.APIServiceSpec
	available bool
	host      string
	transport *http.Transport
}

// New makes an aggregator, which starts nothing.
func New(cfg Config) *Aggregator {
	return &Aggregator{cfg: cfg, log: cfg.Logger.With("component", "aggregator"), told: map[schema.GroupVersion][]metav1.APIResource{}}
}

// External implements server.Aggregator.
func (a *Aggregator) External() ([]server.External, any) {
	s := a.current()
	return s.list, s
}

func (a *Aggregator) current() (s *state) {
	_ = a.cfg.Registry.View(func(v *registry.View) error {
		stamp := v.Stamp(apiServices)
		if s = a.last.Load(); s != nil && stamp != nil && s.stamp == stamp {
			return nil
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		s = a.build(v, stamp, a.last.Load())
		a.last.Store(s)
		return nil
	})
	if s == nil { // the store is ending
		s = &state{}
	}
	return s
}

// build reads the APIServices; a.mu is held.
func (a *Aggregator) build(v *registry.View, stamp any, before *state) *state {
	s := &state{stamp: stamp, to: map[schema.GroupVersion]*upstream{}}
	var services []*apiregistrationv1.APIService
	for one := range registry.List[*apiregistrationv1.APIService](v, "") {
		if a.isExternal(one) {
			services = append(services, one)
		}
	}
	slices.SortStableFunc(services, inOrder)
	for _, one := range services {
		gv := versionOf(one)
		to := &upstream{spec: one.Spec, available: isAvailable(one)}
		if before != nil && before.to[gv] != nil && reflect.DeepEqual(before.to[gv].spec, one.Spec) {
			to.host, to.transport = before.to[gv].host, before.to[gv].transport
		} else {
			to.host, to.transport = a.newTransport(&one.Spec)
		}
		s.to[gv] = to
		s.list = append(s.list, server.External{GroupVersion: gv, Resources: a.told[gv], Stale: !to.available})
	}
	if before != nil {
		for gv, old := range before.to {
			if now := s.to[gv]; now == nil || now.transport != old.transport {
				old.transport.CloseIdleConnections()
			}
			if s.to[gv] == nil {
				delete(a.told, gv)
			}
		}
	}
	return s
}

func versionOf(s *apiregistrationv1.APIService) schema.GroupVersion {
	return schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
}

func (a *Aggregator) isExternal(s *apiregistrationv1.APIService) bool {
	return s.Spec.Service != nil && s.Spec.Group != "" && (s.Spec.Group == replaceable || !slices.Contains(a.cfg.Builtin, versionOf(s)))
}

// inOrder is kube-aggregator's: by the priority of groups and of versions, then as versions are compared.
func inOrder(a, b *apiregistrationv1.APIService) int {
	return cmp.Or(
		cmp.Compare(b.Spec.GroupPriorityMinimum, a.Spec.GroupPriorityMinimum), cmp.Compare(a.Spec.Group, b.Spec.Group),
		cmp.Compare(b.Spec.VersionPriority, a.Spec.VersionPriority), version.CompareKubeAwareVersionStrings(b.Spec.Version, a.Spec.Version),
	)
}

func isAvailable(s *apiregistrationv1.APIService) bool {
	return slices.ContainsFunc(s.Status.Conditions, func(c apiregistrationv1.APIServiceCondition) bool {
		return c.Type == apiregistrationv1.Available && c.Status == apiregistrationv1.ConditionTrue
	})
}

func (a *Aggregator) newTransport(spec *apiregistrationv1.APIServiceSpec) (host string, t *http.Transport) {
	namespace, name, port := spec.Service.Namespace, spec.Service.Name, int32(httpsPort)
	if spec.Service.Port != nil {
		port = *spec.Service.Port
	}
	host = name + "." + namespace + ".svc"
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, InsecureSkipVerify: spec.InsecureSkipTLSVerify,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.cfg.Certificate() },
	}
	if len(spec.CABundle) > 0 {
		conf.RootCAs = x509.NewCertPool() // without a good certificate it trusts nobody
		conf.RootCAs.AppendCertsFromPEM(spec.CABundle)
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return a.cfg.DialService(ctx, namespace, name, port)
		},
		TLSClientConfig: conf, TLSHandshakeTimeout: patience, IdleConnTimeout: idleTimeout, MaxIdleConnsPerHost: 8, DisableCompression: true,
	}
}
