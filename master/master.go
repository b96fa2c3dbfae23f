// Package master composes the master: store, registry, API server, controllers, scheduler and agent sessions. It starts and
// ends them together; if one fails, the master ends with its error, and whoever supervises it starts it again.
package master

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/admission"
	"github.com/whalepod/whalepod/master/internal/aggregator"
	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/rbac"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/satoken"
	"github.com/whalepod/whalepod/master/internal/sessions"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
	"github.com/whalepod/whalepod/master/internal/usage"
	"github.com/whalepod/whalepod/node/membership"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// Files below the data directory.
const (
	storeFile      = "state.db"
	pkiDir         = "pki"
	kubeconfigFile = "admin.kubeconfig"
)

const (
	nodePortFirst, nodePortLast = 30000, 32767
	nodeMaskBits                = 24
)

// Gossip tells which machines are alive; node/membership is the real one.
type Gossip interface {
	Members() []membership.Member
	Dead() map[string]time.Time
	Changed() <-chan struct{}
	Run(ctx context.Context) error
}

// Config of a master.
type Config struct {
	// DataDir holds everything that must survive.
	DataDir string
	// API and Agents are the listeners of the API and of the agents' port. The master closes them.
	API, Agents net.Listener
	// Advertise is the address under which people, pods and agents reach this master; APIPort and AgentsPort go with it.
	Advertise           netip.Addr
	APIPort, AgentsPort int
	// SANs are further names and addresses in the master's certificate.
	SANs                 []string
	ServiceCIDR, PodCIDR netip.Prefix
	ClusterDomain        string
	DNSIP                netip.Addr
	// LBPools are the addresses for Services of type LoadBalancer, as --lb-pool has them; without any, such Services have
	// those of the nodes. NoBalancer alone leaves them to others.
	LBPools []string
	// NodeGrace is how long pods stay bound to a node that was lost, and NotReadyToleration to one that says that it is not
	// ready, unless their manifests say something else.
	NodeGrace, NotReadyToleration time.Duration
	// EndedPods is how many pods that have ended are kept; less than 1 for all.
	EndedPods int
	// Kubeconfig is where the admin's kubeconfig is kept; empty for admin.kubeconfig in DataDir.
	Kubeconfig string
	// GossipPort is this master's own port; NodeGossipPort that of the agents.
	GossipPort, NodeGossipPort int
	// Gossip replaces the real one in tests.
	Gossip Gossip
	// Version, Commit and BuildDate of this program.
	Version, Commit, BuildDate string
	Logger                     *slog.Logger
}

// Master is all of it.
type Master struct {
	cfg      Config
	log      *slog.Logger
	pki      *pki.PKI
	store    *bolt.Store
	registry *registry.Registry
	tokens   *satoken.Authority
	policy   *rbac.Authorizer
	sessions *sessions.Server
	api      *server.Server
	gossip   Gossip
	// aggregator passes requests on to API servers that others have installed.
	aggregator *aggregator.Aggregator
	usage      *usage.Memory
	// pool is what LBPools say.
	pool    []netip.Prefix
	metrics *prometheus.Registry
	table   *resource.Table
	// bootstrapped is closed when the cluster's own objects are there.
	bootstrapped chan struct{}
}

// New opens what is on the disk and composes the parts. It starts nothing.
func New(cfg Config) (*Master, error) {
	m := &Master{cfg: cfg, log: cfg.Logger.With("component", "master"), metrics: prometheus.NewRegistry(), table: resource.NewTable(),
		usage: usage.NewMemory(), bootstrapped: make(chan struct{})}
	if m.cfg.Kubeconfig == "" {
		m.cfg.Kubeconfig = filepath.Join(cfg.DataDir, kubeconfigFile)
	}
	var err error
	if !m.leavesBalancers() {
		if m.pool, err = parsePools(cfg.LBPools); err != nil {
			return nil, err
		}
	}
	if err := checkPools(m.pool, cfg); err != nil {
		return nil, err
	}
	m.store, err = bolt.Open(bolt.Config{Path: filepath.Join(cfg.DataDir, storeFile), Schema: registry.Schema(m.table), Log: cfg.Logger})
	if err != nil {
		return nil, err
	}
	if err := m.compose(); err != nil {
		m.store.Close()
		return nil, err
	}
	return m, nil
}

