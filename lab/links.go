package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// The second link, and the router between it and the first: what a cluster has whose servers are at two providers.
//
//	  wp-lab 198.51.100.1 (bridge, registry, clients)
//	   │         │         │
//	wp-node1  wp-node2  wp-router 198.51.100.2
//	                       203.0.113.1
//	                       │
//	                    wp-node3 203.0.113.13
//
// Nodes of the second link have the router as their default gateway. The router knows the two links and nothing else.
const (
	maxLinks     = 2
	routerFirst  = 2 // last byte of the router's address on the first link
	routerSecond = 1 // and on the second, where it is the gateway
)

// network of a link, counted from 1.
func (c Config) network(link int) netip.Prefix {
	if link == 2 {
		return c.Subnet2
	}
	return c.Subnet
}

// linkOf the i-th node: the nodes are dealt out in order, as evenly as they can be, more to the first link.
func (c Config) linkOf(i int) int { return (i-1)*c.Links/c.Nodes + 1 }

func (c Config) routerName() string { return c.Prefix + "router" }

// gateway of the nodes of a link.
func (c Config) gateway(link int) netip.Addr {
	if link == 2 {
		return nth(c.Subnet2, routerSecond)
	}
	return c.address(1)
}

// switchOf is the bridge of a link, in the lab's namespace.
func switchOf(link int) string {
	if link == 2 {
		return bridge + "2"
	}
	return bridge
}

// routerPort is the switch's end of the router's cable.
func routerPort(link int) string { return fmt.Sprintf("router%d", link) }

