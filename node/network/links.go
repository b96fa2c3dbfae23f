package network

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Link is a link of this node by which it has neighbours.
type Link struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	// Addrs are the node's own IPv4 addresses on it, each with the network that it is in.
	Addrs []netip.Prefix
}

// Links are the node's links that are up with a cable in, ask for addresses by ARP and have an IPv4 address themselves; not the pods' bridge
// nor the tunnel.
func (n *Network) Links() ([]Link, error) {
	addrs, err := n.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []Link
	at := map[int]int{} // index of the link → place in out; -1: not one of those
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok {
			continue
		}
		place, known := at[a.LinkIndex]
		if !known {
			place = -1
			link, err := n.nl.LinkByIndex(a.LinkIndex)
			if err == nil && hasNeighbours(link.Attrs().Name, link.Attrs().RawFlags, link.Attrs().HardwareAddr) {
				place = len(out)
				out = append(out, Link{Name: link.Attrs().Name, Index: a.LinkIndex, MAC: link.Attrs().HardwareAddr})
			}
			at[a.LinkIndex] = place
		}
		if place >= 0 {
			bits, _ := a.Mask.Size()
			out[place].Addrs = append(out[place].Addrs, netip.PrefixFrom(ip, bits))
		}
	}
	return out, nil
}

func hasNeighbours(name string, flags uint32, mac net.HardwareAddr) bool {
	const needed = unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_BROADCAST
	return flags&needed == needed && flags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) == 0 && len(mac) == 6 && name != BridgeName && name != VXLANName
}
