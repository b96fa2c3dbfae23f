package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// BridgeName is the bridge that all pods of the node hang on.
	BridgeName = "wp0"
	// VXLANName is the tunnel device to nodes on other links; it exists only while such a node is known.
	VXLANName = "wpx0"

	vethPrefix    = "wpv"
	vxlanID       = 8472
	vxlanPort     = 8472
	vxlanOverhead = 50
	// routeProtocol marks our routes ('W'); the kernel and routing daemons leave numbers they do not know alone.
	routeProtocol = netlink.RouteProtocol(87)
	// unreachableMetric keeps the catch-all below every real route.
	unreachableMetric = 1 << 20
)

// Config is what a node must know about its own place in the cluster.
type Config struct {
	NodeName string
	// NodeIP is the address other nodes reach this one at; its link is the uplink.
	NodeIP netip.Addr
	// PodCIDR is this node's share of ClusterPodCIDR.
	PodCIDR        netip.Prefix
	ClusterPodCIDR netip.Prefix
	ServiceCIDR    netip.Prefix
	// DNSIP is put on the bridge so that the node's own DNS server can listen there.
	DNSIP netip.Addr
	// MTU of the pods; 0 takes the uplink's.
	MTU int
	// AlwaysVXLAN tunnels to every peer, for providers that drop packets with addresses they did not assign.
	AlwaysVXLAN bool
	// StateDir keeps the last address given, so that a restart does not hand it out again at once. Empty: memory only.
	StateDir string
	// NetNS is the path of the network namespace to work in; empty is the process's own.
	NetNS string
	// Changed is called, and must return at once, after addresses, routes or links may have changed. It may be nil.
	Changed func()
	Logger  *slog.Logger
}

// Network is the data plane of one node. All methods may be called from several goroutines.
type Network struct {
	cfg Config
	log *slog.Logger
	ns  *namespace
	nl  *netlink.Handle
	ips *ipam

	pods keyedMutex

	mu       sync.Mutex // guards the fields below and the routes
	ready    bool
	bridge   int // index of wp0
	mtu      int
	place    Place // our own
	told     bool  // of the peers, be it that there are none
	peers    []Peer
	routable map[string]string // peer's name → "plain" or "vxlan", for the log
	// clusterMTU is the size of packets that reach every pod of the cluster whole; 0 where that is mtu, unknownMTU
	// until we were told of the peers.
	clusterMTU int
	sized      map[string]*sizedPod // by UID
}

// New checks the configuration; it changes nothing in the kernel.
func New(cfg Config) (*Network, error) {
	if !cfg.NodeIP.Is4() || !cfg.PodCIDR.Addr().Is4() || !cfg.ClusterPodCIDR.Addr().Is4() || !cfg.ServiceCIDR.Addr().Is4() {
		return nil, errors.New("network: node address, pod ranges and service range must be IPv4")
	}
	if cfg.PodCIDR.Bits() > 29 {
		return nil, fmt.Errorf("network: pod range %s is too small, use /29 or larger", cfg.PodCIDR)
	}
	cfg.PodCIDR, cfg.ClusterPodCIDR, cfg.ServiceCIDR = cfg.PodCIDR.Masked(), cfg.ClusterPodCIDR.Masked(), cfg.ServiceCIDR.Masked()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ns, err := openNamespace(cfg.NetNS)
	if err != nil {
		return nil, err
	}
	h, err := ns.netlink()
	if err != nil {
		ns.Close()
		return nil, err
	}
	return &Network{
		cfg: cfg, log: cfg.Logger.With("component", "network"), ns: ns, nl: h,
		ips: newIPAM(cfg.PodCIDR, cfg.StateDir), routable: map[string]string{},
		clusterMTU: unknownMTU, sized: map[string]*sizedPod{},
	}, nil
}

// Close gives back the descriptors; the kernel's state stays as it is.
func (n *Network) Close() {
	n.nl.Close()
	n.ns.Close()
}

// Gateway is the pods' gateway, the bridge's own address.
func (n *Network) Gateway() netip.Addr { return n.cfg.PodCIDR.Addr().Next() }

// MTU is what pods get; known after Setup.
func (n *Network) MTU() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mtu
}

// Setup makes the node ready for pods. It may be called again at any time and repairs what is missing.
func (n *Network) Setup(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.setUp(); err != nil {
		return err
	}
	return n.sizePods(ctx)
}

func (n *Network) setUp() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	uplink, link, err := uplink(n.nl, n.cfg)
	if err != nil {
		return err
	}
	n.place = link
	n.mtu = n.cfg.MTU
	if n.mtu == 0 {
		n.mtu = uplink.Attrs().MTU
	}
	br, err := n.ensureBridge()
	if err != nil {
		return fmt.Errorf("bridge %s: %w", BridgeName, err)
	}
	n.bridge = br.Attrs().Index
	if err := n.ensureSysctls(uplink.Attrs().Name); err != nil {
		return err
	}
	if err := n.ensureBaseRoutes(); err != nil {
		return err
	}
	links, err := n.podLinks()
	if err != nil {
		return err
	}
	n.ips.adopt(links)
	n.ready = true
	if !n.told {
		return nil // the routes that a former agent left are good until we know better
	}
	return n.syncPeers()
}

