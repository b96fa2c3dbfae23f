package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Peer is another node of the cluster.
type Peer struct {
	Name    string
	IP      netip.Addr
	PodCIDR netip.Prefix
}

const (
	// settle is how long Run waits for a burst of route and link changes to end.
	settle = 200 * time.Millisecond
	// resync is how often Run looks again even when the kernel said nothing.
	resync            = 2 * time.Minute
	viaLink, viaVXLAN = "plain", "vxlan"
)

// SetPeers makes the routes to the other nodes' pods be exactly those of the given peers.
// A peer that cannot be reached now is tried again by Run when routes or links change.
func (n *Network) SetPeers(ctx context.Context, peers []Peer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers = slices.Clone(peers)
	if !n.ready {
		return nil // Setup does it
	}
	return n.syncPeers()
}

// Run keeps the routes right while links come and go, until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	changed := make(chan struct{}, 1)
	n.subscribe(done, changed)
	tick := time.NewTicker(resync)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
			select {
			case <-changed:
			default:
			}
		}
		n.mu.Lock()
		if n.ready {
			if err := n.syncPeers(); err != nil {
				n.log.Warn("routes to other nodes are incomplete", "err", err)
			}
		}
		n.mu.Unlock()
	}
}

// subscribe pokes changed after the kernel reports routes, addresses or links that are not our own doing.
func (n *Network) subscribe(done <-chan struct{}, changed chan<- struct{}) {
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	fd := n.ns.fd
	onError := func(err error) { poke() }
	routes := make(chan netlink.RouteUpdate, 16)
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &fd, ErrorCallback: onError}); err != nil {
		n.log.Warn("route changes are noticed late", "err", err)
	} else {
		go func() {
			for u := range routes {
				if u.Protocol != routeProtocol && u.Table == unix.RT_TABLE_MAIN {
					poke()
				}
			}
		}()
	}
	addrs := make(chan netlink.AddrUpdate, 16)
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &fd, ErrorCallback: onError}); err != nil {
		n.log.Warn("address changes are noticed late", "err", err)
		return
	}
	go func() {
		for u := range addrs {
			if u.LinkAddress.IP.To4() != nil {
				poke()
			}
		}
	}()
}

// plan is what the kernel should hold for the peers.
type plan struct {
	routes []netlink.Route
	tunnel []Peer
}

// syncPeers compares and applies; n.mu is held.
func (n *Network) syncPeers() error {
	var errs []error
	var want plan
	devices := map[int]bool{}
	state := map[string]string{}
	for _, p := range n.peers {
		if p.PodCIDR == n.cfg.PodCIDR || p.IP == n.cfg.NodeIP || !p.IP.Is4() || !p.PodCIDR.IsValid() || !p.PodCIDR.Addr().Is4() {
			continue
		}
		p.PodCIDR = p.PodCIDR.Masked()
		via, device, err := n.choose(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		state[p.Name] = via
		if n.routable[p.Name] != via {
			n.log.Info("route to node's pods", "node", p.Name, "addr", p.IP, "range", p.PodCIDR, "via", via)
		}
		if via == viaVXLAN {
			want.tunnel = append(want.tunnel, p)
			continue
		}
		devices[device] = true
		want.routes = append(want.routes, netlink.Route{
			Dst: ipNet(p.PodCIDR), Gw: p.IP.AsSlice(), LinkIndex: device, Protocol: routeProtocol, Flags: int(netlink.FLAG_ONLINK),
		})
	}
	for name := range n.routable {
		if state[name] == "" {
			n.log.Info("route to node's pods withdrawn", "node", name)
		}
	}
	n.routable = state
	for index := range devices {
		errs = append(errs, n.allowLoopbackReplies(index))
	}
	errs = append(errs, n.syncTunnel(&want), n.syncRoutes(want.routes))
	return errors.Join(errs...)
}

// choose asks the kernel's own routes whether the peer is a neighbour on an Ethernet link; everything else is tunnelled.
func (n *Network) choose(p Peer) (via string, device int, err error) {
	routes, err := n.nl.RouteGet(p.IP.AsSlice())
	if err != nil {
		return "", 0, fmt.Errorf("no route to node %s at %s: %w", p.Name, p.IP, err)
	}
	if len(routes) == 0 || n.cfg.AlwaysVXLAN || len(routes[0].Gw) != 0 {
		return viaVXLAN, 0, nil
	}
	link, err := n.nl.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", 0, fmt.Errorf("link to node %s: %w", p.Name, err)
	}
	a := link.Attrs()
	if a.Name == BridgeName || a.Name == VXLANName || a.Flags&net.FlagLoopback != 0 {
		return "", 0, fmt.Errorf("node %s at %s would be reached through %s: its address overlaps the cluster's own ranges", p.Name, p.IP, a.Name)
	}
	if a.EncapType != "ether" {
		return viaVXLAN, 0, nil
	}
	return viaLink, a.Index, nil
}

func (n *Network) allowLoopbackReplies(index int) error {
	link, err := n.nl.LinkByIndex(index)
	if err != nil {
		return err
	}
	return n.ns.sysctl("net/ipv4/conf/"+link.Attrs().Name+"/route_localnet", "1")
}

