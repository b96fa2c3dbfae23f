package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// Ports of ours beside the gossip's, which can be chosen.
const (
	apiPort, agentsPort, masterGossipPort, vxlanPort, dnsPort = 6443, 6444, 7947, 8472, 53
	firstNodePort, lastNodePort                               = 30000, 32767
)

// port that others must reach, or that we listen on.
type port struct {
	protocol string
	number   int
	what     string
}

func (p port) String() string { return fmt.Sprintf("%d/%s", p.number, p.protocol) }

// needed are the ports that other machines must reach here.
func (p *Place) needed() []port {
	var out []port
	if p.Master {
		out = append(out, port{"tcp", apiPort, "the API"}, port{"tcp", agentsPort, "agents"}, port{"tcp", masterGossipPort, "the master's gossip"}, port{"udp", masterGossipPort, "the master's gossip"})
	}
	if p.Agent {
		out = append(out, port{"tcp", p.GossipPort, "gossip"}, port{"udp", p.GossipPort, "gossip"}, port{"udp", vxlanPort, "the tunnel to nodes on other links"})
	}
	return out
}

// ours are the programs that may listen on our ports.
var ours = map[string]bool{"wp-agent": true, "wp-master": true}

// ports finds others who listen where we want to.
func ports(_ context.Context, s System, p *Place) []Finding {
	list, err := s.Listeners()
	if err != nil {
		return []Finding{unknown("which ports are in use: %v", err)}
	}
	var out []Finding
	for _, l := range list {
		if ours[l.Program] || p.Running && l.Program == "" {
			continue
		}
		out = append(out, p.inTheWay(l)...)
	}
	if len(out) == 0 {
		out = append(out, good("nobody else listens on the cluster's ports"))
	}
	return out
}

func (p *Place) inTheWay(l Listener) []Finding {
	who := l.Program
	if who == "" {
		who = "another program"
	}
	at := l.Address
	if at.Addr().IsLoopback() && at.Port() != dnsPort {
		return nil // two programs may have one port on different addresses
	}
	for _, n := range p.needed() {
		if l.Protocol == n.protocol && int(at.Port()) == n.number && n.number != vxlanPort {
			return []Finding{bad(fmt.Sprintf("stop it, or give it another port (ss -lnp '( sport = %d )' shows it)", n.number), "%s listens on %s, the port of %s", who, n, n.what)}
		}
	}
	switch {
	case p.Agent && at.Port() == dnsPort && (at.Addr().IsUnspecified() || at.Addr() == p.DNS):
		return []Finding{bad(bindElsewhere(who), "%s listens on port 53 of every address, so the cluster's DNS cannot", who)}
	case p.Agent && l.Protocol == "tcp" && at.Port() >= firstNodePort && at.Port() <= lastNodePort:
		return []Finding{warn(fmt.Sprintf("give it a port outside %d-%d", firstNodePort, lastNodePort), "%s listens on %d, which a Service may get as its node port: then nobody reaches it", who, at.Port())}
	}
	return nil
}

func bindElsewhere(program string) string {
	switch program {
	case "dnsmasq":
		return "put bind-interfaces and listen-address=127.0.0.1 into /etc/dnsmasq.conf, then: systemctl restart dnsmasq"
	case "named":
		return "put listen-on { 127.0.0.1; }; into the options of named.conf, then: systemctl restart named"
	case "systemd-resolve", "systemd-resolved":
		return "remove DNSStubListenerExtra from /etc/systemd/resolved.conf, then: systemctl restart systemd-resolved"
	}
	return "let it listen on 127.0.0.1 only"
}

// reach dials who must be reached: the masters, and the other nodes' gossip.
func reach(ctx context.Context, s System, p *Place) []Finding {
	var out []Finding
	try := func(who, address, portName string) {
		err := s.Reach(ctx, address)
		if err == nil {
			return
		}
		_, number, _ := strings.Cut(address, ":")
		fix := fmt.Sprintf("if %[2]s runs: open %[1]s/tcp on %[2]s, in its own firewall (wpctl doctor there names the command) and in the provider's", number, who)
		if refused(err) {
			fix = fmt.Sprintf("nothing listens there: see whether %s runs on %s", portName, who)
		}
		out = append(out, bad(fix, "%s cannot be reached at %s: %v", who, address, err))
	}
	n := 0
	for _, m := range p.Masters {
		try("the master", m, "wp-master")
		n++
	}
	for _, peer := range p.Peers {
		if peer.Address.IsValid() && p.GossipPort > 0 {
			try(peer.Name, netip.AddrPortFrom(peer.Address, uint16(p.GossipPort)).String(), "wp-agent")
			n++
		}
	}
	if len(out) == 0 && n > 0 {
		out = append(out, good("the master and the other nodes can be reached (%d of %d)", n, n))
	}
	return out
}

// gossip compares who should be alive with whom this node hears.
func gossip(_ context.Context, _ System, p *Place) []Finding {
	if !p.Running || len(p.Peers) == 0 {
		return nil
	}
	var silent []string
	for _, peer := range p.Peers {
		if !peer.Alive {
			silent = append(silent, peer.Name)
		}
	}
	if len(silent) > 0 {
		return []Finding{bad(fmt.Sprintf("if they run, open %d/tcp and %d/udp between the nodes", p.GossipPort, p.GossipPort), "gossip does not hear from %s: their endpoints get no connections from here", strings.Join(silent, ", "))}
	}
	return []Finding{good("gossip hears from all %d other nodes", len(p.Peers))}
}
