package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// What happens to a new connection.
const (
	ToEndpoints = "endpoints"
	Reject      = "reject"
	Drop        = "drop"
	Nothing     = "nothing" // no rule of ours knows the address
)

// Verdict is what happens to a new connection to an address of a Service.
type Verdict struct {
	Action string
	// Endpoints that it may be sent to, sorted; with Action ToEndpoints.
	Endpoints []netip.AddrPort
	// Missing says where the way through the tables ends that should lead further: the jump or the chain that is not there.
	Missing string
}

// Way is one address and port by which a Service is reached.
type Way struct {
	// Port of the Service, by name, or by number if it has none.
	Port     string
	Protocol string // tcp, udp or sctp
	// Address is 0.0.0.0 for a node port: any address of the node.
	Address netip.AddrPort
	Want    Verdict
	Have    Verdict
}

// View is what is known of one Service, and what the kernel really does.
type View struct {
	// Known: the proxy has been told of the Service. Applied: rules have been in force at least once.
	Known, Applied bool
	Ways           []Way
}

// Looker is what a Backend or an Applier may implement to say what its tables, as the kernel has them now, do with a new connection from
// a pod or a machine of the cluster to an address (0.0.0.0 for a node port). It must read the kernel, not what the proxy
// remembers: it is asked when somebody doubts the latter.
//
// An Applier that has no chains in the sense of iptables (nf_tables with its maps) implements this; for one that does not,
// the proxy follows the chains itself, by Applier.List.
type Looker interface {
	Look(ctx context.Context, protocol string, to netip.AddrPort) (Verdict, error)
}

// View compares what the proxy wants for a Service with what the kernel has. It reads only the chains on the way.
func (p *Proxy) View(ctx context.Context, namespace, name string) (*View, error) {
	p.mu.Lock()
	out := &View{Known: p.model.services[key{namespace, name}] != nil}
	out.Ways = p.wanted(key{namespace, name})
	p.mu.Unlock()
	select {
	case <-p.ready:
		out.Applied = true
	default:
	}
	look := p.follow
	if l, ok := p.cfg.Native.(Looker); ok && !p.cfg.Former {
		look = l.Look
	} else if l, ok := p.cfg.Applier.(Looker); ok {
		look = l.Look
	}
	for i := range out.Ways {
		w := &out.Ways[i]
		var err error
		if w.Have, err = look(ctx, w.Protocol, w.Address); err != nil {
			return nil, fmt.Errorf("read the rules of %s/%s: %w", namespace, name, err)
		}
	}
	return out, nil
}

// wanted are the ways into a Service with what should happen there; p.mu is held.
func (p *Proxy) wanted(k key) []Way {
	svc := p.model.services[k]
	if svc == nil {
		return nil
	}
	var out []Way
	ports := p.cfg.compile(svc, slices.Collect(maps.Values(p.model.slices[k])), p.model.at)
	for i := range ports {
		port := &ports[i]
		add := func(ip netip.Addr, number uint16, eps []netip.AddrPort, otherwise string) {
			w := Way{Port: port.Name, Protocol: port.Protocol, Address: netip.AddrPortFrom(ip, number), Want: Verdict{Action: ToEndpoints, Endpoints: eps}}
			if len(eps) == 0 {
				w.Want.Action = otherwise
			}
			out = append(out, w)
		}
		if !port.NodeAnswers {
			otherwise := Reject
			if port.Dropped() {
				otherwise = Drop
			}
			add(port.ClusterIP, port.Port, port.Inside(), otherwise)
		}
		// The node itself and its pods reach every endpoint, whatever externalTrafficPolicy says.
		for _, ip := range slices.Concat(port.External, port.Balanced) {
			add(ip, port.Port, port.Cluster, Reject)
		}
		if port.NodePort > 0 {
			add(netip.IPv4Unspecified(), port.NodePort, port.Cluster, Reject)
		}
	}
	return out
}

