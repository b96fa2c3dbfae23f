package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	podInterface = "eth0"
	aliasMark    = "whalepod"
	aliasMax     = 255 // IFALIASZ - 1
)

// Pod is what the network needs to know of a pod.
type Pod struct {
	UID, Namespace, Name string
	// IP is taken if it is free, otherwise the pod gets another: a pod restored after a reboot would like to keep its own.
	IP netip.Addr
}

// PodLink is one pod as the kernel has it.
type PodLink struct {
	UID  string
	Pod  string // namespace/name, cut off when very long
	IP   netip.Addr
	Link string // the node's end of the pair
}

// NetNSOfPID is the path of a process's network namespace.
func NetNSOfPID(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// LinkName is the name of the node's end of a pod's veth pair.
func LinkName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return vethPrefix + hex.EncodeToString(sum[:6])
}

// AttachPod connects the namespace to the node and returns the pod's address. Called again for the same pod it
// finds everything in place, repairs what is not, and returns the same address.
func (n *Network) AttachPod(ctx context.Context, netnsPath string, pod Pod) (netip.Addr, error) {
	ip, err := n.attach(ctx, netnsPath, pod)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("network of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return ip, nil
}

func (n *Network) attach(ctx context.Context, netnsPath string, pod Pod) (netip.Addr, error) {
	if pod.UID == "" {
		return netip.Addr{}, errors.New("the pod has no UID")
	}
	unlock := n.pods.lock(pod.UID)
	defer unlock()
	if err := ctx.Err(); err != nil {
		return netip.Addr{}, err
	}
	n.mu.Lock()
	ready, mtu, bridge := n.ready, n.mtu, n.bridge
	n.mu.Unlock()
	if !ready {
		return netip.Addr{}, errors.New("the node's network is not set up yet")
	}
	ns, err := openNamespace(netnsPath)
	if err != nil {
		return netip.Addr{}, err
	}
	defer ns.Close()
	if ns.fd.Equal(n.ns.fd) {
		return netip.Addr{}, errors.New("the pod's namespace is the node's own")
	}
	inside, err := ns.netlink()
	if err != nil {
		return netip.Addr{}, err
	}
	defer inside.Close()
	ip, err := n.ips.get(pod.UID, pod.IP)
	if err != nil {
		return netip.Addr{}, err
	}
	if err := n.ensureVeth(ns, inside, pod, ip, bridge, mtu); err != nil {
		return netip.Addr{}, err
	}
	if err := n.configureInside(ns, inside, ip); err != nil {
		return netip.Addr{}, err
	}
	return ip, n.size(pod.UID, netnsPath, ip, inside)
}

// ensureVeth makes the pair, or keeps the one there is when both ends belong together.
func (n *Network) ensureVeth(ns *namespace, inside *netlink.Handle, pod Pod, ip netip.Addr, bridge, mtu int) error {
	name := LinkName(pod.UID)
	host, err := n.nl.LinkByName(name)
	if err == nil {
		peer, err := inside.LinkByName(podInterface)
		if err != nil || peer.Attrs().ParentIndex != host.Attrs().Index || host.Attrs().ParentIndex != peer.Attrs().Index {
			// The other end is in a namespace the pod no longer uses.
			if err := n.deleteLink(name); err != nil {
				return err
			}
			host = nil
		}
	} else if !isNotFound(err) {
		return err
	} else {
		host = nil
	}
	if host == nil {
		if host, err = n.addVeth(ns, inside, name, ip, bridge, mtu); err != nil {
			return err
		}
	}
	return n.configureOutside(host, pod, ip, bridge)
}

func (n *Network) addVeth(ns *namespace, inside *netlink.Handle, name string, ip netip.Addr, bridge, mtu int) (netlink.Link, error) {
	if old, err := inside.LinkByName(podInterface); err == nil {
		// Left by an attempt whose other end we do not know, or by somebody else: the pod must have ours.
		if err := inside.LinkDel(old); err != nil {
			return nil, fmt.Errorf("remove the %s that is in the pod already: %w", podInterface, err)
		}
	}
	veth := &netlink.Veth{
		LinkAttrs:        netlink.LinkAttrs{Name: name, MTU: mtu, MasterIndex: bridge, TxQLen: 1000},
		PeerName:         podInterface,
		PeerHardwareAddr: macOf(0x0a, ip),
		PeerNamespace:    netlink.NsFd(int(ns.fd)),
	}
	if err := n.nl.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("make veth %s: %w", name, err)
	}
	return n.nl.LinkByName(name)
}

