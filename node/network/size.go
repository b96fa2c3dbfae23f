package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Pods keep the MTU of their node's link, since most of what they send goes to the world or to neighbours. Where some
// other node is behind a tunnel, their routes to pods and Services say what fits through it. So TCP announces the right
// size in both directions, and a datagram that is too large is cut up by its sender: no first packet is lost to path MTU
// discovery. Larger packets of others get through too (see ensureVXLAN).

// unknownMTU leaves pods' routes as they are.
const unknownMTU = -1

// sizedPod is a pod's namespace, and the MTU that its routes in the cluster have.
type sizedPod struct {
	path string
	ip   netip.Addr
	mtu  int
}

// size gives a pod that is being attached its routes; the pod's lock is held.
func (n *Network) size(uid, path string, ip netip.Addr, inside *netlink.Handle) error {
	for {
		n.mu.Lock()
		mtu := n.clusterMTU
		n.mu.Unlock()
		if err := n.sizeRoutes(inside, mtu); err != nil {
			return err
		}
		n.mu.Lock()
		same := mtu == n.clusterMTU
		n.sized[uid] = &sizedPod{path, ip, mtu}
		n.mu.Unlock()
		if same {
			return nil
		}
	}
}

// sizePods changes the routes of pods that are there already, after nodes came or went.
func (n *Network) sizePods(ctx context.Context) error {
	n.mu.Lock()
	mtu := n.clusterMTU
	stale := map[string]sizedPod{}
	for uid, p := range n.sized {
		if p.mtu != mtu {
			stale[uid] = *p
		}
	}
	n.mu.Unlock()
	var errs []error
	for uid := range maps.Keys(stale) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, n.resize(uid))
	}
	return errors.Join(errs...)
}

func (n *Network) resize(uid string) error {
	unlock := n.pods.lock(uid)
	defer unlock()
	n.mu.Lock()
	p := n.sized[uid]
	n.mu.Unlock()
	if p == nil {
		return nil // detached meanwhile
	}
	ns, err := openNamespace(p.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // its sandbox has ended; the next one is sized as it is attached
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := ns.netlink()
	if err != nil {
		return err
	}
	defer inside.Close()
	// The process whose number is in the path may have ended, and another one have it now.
	if eth, err := inside.LinkByName(podInterface); err != nil || eth.Attrs().HardwareAddr.String() != macOf(0x0a, p.ip).String() {
		return nil
	}
	if err := n.size(uid, p.path, p.ip, inside); err != nil {
		return fmt.Errorf("routes of the pod at %s: %w", p.ip, err)
	}
	return nil
}

// sizeRoutes makes the pod's routes to the cluster's ranges have this MTU; 0 needs none beside the default route.
func (n *Network) sizeRoutes(inside *netlink.Handle, mtu int) error {
	if mtu == unknownMTU {
		return nil
	}
	eth, err := inside.LinkByName(podInterface)
	if err != nil {
		return err
	}
	have, err := inside.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	if mtu == 0 {
		for i := range have {
			if err := inside.RouteDel(&have[i]); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove route %s: %w", have[i].Dst, err)
			}
		}
		return nil
	}
	for _, cidr := range []netip.Prefix{n.cfg.ClusterPodCIDR, n.cfg.ServiceCIDR} {
		r := netlink.Route{Dst: ipNet(cidr), LinkIndex: eth.Attrs().Index, Gw: n.Gateway().AsSlice(), Protocol: routeProtocol, MTU: mtu}
		if err := inside.RouteReplace(&r); err != nil {
			return fmt.Errorf("route %s: %w", cidr, err)
		}
	}
	return nil
}
