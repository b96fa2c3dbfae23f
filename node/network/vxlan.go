package network

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// syncTunnel keeps the VXLAN device while a peer needs it, with one fixed neighbour and forwarding entry for each:
// no learning, no broadcast. It adds the peers' routes to the plan.
func (n *Network) syncTunnel(want *plan) error {
	if len(want.tunnel) == 0 {
		return n.deleteLink(VXLANName)
	}
	link, err := n.ensureVXLAN(want.uplink)
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
			// Locked: when the machine learns that the way to a node is narrower than its link, the kernel would have the
			// tunnel refuse what does not fit, and what the node's own programs send by a Service's address would hang.
			MTU: link.Attrs().MTU, MTULock: true,
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

// ensureVXLAN makes the device. It takes packets as large as the link's, although with the outer header those do not fit:
// outer packets are sent without DF, the kernel's default, and are cut up by us or by a narrower router on the way, and
// the other node puts them together again. So nothing is refused and nothing depends on ICMP getting through. That costs
// two packets instead of one, but is rare: pods' own routes have them send what fits (see size.go), and TCP of others
// keeps to what pods announce. It is for datagrams of clients outside, which set DF by default.
func (n *Network) ensureVXLAN(uplink netlink.Link) (netlink.Link, error) {
	if uplink == nil {
		return nil, fmt.Errorf("no link of this machine has the node's address %s", n.cfg.NodeIP)
	}
	mtu := uplink.Attrs().MTU
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
		link.Attrs().MTU = mtu
	}
	for key, value := range map[string]string{
		"ipv4/conf/" + VXLANName + "/forwarding":     "1",
		"ipv4/conf/" + VXLANName + "/route_localnet": "1",
		// What goes in here and out again, for a Service, must not be redirected past us.
		"ipv4/conf/" + VXLANName + "/send_redirects": "0",
		// While two nodes learn of a change one after the other, packets may come by the tunnel and be answered by the link.
		// The larger of this and conf/all counts, and 2 (loose) is larger than 1 (strict).
		"ipv4/conf/" + VXLANName + "/rp_filter":    "2",
		"ipv6/conf/" + VXLANName + "/disable_ipv6": "1",
	} {
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