func (m *Master) compose() error {
	cfg := m.cfg
	var err error
	m.pki, err = pki.Open(pki.Config{Dir: filepath.Join(cfg.DataDir, pkiDir), SANs: m.sans(), Logger: cfg.Logger})
	if err != nil {
		return err
	}
	if err := m.pki.WriteKubeconfig(m.cfg.Kubeconfig, "https://"+m.apiAddress()); err != nil {
		return fmt.Errorf("admin kubeconfig: %w", err)
	}
	m.tokens, err = satoken.New("https://kubernetes.default.svc."+cfg.ClusterDomain, m.pki.TokenKey())
	if err != nil {
		return err
	}
	m.registry = registry.New(m.store, registry.Config{
		Table: m.table, ServiceCIDR: cfg.ServiceCIDR, NodePortFirst: nodePortFirst, NodePortLast: nodePortLast,
		NotReadySeconds: int64(cfg.NotReadyToleration.Seconds()), UnreachableSeconds: int64(cfg.NodeGrace.Seconds()), Signer: m.tokens, Logger: cfg.Logger,
	})
	m.table.ConvertBy(m.connectConversion)
	if err := m.registry.LoadCustomResources(); err != nil {
		return err
	}
	m.policy = rbac.New(m.registry)
	if err := m.checkRanges(); err != nil {
		return err
	}
	m.gossip = cfg.Gossip
	if m.gossip == nil {
		m.gossip = membership.New(membership.Config{
			Name: gossipName, Addr: cfg.Advertise.String(), Port: cfg.GossipPort, Key: m.pki.GossipKey(),
			Seeds: m.gossipSeeds, Logger: cfg.Logger,
		})
	}
	m.sessions = sessions.New(sessions.Config{
		Registry: m.registry, PKI: m.pki, Cluster: m.clusterConfig(), NodeMaskBits: nodeMaskBits, Usage: m.usage.Report, Logger: cfg.Logger,
	})
	m.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	backend := admission.New(rbac.Guard(usage.Backend(m.registry, m.registry, m.usage), m.policy, m.table), admission.Config{
		Registry: m.registry, Table: m.table, DialService: m.sessions.DialService, Authorize: m.mayUser, Logger: cfg.Logger,
	})
	m.aggregator = aggregator.New(aggregator.Config{
		Registry: m.registry, Builtin: m.builtin(), DialService: m.sessions.DialService, Certificate: m.pki.FrontProxy, Logger: cfg.Logger,
	})
	m.api = server.New(server.Config{
		Aggregator: m.aggregator,
		Table:      m.table, Backend: backend, Connector: admission.NewConnector(m.sessions, backend),
		Auth: authenticator{m.registry, m.pki, m.tokens}, Authorize: m.authorize, Rules: m.rules,
		Version: cfg.Version, Commit: cfg.Commit, BuildDate: cfg.BuildDate,
		Checks: []server.Check{{Name: "bootstrap", Do: m.checkBootstrapped}},
		Handlers: map[string]http.Handler{
			BackupPath:            http.HandlerFunc(m.serveBackup),
			satoken.DiscoveryPath: document(func() ([]byte, error) { return m.tokens.Discovery("https://" + m.apiAddress() + satoken.KeysPath) }),
			satoken.KeysPath:      document(m.tokens.Keys),
		},
		Metrics: promhttp.HandlerFor(m.metrics, promhttp.HandlerOpts{}), Registerer: m.metrics, Logger: cfg.Logger,
	})
	return nil
}

// document serves one of the issuer's, in JSON.
func document(make func() ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		data, err := make()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(data)
	})
}

func (m *Master) apiAddress() string {
	return net.JoinHostPort(m.cfg.Advertise.String(), strconv.Itoa(m.cfg.APIPort))
}

// sans are the names of the master's certificate: what pods and people call it.
func (m *Master) sans() []string {
	domain := m.cfg.ClusterDomain
	return append([]string{
		m.cfg.Advertise.String(), "127.0.0.1", "localhost",
		m.cfg.ServiceCIDR.Masked().Addr().Next().String(),
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain,
	}, m.cfg.SANs...)
}

func (m *Master) clusterConfig() *agentv1.ClusterConfig {
	pools := make([]string, len(m.pool))
	for i, p := range m.pool {
		pools[i] = p.String()
	}
	return &agentv1.ClusterConfig{
		ServiceCidr: m.cfg.ServiceCIDR.String(), PodCidr: m.cfg.PodCIDR.String(),
		ClusterDomain: m.cfg.ClusterDomain, DnsIp: m.cfg.DNSIP.String(),
		GossipKey:    m.pki.GossipKey(),
		GossipSeeds:  []string{net.JoinHostPort(m.cfg.Advertise.String(), strconv.Itoa(m.cfg.GossipPort))},
		ApiEndpoints: []string{m.apiAddress()},
		LbPools:      pools,
	}
}

// Run serves until ctx ends or a part fails.
func (m *Master) Run(ctx context.Context) error {
	defer m.store.Close()
	// The store outlives the others: what they write while they end must reach the disk.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	stored := make(chan error, 1)
	go func() { stored <- m.store.Run(storeCtx) }()
	g, gctx := errgroup.WithContext(ctx)
	for name, run := range m.parts() {
		g.Go(func() error {
			err := run(gctx)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if gctx.Err() == nil {
				return fmt.Errorf("%s ended by itself", name)
			}
			return nil
		})
	}
	var storeErr error
	select {
	case storeErr = <-stored: // the store ended by itself: nothing can be acknowledged any more
		stopStore()
		m.log.Error("the store ended", "err", storeErr)
		return storeErr
	case <-gctx.Done():
	}
	err := g.Wait()
	stopStore()
	if storeErr = <-stored; err == nil {
		err = storeErr
	}
	return err
}

// parts are the siblings that Run starts.
func (m *Master) parts() map[string]func(context.Context) error {
	parts := map[string]func(context.Context) error{
		"bootstrap":  m.bootstrap,
		"registry":   m.registry.Run,
		"pki":        m.pki.Run,
		"gossip":     m.gossip.Run,
		"sessions":   m.sessions.Run,
		"agents":     func(ctx context.Context) error { return m.sessions.Serve(ctx, m.cfg.Agents) },
		"api server": func(ctx context.Context) error { return m.api.Serve(ctx, m.cfg.API, m.pki.APITLS()) },
	}
	for name, run := range m.controllers() {
		parts[name] = run
	}
	return parts
}
