// Command wp-master is the control plane of a Whalepod cluster in one process: API server, store, controllers and scheduler.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/whalepod/whalepod/cmd/internal/lean"
	"github.com/whalepod/whalepod/cmd/internal/version"
	"github.com/whalepod/whalepod/master"
)

// The memory of the Go heap above which the collector works harder (see lean.Limit): cheap servers have 1 GB for everything. GOMEMLIMIT
// overrides it.
const memoryLimit = 400 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "wp-master:", err)
		os.Exit(1)
	}
}

// defaultToleration is how long pods of a node that is lost or not ready wait for it: 10 s, where Kubernetes' default is
// 300 s, since a machine's death is known here within seconds.
const defaultToleration = 10 * time.Second

// flags as the command line gives them.
type flags struct {
	dataDir, bind, advertise, serviceCIDR, podCIDR, domain, dnsIP, kubeconfig, sans, restore, logLevel string
	apiPort, agentsPort, gossipPort, nodeGossipPort                                                    int
	nodeGrace                                                                                          time.Duration
	terminatedPods                                                                                     int
	unreachable, notReady                                                                              int64
	lbPools                                                                                            []string
	version                                                                                            bool
}

func parse(args []string) (*flags, error) {
	f := &flags{}
	fs := flag.NewFlagSet("wp-master", flag.ContinueOnError)
	fs.StringVar(&f.dataDir, "data-dir", "/var/lib/whalepod/master", "where state and certificates are kept")
	fs.StringVar(&f.bind, "bind", "0.0.0.0", "address to listen on")
	fs.StringVar(&f.advertise, "advertise-address", "", "IP address under which nodes and people reach this master (default: that of the default route)")
	fs.IntVar(&f.apiPort, "api-port", 6443, "port of the Kubernetes API")
	fs.IntVar(&f.agentsPort, "agents-port", 6444, "port that agents connect to")
	fs.IntVar(&f.gossipPort, "gossip-port", 7947, "port of this master's gossip, TCP and UDP")
	fs.IntVar(&f.nodeGossipPort, "node-gossip-port", 7946, "port of the nodes' gossip")
	fs.StringVar(&f.serviceCIDR, "service-cidr", "10.254.0.0/16", "range of Service addresses")
	fs.StringVar(&f.podCIDR, "pod-cidr", "10.244.0.0/16", "range of pod addresses; each node gets a /24 of it")
	fs.StringVar(&f.domain, "cluster-domain", "cluster.local", "domain of the cluster's names")
	fs.StringVar(&f.dnsIP, "dns-ip", "10.254.254.1", "address of the cluster's DNS, in the range of Services")
	fs.Func("lb-pool", "`addresses` for Services of type LoadBalancer, which the nodes announce: 203.0.113.0/28, 203.0.113.10-203.0.113.20 or 203.0.113.10; may be given several times; none: another load balancer is installed (default: such Services have the nodes' own addresses)", func(s string) error {
		f.lbPools = append(f.lbPools, s)
		return nil
	})
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "where to keep the admin's kubeconfig (default: admin.kubeconfig in the data directory)")
	fs.StringVar(&f.sans, "extra-sans", "", "further names and addresses of the master for its certificate, separated by commas")
	fs.StringVar(&f.restore, "restore", "", "start from this copy, made by `wpctl cluster backup`; the data directory must hold no state")
	fs.DurationVar(&f.nodeGrace, "node-grace", defaultToleration, "how long pods stay bound to a node that was lost, counted from its last sign of life, unless their manifests say")
	fs.Int64Var(&f.unreachable, "default-unreachable-toleration-seconds", -1, "the same in seconds, as kube-apiserver calls it")
	fs.Int64Var(&f.notReady, "default-not-ready-toleration-seconds", -1, "how long pods stay bound to a node that is not ready (default: as --node-grace)")
	fs.IntVar(&f.terminatedPods, "terminated-pod-gc-threshold", 1000, "how many pods that have ended are kept before the oldest are deleted; 0: all")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.BoolVar(&f.version, "version", false, "print the version and end")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; options begin with --", fs.Arg(0))
	}
	if f.unreachable >= 0 {
		f.nodeGrace = time.Duration(f.unreachable) * time.Second
	}
	if f.notReady < 0 {
		f.notReady = int64(f.nodeGrace.Seconds())
	}
	return f, nil
}

