package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Peer is another node of the cluster.
type Peer struct {
	Name    string
	IP      netip.Addr
	PodCIDR netip.Prefix
	// Place is what the node says of its own place; the zero value if it has not said anything yet.
	Place Place
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
	n.peers, n.told = slices.Clone(peers), true
	var err error
	if n.ready { // otherwise Setup does it
		err = n.syncPeers()
	}
	n.mu.Unlock()
	return errors.Join(err, n.sizePods(ctx))
}

// Run keeps the routes right while links come and go, until ctx ends.
func (n *Network) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	var listening sync.WaitGroup
	defer listening.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listening.Go(func() { n.listen(ctx, changed) })
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
		if n.ready && n.told {
			if err := n.syncPeers(); err != nil {
				n.log.Warn("routes to other nodes are incomplete", "err", err)
			}
		}
		n.mu.Unlock()
		if n.cfg.Changed != nil {
			n.cfg.Changed()
		}
	}
}

// plan is what the kernel should hold for the peers.
type plan struct {
	routes []netlink.Route
	tunnel []Peer
	uplink netlink.Link
}

// syncPeers compares and applies; n.mu is held.
func (n *Network) syncPeers() error {
	var errs []error
	var want plan
	// It may have changed, as the machine's addresses may. That it is gone is said of each peer below.
	if dev, link, err := uplink(n.nl, n.cfg); err == nil {
		n.place, want.uplink = link, dev
	}
	smallest := n.mtu
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
		mtu := mtuTo(n.place, p.Place, via)
		smallest = min(smallest, mtu)
		if via == viaVXLAN {
			want.tunnel = append(want.tunnel, p)
			continue
		}
		devices[device] = true
		want.routes = append(want.routes, netlink.Route{
			Dst: ipNet(p.PodCIDR), Gw: p.IP.AsSlice(), LinkIndex: device, Protocol: routeProtocol, Flags: int(netlink.FLAG_ONLINK),
			MTU: below(mtu, n.place.MTU),
		})
	}
	for name := range n.routable {
		if state[name] == "" {
			n.log.Info("route to node's pods withdrawn", "node", name)
		}
	}
	n.routable = state
	n.clusterMTU = below(smallest, n.mtu)
	for index := range devices {
		errs = append(errs, n.allowLoopbackReplies(index))
	}
	errs = append(errs, n.syncTunnel(&want), n.syncRoutes(want.routes))
	return errors.Join(errs...)
}

// below is an MTU for a route, 0 (none of its own) where the link has it anyway.
func below(mtu, link int) int {
	if mtu >= link {
		return 0
	}
	return mtu
}

// choose finds out whether the peer is a neighbour on an Ethernet link: the kernel's own routes must say so, and what
// both nodes tell of their links; everything else is tunnelled.
func (n *Network) choose(p Peer) (via string, device int, err error) {
	routes, err := n.nl.RouteGet(p.IP.AsSlice())
	if err != nil {
		return "", 0, fmt.Errorf("no route to node %s at %s: %w", p.Name, p.IP, err)
	}
	agreed := neighbours(n.cfg.NodeIP, n.place, p)
	if len(routes) == 0 || !agreed || len(routes[0].Gw) != 0 {
		if agreed && p.Place.Prefix.IsValid() && n.routable[p.Name] != viaVXLAN {
			n.log.Warn("node is on this machine's link, but a route leads to it through a router; if its pods are not reached, start all agents with --always-vxlan", "node", p.Name, "addr", p.IP)
		}
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
	// A route takes the place of another to the same range; deleting that one would hit the new.
	keep := map[string]bool{}
	for i := range want {
		k := routeKey(&want[i])
		keep[slotOf(&want[i])] = true
		if found[k] {
			continue
		}
		if err := n.nl.RouteReplace(&want[i]); err != nil {
			errs = append(errs, fmt.Errorf("route %s via %s: %w", want[i].Dst, want[i].Gw, err))
		}
	}
	for i := range have {
		if keep[slotOf(&have[i])] {
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
	return fmt.Sprintf("%v|%v|%d|%d|%d|%d|%v", r.Dst, r.Gw, link, kind, r.Priority, r.MTU, r.MTULock)
}

// slotOf is what the kernel has one route for.
func slotOf(r *netlink.Route) string { return fmt.Sprintf("%v|%d", r.Dst, r.Priority) }