func (n *Network) ensureBridge() (netlink.Link, error) {
	snooping := false
	link, err := n.nl.LinkByName(BridgeName)
	if isNotFound(err) {
		err = n.nl.LinkAdd(&netlink.Bridge{
			// A fixed MAC: otherwise the bridge takes the lowest of its ports and pods' ARP entries go stale.
			LinkAttrs:         netlink.LinkAttrs{Name: BridgeName, MTU: n.mtu, HardwareAddr: macOf(0x0a, n.Gateway())},
			MulticastSnooping: &snooping,
		})
		if err == nil || errors.Is(err, os.ErrExist) {
			link, err = n.nl.LinkByName(BridgeName)
		}
	}
	if err != nil {
		return nil, err
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("a link of this name exists but is a %s; remove it", link.Type())
	}
	if link.Attrs().MTU != n.mtu {
		if err := n.nl.LinkSetMTU(link, n.mtu); err != nil {
			return nil, err
		}
	}
	if err := n.ns.sysctl("net/ipv6/conf/"+BridgeName+"/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return nil, err
	}
	want := []*net.IPNet{{IP: n.Gateway().AsSlice(), Mask: net.CIDRMask(n.cfg.PodCIDR.Bits(), 32)}}
	if n.cfg.DNSIP.IsValid() {
		want = append(want, hostNet(n.cfg.DNSIP))
	}
	return link, n.ensureAddrs(link, want)
}

// ensureAddrs gives the link exactly these IPv4 addresses, in this order where they are missing.
func (n *Network) ensureAddrs(link netlink.Link, want []*net.IPNet) error {
	have, err := n.nl.AddrList(link, unix.AF_INET)
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for i := range have {
		found[have[i].IPNet.String()] = true
	}
	keep := map[string]bool{}
	for _, w := range want {
		keep[w.String()] = true
		if found[w.String()] {
			continue
		}
		if err := n.nl.AddrAdd(link, &netlink.Addr{IPNet: w}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add %s: %w", w, err)
		}
	}
	for i := range have {
		if !keep[have[i].IPNet.String()] {
			if err := n.nl.AddrDel(link, &have[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove %s: %w", have[i].IPNet, err)
			}
		}
	}
	return nil
}

// ensureSysctls sets what forwarding for pods needs, and nothing else.
func (n *Network) ensureSysctls(uplink string) error {
	type setting struct{ key, value string }
	for _, s := range []setting{
		{"net/ipv4/ip_forward", "1"},
		// A redirect would teach a pod to answer its neighbour directly, past the translation of a Service's address.
		// The kernel sends them when either "all" or the device allows it.
		{"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/conf/" + BridgeName + "/send_redirects", "0"},
		{"net/ipv4/conf/" + BridgeName + "/forwarding", "1"},
		// A client on 127.0.0.1 of a NodePort: the reply comes in by one of these with a loopback destination.
		// proxy drops everything else that does.
		{"net/ipv4/conf/" + BridgeName + "/route_localnet", "1"},
		{"net/ipv4/conf/" + uplink + "/route_localnet", "1"},
		{"net/ipv4/conf/" + uplink + "/forwarding", "1"},
	} {
		if err := n.ns.sysctl(s.key, s.value); err != nil {
			return err
		}
	}
	// Docker loads bridge netfilter and turns it on; both ways work here, so it stays as it is.
	return nil
}

// ensureBaseRoutes adds the two routes that do not depend on peers.
func (n *Network) ensureBaseRoutes() error {
	for _, r := range n.baseRoutes() {
		if err := n.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("route %s: %w", r.Dst, err)
		}
	}
	return nil
}

func (n *Network) baseRoutes() []netlink.Route {
	return []netlink.Route{
		// The node's own programs need some route to a Service's address before iptables can translate it, even on a
		// machine without a default route. As source they take the gateway address, to which every pod can answer.
		{Dst: ipNet(n.cfg.ServiceCIDR), LinkIndex: n.bridge, Src: n.Gateway().AsSlice(), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol, MTU: max(n.clusterMTU, 0)},
		// What belongs to no known node fails at once and never leaves by the default route.
		{Dst: ipNet(n.cfg.ClusterPodCIDR), Type: unix.RTN_UNREACHABLE, Priority: unreachableMetric, Protocol: routeProtocol},
	}
}

// Remove takes everything of ours out of the kernel: for uninstalling, when no pod runs any more.
func (n *Network) Remove(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ready, n.told, n.peers = false, false, nil
	var errs []error
	routes, err := n.ownRoutes()
	errs = append(errs, err)
	for i := range routes {
		if err := n.nl.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", routes[i].Dst, err))
		}
	}
	links, err := n.podLinks()
	errs = append(errs, err)
	names := []string{VXLANName, BridgeName}
	for _, l := range links {
		names = append(names, l.Link)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, n.deleteLink(name))
	}
	return errors.Join(errs...)
}

func (n *Network) deleteLink(name string) error {
	link, err := n.nl.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := n.nl.LinkDel(link); err != nil && !isNotFound(err) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func hostNet(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

// macOf derives a locally administered MAC from an address: the same address has the same MAC for ever, so that
// nobody's neighbour table goes stale when an address moves, and peers can compute each other's.
func macOf(kind byte, a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{kind, 0x57, b[0], b[1], b[2], b[3]}
}