func run(ctx context.Context, args []string) error {
	f, err := parse(args)
	if err != nil {
		return err
	}
	if f.version {
		fmt.Println("wp-master", version.Version)
		return nil
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		lean.Limit(memoryLimit)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // Kubernetes' libraries log what they return as errors anyway
	if f.restore != "" {
		if err := master.Restore(ctx, f.restore, f.dataDir); err != nil {
			return err
		}
	}
	cfg, err := config(f, log)
	if err != nil {
		return err
	}
	go lean.Keep(ctx)
	m, err := master.New(*cfg)
	if err != nil {
		return err
	}
	return m.Run(ctx)
}

func config(f *flags, log *slog.Logger) (*master.Config, error) {
	c := &master.Config{
		DataDir: f.dataDir, APIPort: f.apiPort, AgentsPort: f.agentsPort, GossipPort: f.gossipPort, NodeGossipPort: f.nodeGossipPort,
		ClusterDomain: f.domain, LBPools: f.lbPools, NodeGrace: f.nodeGrace, EndedPods: f.terminatedPods, NotReadyToleration: time.Duration(f.notReady) * time.Second, Kubeconfig: f.kubeconfig,
		Version: version.Kubernetes(), Commit: version.Commit, BuildDate: version.BuildDate, Logger: log,
	}
	for _, san := range strings.Split(f.sans, ",") {
		if san = strings.TrimSpace(san); san != "" {
			c.SANs = append(c.SANs, san)
		}
	}
	var err error
	if c.ServiceCIDR, err = ipRange("--service-cidr", f.serviceCIDR, 28); err != nil {
		return nil, err
	}
	if c.PodCIDR, err = ipRange("--pod-cidr", f.podCIDR, 24); err != nil {
		return nil, err
	}
	if c.DNSIP, err = netip.ParseAddr(f.dnsIP); err != nil || !c.ServiceCIDR.Contains(c.DNSIP) {
		return nil, fmt.Errorf("--dns-ip %s must be an address in the range of Services, %s", f.dnsIP, c.ServiceCIDR)
	}
	if c.ServiceCIDR.Overlaps(c.PodCIDR) {
		return nil, fmt.Errorf("--service-cidr %s and --pod-cidr %s overlap", c.ServiceCIDR, c.PodCIDR)
	}
	if c.Advertise, err = advertised(f.advertise); err != nil {
		return nil, err
	}
	if c.API, err = listen(f.bind, f.apiPort, "--api-port"); err != nil {
		return nil, err
	}
	if c.Agents, err = listen(f.bind, f.agentsPort, "--agents-port"); err != nil {
		return nil, err
	}
	return c, nil
}

// ipRange reads a range of IPv4 addresses, /8 to /smallest.
func ipRange(option, text string, smallest int) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf("%s: %w", option, err)
	}
	if !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > smallest {
		return p, fmt.Errorf("%s %s: give a range of IPv4 addresses from /8 to /%d", option, text, smallest)
	}
	return p, nil
}

func listen(addr string, port int, option string) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; is another wp-master running?", option, err)
	}
	return l, nil
}

// advertised is the given address, or the one that packets to the outside would leave from. No packet is sent: connecting a
// UDP socket only asks the routing table.
func advertised(given string) (netip.Addr, error) {
	if given != "" {
		a, err := netip.ParseAddr(given)
		if err != nil {
			return a, fmt.Errorf("--advertise-address: %w", err)
		}
		return a, nil
	}
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return netip.Addr{}, errors.New("this machine has no default route: say with --advertise-address under which IP address nodes reach it")
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), nil
}
