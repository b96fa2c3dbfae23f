package doctor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

const (
	smallPing = 84
	// leastMTU is what every link of the Internet must carry (RFC 791).
	leastMTU = 576
	// tries of a ping: one may get lost.
	tries = 2
)

// Sizes pings an address with a small packet and with the largest that this machine sends there.
func Sizes(ctx context.Context, s System, to netip.Addr) (small, full bool, size int) {
	size, err := s.LinkMTU(to)
	if err != nil || ping(ctx, s, to, smallPing) != nil {
		return false, false, size
	}
	full, size = fullPing(ctx, s, to, size)
	// When there is no more time, a packet that was not answered says nothing.
	return full || ctx.Err() == nil, full, size
}

// fullPing sends packets of a size; when somebody on the way says that they are too large, as he should, the kernel has learned
// what fits, and everybody who sends by it is well served: then those count.
func fullPing(ctx context.Context, s System, to netip.Addr, size int) (ok bool, tried int) {
	for ctx.Err() == nil {
		if ping(ctx, s, to, size) == nil {
			return true, size
		}
		learned, err := s.LinkMTU(to)
		if err != nil || learned >= size || learned < leastMTU {
			break
		}
		size = learned
	}
	return false, size
}

// mtu tries the largest packets to the other nodes' pod ranges, the way that pods' packets go. The other direction is tried by
// the other node.
func mtu(ctx context.Context, s System, p *Place) []Finding {
	if p.MTU == 0 || len(p.Peers) == 0 {
		return nil
	}
	// Those from whom gossip does not hear are told of there.
	peers := slices.DeleteFunc(slices.Clone(p.Peers), func(peer Peer) bool { return p.Running && !peer.Alive })
	if len(peers) == 0 {
		return nil
	}
	found := make([]Finding, len(peers))
	var wg sync.WaitGroup
	for i, peer := range peers {
		wg.Go(func() { found[i] = mtuTo(ctx, s, p, peer) })
	}
	wg.Wait()
	said := map[string]bool{}
	for _, f := range found {
		said[f.What] = true
	}
	if Worst(found) == OK && len(said) == 1 {
		return []Finding{good("%s of all %d other nodes", found[0].What, len(found))}
	}
	if Worst(found) == OK {
		return found
	}
	return slices.DeleteFunc(found, func(f Finding) bool { return f.State == OK })
}

func mtuTo(ctx context.Context, s System, p *Place, peer Peer) Finding {
	if !peer.Gateway.IsValid() {
		return unknown("%s has no range of pod addresses yet", peer.Name)
	}
	if err := ping(ctx, s, peer.Gateway, smallPing); err != nil {
		if refused(s.Reach(ctx, netip.AddrPortFrom(peer.Gateway, uint16(p.GossipPort)).String())) {
			return unknown("%s answers no pings: whether large packets arrive there cannot be told", peer.Name)
		}
		return bad(fmt.Sprintf("open 8472/udp between the nodes if they are on different links; if the provider drops packets with addresses that it did not assign: wp-agent run --always-vxlan on both; wpctl doctor --node %s looks from there", peer.Name),
			"pods of %s cannot be reached from here: %s does not answer: %v", peer.Name, peer.Gateway, err)
	}
	full := p.MTU
	if link, err := s.LinkMTU(peer.Gateway); err == nil && link < full {
		full = link // the kernel tells pods, which then send less
	}
	ok, full := fullPing(ctx, s, peer.Gateway, full)
	if ok {
		return good("packets of %d bytes reach the pods' ranges", full)
	}
	fits, not := smallPing, full
	if ping(ctx, s, peer.Gateway, leastMTU) == nil {
		fits = leastMTU
	}
	for not-fits > 1 && ctx.Err() == nil {
		middle := (fits + not) / 2
		if ping(ctx, s, peer.Gateway, middle) == nil {
			fits = middle
		} else {
			not = middle
		}
	}
	if ctx.Err() != nil {
		return bad("look at the MTU of the links between the nodes: ip link", "packets of %d bytes to %s are lost, small ones are not", full, peer.Name)
	}
	// Links let a few bytes more through than their MTU says (for VLAN tags): a round number is safe, and costs nothing.
	return bad(fmt.Sprintf("start wp-agent with --mtu %d on all nodes (or correct the MTU of the link between them)", fits-fits%10), "packets of more than %d bytes to %s are lost without a word: large answers hang", fits, peer.Name)
}

// refused: somebody is there, be it that nobody listens.
func refused(err error) bool { return err == nil || strings.Contains(err.Error(), "refused") }