// follow walks through the chains as a new connection would. Sources are those of the cluster: rules for others do not
// count, and loadBalancerSourceRanges are passed.
func (p *Proxy) follow(ctx context.Context, protocol string, to netip.AddrPort) (Verdict, error) {
	w := walk{
		list:  func(table, chain string) (string, error) { return p.cfg.Applier.List(ctx, table, chain) },
		proto: protocol, to: to, endpoints: map[netip.AddrPort]bool{}, seen: map[string]bool{},
	}
	if err := w.chain(tableNat, "PREROUTING"); err != nil {
		return Verdict{}, err
	}
	if len(w.endpoints) > 0 {
		eps := slices.SortedFunc(maps.Keys(w.endpoints), netip.AddrPort.Compare)
		return Verdict{Action: ToEndpoints, Endpoints: eps}, nil
	}
	missing := w.missing()
	w.refused = Nothing
	if err := w.chain(tableFilter, "FORWARD"); err != nil {
		return Verdict{}, err
	}
	if w.refused == Nothing && to.Addr().IsUnspecified() { // what the node itself would answer
		if err := w.chain(tableFilter, "INPUT"); err != nil {
			return Verdict{}, err
		}
	}
	return Verdict{Action: w.refused, Missing: missing}, nil
}

// walk through the chains for one address.
type walk struct {
	list      func(table, chain string) (string, error)
	proto     string
	to        netip.AddrPort
	endpoints map[netip.AddrPort]bool
	seen      map[string]bool
	empty     string // a chain of ours that holds nothing
	refused   string
}

// missing says what is not there that should be.
func (w *walk) missing() string {
	switch {
	case !w.seen[tableNat+" "+chainServices]:
		return "PREROUTING does not lead to " + chainServices
	case w.empty != "":
		return "chain " + w.empty + " is empty"
	}
	return ""
}

func (w *walk) chain(table, chain string) error {
	if w.seen[table+" "+chain] {
		return nil
	}
	w.seen[table+" "+chain] = true
	text, err := w.list(table, chain)
	if err != nil {
		return err
	}
	if text == "" && strings.HasPrefix(chain, Prefix) && w.empty == "" && len(w.endpoints) == 0 {
		switch chain {
		case chainHostPorts, chainExternal, chainRefuse: // often empty
		default:
			w.empty = chain
		}
	}
	for line := range strings.Lines(text) {
		r := parseRule(line)
		if !r.matches(w.proto, w.to) {
			continue
		}
		switch {
		case strings.HasPrefix(r.target, Prefix):
			if err := w.chain(table, r.target); err != nil {
				return err
			}
		case r.target == "DNAT" && r.dnat.IsValid() && chain != chainHostPorts:
			w.endpoints[r.dnat] = true
		case r.target == "REJECT" && w.refused == Nothing:
			w.refused = Reject
		case r.target == "DROP" && w.refused == Nothing && r.port != 0:
			w.refused = Drop
		case r.target == "RETURN" && table == tableNat:
			return nil
		}
	}
	return nil
}

// rule is what matters of a line of iptables -S.
type rule struct {
	dst         netip.Prefix
	notDst      bool
	proto       string
	port, last  int // 0: any
	target      string
	dnat        netip.AddrPort
	local       bool // only addresses of the node itself
	fromOutside bool // only sources that are not the cluster's
}

func parseRule(line string) (r rule) {
	words := fields(line)
	not := false
	for i := 0; i < len(words); i++ {
		next := func() string {
			if i+1 < len(words) {
				i++
				return words[i]
			}
			return ""
		}
		switch words[i] {
		case "!":
			not = true
			continue
		case "-d":
			r.dst, _ = netip.ParsePrefix(next())
			r.notDst = not
		case "-p":
			r.proto = next()
		case "--dport", "--dports":
			if n, _ := fmt.Sscanf(next(), "%d:%d", &r.port, &r.last); n < 2 {
				r.last = r.port
			}
		case "--dst-type":
			r.local = next() == "LOCAL" && !not
		case "--ctstate":
			state := next()
			r.fromOutside = r.fromOutside || !not && !strings.Contains(state, "NEW")
		case "--to-destination":
			r.dnat, _ = netip.ParseAddrPort(next())
		case "--comment", "--name", "--to-ports", "--mark":
			next()
		case "-j":
			r.target = next()
		}
		not = false
	}
	return r
}

// fields splits a line at blanks, keeping what is quoted together.
func fields(line string) []string {
	quoted := false
	return strings.FieldsFunc(line, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return !quoted && (c == ' ' || c == '\n')
	})
}

func (r rule) matches(proto string, to netip.AddrPort) bool {
	nodePort := to.Addr().IsUnspecified()
	switch {
	case r.fromOutside, r.proto != "" && r.proto != proto:
		return false
	case r.port != 0 && (int(to.Port()) < r.port || int(to.Port()) > r.last):
		return false
	case r.local && !nodePort, nodePort && r.dst.IsValid() && !r.notDst:
		return false
	case r.dst.IsValid() && !nodePort && r.dst.Contains(to.Addr()) == r.notDst:
		return false
	}
	return true
}