// ownRoutes lists all routes with our protocol number, whatever their table.
func (n *Network) ownRoutes() ([]netlink.Route, error) {
	routes, err := n.nl.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

// syncRoutes adds what is missing first and removes what is stale last, so that no peer is without a route meanwhile.
func (n *Network) syncRoutes(want []netlink.Route) error {
	have, err := n.ownRoutes()
	if err != nil {
		return err
	}
	want = append(want, n.baseRoutes()...)
	found := map[string]bool{}
	for i := range have {
		found[routeKey(&have[i])] = true
	}
	var errs []error
	keep := map[string]bool{}
	for i := range want {
		k := routeKey(&want[i])
		keep[k] = true
		if found[k] {
			continue
		}
		if err := n.nl.RouteReplace(&want[i]); err != nil {
			errs = append(errs, fmt.Errorf("route %s via %s: %w", want[i].Dst, want[i].Gw, err))
		}
	}
	for i := range have {
		if keep[routeKey(&have[i])] {
			continue
		}
		if err := n.nl.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route %s: %w", have[i].Dst, err))
		}
	}
	return errors.Join(errs...)
}

func routeKey(r *netlink.Route) string {
	kind := r.Type
	if kind == 0 {
		kind = unix.RTN_UNICAST
	}
	link := r.LinkIndex
	if kind == unix.RTN_UNREACHABLE {
		link = 0 // the kernel shows loopback there
	}
	return fmt.Sprintf("%v|%v|%d|%d|%d", r.Dst, r.Gw, link, kind, r.Priority)
}

// syncTunnel keeps the VXLAN device while a peer needs it, with one fixed neighbour and forwarding entry for each:
// no learning, no broadcast. It adds the peers' routes to the plan.
func (n *Network) syncTunnel(want *plan) error {
	if len(want.tunnel) == 0 {
		return n.deleteLink(VXLANName)
	}
	link, err := n.ensureVXLAN()
	if err != nil {
		return fmt.Errorf("tunnel %s: %w", VXLANName, err)
	}
	index := link.Attrs().Index
	arp, fdb := map[string]string{}, map[string]string{}
	var errs []error
	for _, p := range want.tunnel {
		mac, end := macOf(0x0e, p.IP), p.PodCIDR.Addr()
		arp[end.String()], fdb[mac.String()] = mac.String(), p.IP.String()
		errs = append(errs,
			n.nl.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT, IP: end.AsSlice(), HardwareAddr: mac}),
			n.nl.NeighSet(&netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: p.IP.AsSlice(), HardwareAddr: mac}))
		want.routes = append(want.routes, netlink.Route{
			Dst: ipNet(p.PodCIDR), Gw: end.AsSlice(), LinkIndex: index, Protocol: routeProtocol, Flags: int(netlink.FLAG_ONLINK),
		})
	}
	errs = append(errs, n.dropStaleNeighbours(index, arp, fdb))
	return errors.Join(errs...)
}

func (n *Network) dropStaleNeighbours(index int, arp, fdb map[string]string) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		list, err := n.nl.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("list neighbours: %w", err)
		}
		for i := range list {
			e := list[i]
			current := e.HardwareAddr.String() == arp[e.IP.String()]
			if family == unix.AF_BRIDGE {
				current = e.IP.String() == fdb[e.HardwareAddr.String()]
			}
			if current || e.State&netlink.NUD_PERMANENT == 0 {
				continue
			}
			e.Family = family
			if err := n.nl.NeighDel(&e); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove neighbour %s: %w", e.IP, err))
			}
		}
	}
	return errors.Join(errs...)
}

// isOurTunnel tells whether the device has today's parameters; those of a VXLAN device cannot be changed.
func (n *Network) isOurTunnel(link netlink.Link) bool {
	v, ok := link.(*netlink.Vxlan)
	return ok && v.VxlanId == vxlanID && v.Port == vxlanPort && v.SrcAddr.Equal(n.cfg.NodeIP.AsSlice())
}

func (n *Network) ensureVXLAN() (netlink.Link, error) {
	uplink, err := n.uplink()
	if err != nil {
		return nil, err
	}
	mtu := min(uplink.Attrs().MTU-vxlanOverhead, n.mtu)
	link, err := n.nl.LinkByName(VXLANName)
	if isNotFound(err) {
		link, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if link != nil && !n.isOurTunnel(link) {
		if err := n.nl.LinkDel(link); err != nil {
			return nil, err
		}
		link = nil
	}
	if link == nil {
		err = n.nl.LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: VXLANName, MTU: mtu, HardwareAddr: macOf(0x0e, n.cfg.NodeIP)},
			VxlanId:   vxlanID, Port: vxlanPort, SrcAddr: n.cfg.NodeIP.AsSlice(), Learning: false,
		})
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if link, err = n.nl.LinkByName(VXLANName); err != nil {
			return nil, err
		}
	}
	if link.Attrs().MTU != mtu {
		if err := n.nl.LinkSetMTU(link, mtu); err != nil {
			return nil, err
		}
	}
	for key, value := range map[string]string{"ipv4/conf/" + VXLANName + "/route_localnet": "1", "ipv4/conf/" + VXLANName + "/rp_filter": "2", "ipv6/conf/" + VXLANName + "/disable_ipv6": "1"} {
		if err := n.ns.sysctl("net/"+key, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if err := n.nl.LinkSetUp(link); err != nil {
		return nil, err
	}
	// Our own end has the network address of our range: what the node itself sends through the tunnel carries it,
	// and the other side's route for our range brings the answer back.
	return link, n.ensureAddrs(link, []*net.IPNet{hostNet(n.cfg.PodCIDR.Addr())})
}