func ping(ctx context.Context, s System, to netip.Addr, size int) (err error) {
	for range tries {
		if err = s.Ping(ctx, to, size); err == nil || errors.Is(err, ErrTooBig) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// addresses looks for routes of the machine into the cluster's own ranges.
func addresses(ctx context.Context, s System, p *Place) []Finding {
	if !p.Pods.IsValid() && !p.Services.IsValid() {
		return nil
	}
	text, err := s.Run(ctx, "ip", "-4", "-o", "route", "show", "table", "main")
	if err != nil {
		return []Finding{unknown("the machine's routes: %v", err)}
	}
	var out []Finding
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || ownRoute(f) {
			continue
		}
		to, ok := routeTo(f)
		if !ok {
			continue
		}
		for _, r := range []struct {
			name, flag string
			prefix     netip.Prefix
		}{{"pods", "--pod-cidr", p.Pods}, {"Services", "--service-cidr", p.Services}} {
			switch {
			case !r.prefix.IsValid() || to.Bits() == 0 || !r.prefix.Overlaps(to):
			case to.Bits() < r.prefix.Bits(): // ours are narrower, and so come first
				out = append(out, warn(fmt.Sprintf("nothing, if nobody needs machines there with these addresses; else give the master another range with %s before nodes join", r.flag),
					"the machine has a route to %s, around the range of %s %s: what is there under these addresses cannot be reached from here", to, r.name, r.prefix))
			default:
				out = append(out, bad(fmt.Sprintf("give the master another range with %s before nodes join, or move the other network (route: %s)", r.flag, strings.TrimSpace(line)),
					"the machine has a route to %s, within the range of %s %s: one of the two cannot be reached", to, r.name, r.prefix))
			}
		}
	}
	if p.Pods.IsValid() && p.NodeIP.IsValid() && (p.Pods.Contains(p.NodeIP) || p.Services.Contains(p.NodeIP)) {
		out = append(out, bad("give the master other ranges: --pod-cidr, --service-cidr", "the machine's own address %s is within the cluster's ranges", p.NodeIP))
	}
	if len(out) == 0 {
		out = append(out, good("no other network has the cluster's addresses (pods %s, Services %s)", p.Pods, p.Services))
	}
	return out
}

// ownRoute tells our routes by their protocol number and devices; see node/network.
func ownRoute(f []string) bool {
	for i := 0; i+1 < len(f); i++ {
		switch {
		case f[i] == "proto" && f[i+1] == "87":
			return true
		case f[i] == "dev" && (f[i+1] == "wp0" || f[i+1] == "wpx0" || strings.HasPrefix(f[i+1], "wpv")):
			return true
		}
	}
	return false
}

func routeTo(f []string) (netip.Prefix, bool) {
	at := f[0]
	switch at {
	case "default":
		return netip.Prefix{}, false
	case "unreachable", "blackhole", "prohibit", "local", "broadcast", "unicast":
		if len(f) < 2 {
			return netip.Prefix{}, false
		}
		at = f[1]
	}
	if p, err := netip.ParsePrefix(at); err == nil {
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(at)
	if err != nil {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

const rcodeServerFailure = 2

// upstreams asks the name servers for names outside the cluster.
func upstreams(ctx context.Context, s System, p *Place) []Finding {
	if p.ResolvConf == "" {
		return nil
	}
	data, err := s.ReadFile(p.ResolvConf)
	if err != nil {
		return []Finding{bad("write the provider's name servers there: nameserver ADDRESS", "no name servers for names outside the cluster: %v", err)}
	}
	var servers []netip.Addr
	for sc := bufio.NewScanner(bytes.NewReader(data)); sc.Scan(); {
		if f := strings.Fields(sc.Text()); len(f) > 1 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil && a != p.DNS {
				servers = append(servers, a)
			}
		}
	}
	if len(servers) == 0 {
		return []Finding{bad("put the provider's name servers into it: nameserver ADDRESS", "%s names no server for names outside the cluster, or only the cluster's own", p.ResolvConf)}
	}
	var fine, silent []string
	for _, server := range servers {
		rcode, err := s.AskDNS(ctx, server)
		switch {
		case err != nil:
			silent = append(silent, fmt.Sprintf("%s (%v)", server, err))
		case rcode == rcodeServerFailure:
			silent = append(silent, fmt.Sprintf("%s (SERVFAIL: it may ask itself, or reach nobody)", server))
		default:
			fine = append(fine, server.String())
		}
	}
	fix := "correct the name servers in " + p.ResolvConf + ", or open 53/udp and 53/tcp to them"
	switch {
	case len(fine) == 0:
		return []Finding{bad(fix, "no name server answers: %s", strings.Join(silent, ", "))}
	case len(silent) > 0:
		return []Finding{warn(fix, "not all name servers answer: %s", strings.Join(silent, ", "))}
	}
	return []Finding{good("name servers answer: %s", strings.Join(fine, ", "))}
}