func (n *Network) configureOutside(host netlink.Link, pod Pod, ip netip.Addr, bridge int) error {
	attrs := host.Attrs()
	if alias := podAlias(pod, ip); attrs.Alias != alias {
		if err := n.nl.LinkSetAlias(host, alias); err != nil {
			return fmt.Errorf("label %s: %w", attrs.Name, err)
		}
	}
	if attrs.MasterIndex != bridge {
		if err := n.nl.LinkSetMasterByIndex(host, bridge); err != nil {
			return fmt.Errorf("put %s on %s: %w", attrs.Name, BridgeName, err)
		}
	}
	// With bridge netfilter a packet that a Service sends back to its own pod never leaves the bridge: it must be
	// allowed out by the port it came in.
	if err := n.nl.LinkSetHairpin(host, true); err != nil {
		return fmt.Errorf("hairpin on %s: %w", attrs.Name, err)
	}
	if err := n.ns.sysctl("net/ipv6/conf/"+attrs.Name+"/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if attrs.Flags&net.FlagUp == 0 {
		return n.nl.LinkSetUp(host)
	}
	return nil
}

func (n *Network) configureInside(ns *namespace, inside *netlink.Handle, ip netip.Addr) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	eth, err := inside.LinkByName(podInterface)
	if err != nil {
		return err
	}
	for _, key := range []string{"all", podInterface} {
		if err := ns.sysctl("net/ipv4/conf/"+key+"/accept_redirects", "0"); err != nil {
			return err
		}
	}
	// Pods of one node are on one bridge: by addresses of IPv6 that links give themselves they would reach each other past the node's
	// rules. (Before the link is up; a kernel without IPv6 has no such file.)
	if err := ns.sysctl("net/ipv6/conf/"+podInterface+"/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if eth.Attrs().Flags&net.FlagUp == 0 {
		if err := inside.LinkSetUp(eth); err != nil {
			return err
		}
	}
	have, err := inside.AddrList(eth, unix.AF_INET)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IPNet.String() == hostNet(ip).String() }) {
		if err := inside.AddrAdd(eth, &netlink.Addr{IPNet: hostNet(ip)}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("address %s: %w", ip, err)
		}
	}
	gw, index := n.Gateway(), eth.Attrs().Index
	for _, r := range []netlink.Route{
		{Dst: hostNet(gw), LinkIndex: index, Scope: netlink.SCOPE_LINK},
		{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, LinkIndex: index, Gw: gw.AsSlice()},
	} {
		if err := inside.RouteReplace(&r); err != nil {
			return fmt.Errorf("route %s: %w", r.Dst, err)
		}
	}
	return nil
}

// DetachPod removes the pod's link and frees its address; a pod that has none is no error.
func (n *Network) DetachPod(ctx context.Context, uid string) error {
	unlock := n.pods.lock(uid)
	defer unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.deleteLink(LinkName(uid)); err != nil {
		return err
	}
	n.ips.release(uid)
	n.mu.Lock()
	delete(n.sized, uid)
	n.mu.Unlock()
	return nil
}

// List says which pods are attached, read from the kernel.
func (n *Network) List(ctx context.Context) ([]PodLink, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return n.podLinks()
}

func (n *Network) podLinks() ([]PodLink, error) {
	links, err := n.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []PodLink
	for _, l := range links {
		if l.Type() != "veth" || !strings.HasPrefix(l.Attrs().Name, vethPrefix) {
			continue
		}
		p, ok := parseAlias(l.Attrs().Alias)
		if !ok {
			continue
		}
		p.Link = l.Attrs().Name
		out = append(out, p)
	}
	return out, nil
}

// podAlias is what `ip link` shows beside the veth, and what a restarted agent learns the pod's address from.
func podAlias(pod Pod, ip netip.Addr) string {
	s := fmt.Sprintf("%s %s %s %s/%s", aliasMark, pod.UID, ip, pod.Namespace, pod.Name)
	if len(s) > aliasMax {
		s = s[:aliasMax]
	}
	return s
}

func parseAlias(alias string) (PodLink, bool) {
	f := strings.Fields(alias)
	if len(f) < 3 || f[0] != aliasMark {
		return PodLink{}, false
	}
	ip, err := netip.ParseAddr(f[2])
	if err != nil {
		return PodLink{}, false
	}
	p := PodLink{UID: f[1], IP: ip}
	if len(f) > 3 {
		p.Pod = f[3]
	}
	return p, true
}
