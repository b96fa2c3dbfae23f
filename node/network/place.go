package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkAnnotation of a Node is what its agent tells the others of its place: a Place.
const LinkAnnotation = "whalepod.io/link"

// Place is where a node hangs. Each node of a pair looks at both its own and the other's, so that both choose the same way:
// packets that go by one way and are answered by the other are dropped where rp_filter is strict, and a node whose
// provider drops addresses that it does not know must not be sent bare packets either.
type Place struct {
	// Prefix holds the addresses that the node reaches, and is reached from, without a router; itself alone where there
	// are none, or where plain routes are not to be used.
	Prefix netip.Prefix
	// MTU is the size of the largest packet that the link takes.
	MTU int
}

// The smallest and largest packets of IPv4: RFC 791.
const minMTU, maxMTU = 68, 65535

func (l Place) String() string { return fmt.Sprintf("%s mtu %d", l.Prefix, l.MTU) }

// ParsePlace reads what String writes.
func ParsePlace(s string) (Place, error) {
	prefix, mtu, _ := strings.Cut(s, " mtu ")
	var l Place
	var err error
	if l.Prefix, err = netip.ParsePrefix(prefix); err != nil || !l.Prefix.Addr().Is4() {
		return Place{}, fmt.Errorf("link %q: want ADDRESS/BITS mtu BYTES", s)
	}
	if _, err := fmt.Sscanf(mtu, "%d", &l.MTU); err != nil || l.MTU < minMTU || l.MTU > maxMTU {
		return Place{}, fmt.Errorf("link %q: want ADDRESS/BITS mtu BYTES", s)
	}
	l.Prefix = l.Prefix.Masked()
	return l, nil
}

// PlaceOf describes the link of the node that has this address.
func PlaceOf(cfg Config) (Place, error) {
	ns, err := openNamespace(cfg.NetNS)
	if err != nil {
		return Place{}, err
	}
	defer ns.Close()
	h, err := ns.netlink()
	if err != nil {
		return Place{}, err
	}
	defer h.Close()
	_, link, err := uplink(h, cfg)
	return link, err
}

// uplink finds the link that holds the node's address, and what to tell the others of it.
func uplink(h *netlink.Handle, cfg Config) (netlink.Link, Place, error) {
	addrs, err := h.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, Place{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); !ok || ip != cfg.NodeIP {
			continue
		}
		dev, err := h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return nil, Place{}, err
		}
		told := Place{Prefix: netip.PrefixFrom(cfg.NodeIP, 32), MTU: dev.Attrs().MTU}
		if cfg.MTU > 0 {
			// Who makes pods' packets smaller than the link's knows of something narrower behind it.
			told.MTU = min(told.MTU, cfg.MTU+vxlanOverhead)
		}
		if cfg.AlwaysVXLAN || dev.Attrs().EncapType != "ether" {
			return dev, told, nil
		}
		bits, _ := a.Mask.Size()
		wide := netip.PrefixFrom(cfg.NodeIP, bits).Masked()
		// Some providers give out addresses of a common network, but have all of it go through their router.
		direct, err := h.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: ipNet(wide), LinkIndex: a.LinkIndex, Table: unix.RT_TABLE_MAIN},
			netlink.RT_FILTER_DST|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, Place{}, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range direct {
			if len(r.Gw) == 0 && r.Type == unix.RTN_UNICAST {
				told.Prefix = wide
			}
		}
		return dev, told, nil
	}
	return nil, Place{}, fmt.Errorf("no link of this machine has the node's address %s; give the right one with --node-ip", cfg.NodeIP)
}

// neighbours tells whether each of two nodes says that the other is on its link. Of one that has said nothing yet
// it is not known, and left to the other's routes.
func neighbours(ip netip.Addr, own Place, peer Peer) bool {
	if !own.Prefix.Contains(peer.IP) {
		return false
	}
	return !peer.Place.Prefix.IsValid() || peer.Place.Prefix.Contains(ip)
}

// mtuTo is the size of the largest packet of a pod that reaches a peer's pods whole by this way.
func mtuTo(own, peer Place, via string) int {
	mtu := own.MTU
	if peer.MTU >= minMTU {
		mtu = min(mtu, peer.MTU)
	}
	if via == viaVXLAN {
		mtu -= vxlanOverhead
	}
	return mtu
}