// AddLink makes the second link and the router, unless they are there.
func (l *Lab) AddLink(ctx context.Context) error {
	if _, err := os.Stat(netnsPath(l.cfg.routerName())); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	lab, ns := l.cfg.labName(), l.cfg.routerName()
	steps := [][]string{
		{"-n", lab, "link", "add", switchOf(2), "type", "bridge"},
		{"-n", lab, "link", "set", switchOf(2), "up"},
		{"netns", "add", ns},
		{"-n", ns, "link", "set", "lo", "up"},
	}
	for link := 1; link <= maxLinks; link++ {
		leg, network := fmt.Sprintf("link%d", link), l.cfg.network(link)
		steps = append(steps, [][]string{
			{"-n", lab, "link", "add", routerPort(link), "type", "veth", "peer", "name", leg, "netns", ns},
			{"-n", lab, "link", "set", routerPort(link), "master", switchOf(link), "up"},
			{"-n", ns, "addr", "add", fmt.Sprintf("%s/%d", l.cfg.router(link), network.Bits()), "dev", leg},
			{"-n", ns, "link", "set", leg, "up"},
		}...)
	}
	steps = append(steps,
		[]string{"-n", ns, "route", "add", "unreachable", "default"},
		[]string{"-n", lab, "route", "replace", l.cfg.Subnet2.String(), "via", l.cfg.router(1).String()})
	for _, n := range l.nodes {
		if _, err := os.Stat(netnsPath(n.Name)); err == nil && n.Link() == 1 {
			steps = append(steps, n.wayToOtherLink())
		}
	}
	for _, s := range steps {
		if err := run(ctx, "ip", s...); err != nil {
			return err
		}
	}
	return run(ctx, "nsenter", "--net="+netnsPath(ns), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
}

// router is its address on a link.
func (c Config) router(link int) netip.Addr {
	if link == 2 {
		return nth(c.Subnet2, routerSecond)
	}
	return c.address(routerFirst)
}

// wayToOtherLink is a route that nodes of the first link need beside their gateway, which leads nowhere.
func (n *Node) wayToOtherLink() []string {
	return []string{"-n", n.Name, "route", "replace", n.lab.cfg.Subnet2.String(), "via", n.lab.cfg.router(1).String()}
}

// hasRouter tells whether there is a second link.
func (l *Lab) hasRouter() bool {
	_, err := os.Stat(netnsPath(l.cfg.routerName()))
	return err == nil
}

// RouterNetNS is the path of the router's network namespace.
func (l *Lab) RouterNetNS() string { return netnsPath(l.cfg.routerName()) }

// RouterAddress is the router's address on a link, 1 or 2.
func (l *Lab) RouterAddress(link int) netip.Addr { return l.cfg.router(link) }

// CutRouter cuts the links off from each other.
func (l *Lab) CutRouter(ctx context.Context) error {
	return run(ctx, "ip", "-n", l.cfg.labName(), "link", "set", routerPort(2), "down")
}

// HealRouter joins them again.
func (l *Lab) HealRouter(ctx context.Context) error {
	return run(ctx, "ip", "-n", l.cfg.labName(), "link", "set", routerPort(2), "up")
}

// SetRouterMTU makes the way between the links narrower than the links, as the Internet between two providers may be.
// The routes have the MTU and not the router's interfaces, which would drop what is too large as it comes in, without
// a word; a router says so.
func (l *Lab) SetRouterMTU(ctx context.Context, mtu int) error {
	for link := 1; link <= maxLinks; link++ {
		err := run(ctx, "ip", "-n", l.cfg.routerName(), "route", "replace", l.cfg.network(link).String(), "dev", fmt.Sprintf("link%d", link),
			"proto", "kernel", "scope", "link", "src", l.cfg.router(link).String(), "mtu", "lock", fmt.Sprint(mtu))
		if err != nil {
			return err
		}
	}
	return nil
}

// Link is the link that the node hangs on, 1 or 2.
func (n *Node) Link() int {
	if n.lab.cfg.Subnet2.Contains(n.Address) {
		return 2
	}
	return 1
}

// MoveTo hangs a node that runs on another link, with an address there, and starts its agent anew.
// Pods keep running, and keep their addresses.
func (n *Node) MoveTo(ctx context.Context, link int) error {
	if n.Link() == link {
		return nil
	}
	if link < 1 || link > maxLinks {
		return fmt.Errorf("there is no link %d", link)
	}
	if n.index == 1 {
		return errors.New("the first node is the master's, and stays")
	}
	if err := n.lab.AddLink(ctx); err != nil {
		return err
	}
	if err := n.lab.process(n.daemon(agent)).stop(ctx, 30*time.Second); err != nil {
		return err
	}
	old := n.Address
	n.Address = nth(n.lab.cfg.network(link), nodeAddress+n.index-1)
	steps := [][]string{
		{"-n", n.lab.cfg.labName(), "link", "set", n.port(), "master", switchOf(link)},
		{"-n", n.Name, "addr", "del", fmt.Sprintf("%s/%d", old, n.lab.cfg.network(3-link).Bits()), "dev", uplink},
	}
	for _, s := range append(steps, n.addressing()...) {
		if err := run(ctx, "ip", s...); err != nil {
			return err
		}
	}
	err := n.lab.record(func(s *state) {
		if s.Moved == nil {
			s.Moved = map[string]int{}
		}
		s.Moved[n.Name] = link
	})
	if err != nil {
		return err
	}
	// In place: they are mounted into the nodes.
	for _, o := range n.lab.nodes {
		hosts := o.etcFiles()["hosts"]
		if err := os.WriteFile(filepath.Join(o.Dir(), "etc", "hosts"), []byte(hosts), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return n.StartAgent(ctx)
}

// addressing are the commands that give the node's link its address and routes.
func (n *Node) addressing() [][]string {
	link := n.Link()
	cmds := [][]string{
		{"-n", n.Name, "addr", "add", fmt.Sprintf("%s/%d", n.Address, n.lab.cfg.network(link).Bits()), "dev", uplink},
		{"-n", n.Name, "link", "set", uplink, "up"},
		{"-n", n.Name, "route", "replace", "default", "via", n.lab.cfg.gateway(link).String()},
	}
	if link == 1 && n.lab.hasRouter() {
		cmds = append(cmds, n.wayToOtherLink())
	}
	return cmds
}
