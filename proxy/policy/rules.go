package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

// All rules are written exactly as iptables-save prints them, so that what is read back compares equal.

// Prefix begins the name of every chain of ours, SetPrefix that of every set.
const (
	Prefix    = "WP-"
	SetPrefix = "wp-"
)

const (
	// Table is where the rules are; see the package's comment.
	Table = "mangle"

	chainForward = "WP-POLICY"
	chainInput   = "WP-POLICY-NODE"

	// The sets of all pods that are isolated.
	setIngress, setEgress = "wp-ingress", "wp-egress"
	// isSelf matches packets whose source is their destination, a pod that comes to itself by a Service: a program for the kernel's
	// filter machine, six instructions (load the source, keep it, load the destination, equal?, yes, no). Sets of pairs could say it,
	// too, but fewer kernels have them.
	isSelf = `-m bpf --bytecode "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0"`

	// commentMost is what xt_comment holds.
	commentMost = 255
)

// SetType is what a set has, as the kernel calls it.
type SetType string

// The types in use.
const (
	Addresses SetType = "hash:ip"
	Ports     SetType = "hash:ip,port"
	Networks  SetType = "hash:net"
)

// Entry of a set: an address or network, or an address with a port.
type Entry struct {
	Net      netip.Prefix
	Protocol uint8 // of Ports
	Port     uint16
}

func addrEntry(a netip.Addr) Entry { return Entry{Net: netip.PrefixFrom(a, a.BitLen())} }

// direction that a pod is isolated in.
type direction int

const (
	ingress direction = iota
	egress
	directions
)

// dir is how the rules of a direction are written.
var dir = [directions]struct {
	chain, isolated      string // the chain of all groups, the set of all pods
	groupChain, groupSet string // prefixes
	pod, peer            string // which end is which
	prefixFlag           string // of the peer
	podFlag              string
}{
	ingress: {"WP-INGRESS", setIngress, "WP-I-", "wp-i-", "dst", "src", "-s", "-d"},
	egress:  {"WP-EGRESS", setEgress, "WP-E-", "wp-e-", "src", "dst", "-d", "-s"},
}

// match is one alternative of a rule: who, at which port.
type match struct {
	prefix netip.Prefix // invalid: any
	sets   []setMatch
	proto  string // empty: any
	lo, hi uint16 // 0: any
	// named is a port of the selected pod, which every pod may have elsewhere.
	named string
}

type setMatch struct{ name, flags string }

// compiled is one direction of a policy.
type compiled struct {
	comment string
	// version is the same for the same matches.
	version string
	matches []match
	// sets that the matches name.
	peers    map[string]netpolicy.Set // by ID
	networks map[string][]netip.Prefix
}

func hashed(what string) string {
	sum := sha256.Sum256([]byte(what))
	return base32.StdEncoding.EncodeToString(sum[:10])
}

func peerSet(id string) string { return SetPrefix + "p-" + id }

func networkSet(nets []netip.Prefix) string {
	return SetPrefix + "b-" + strings.ToLower(hashed(fmt.Sprint(nets)))
}

// compile one direction; nil when the policy does not isolate in it.
func compile(p *networkingv1.NetworkPolicy, d direction) *compiled {
	in, out := netpolicy.Types(p)
	if d == ingress && !in || d == egress && !out {
		return nil
	}
	c := &compiled{comment: comment(p.Namespace + "/" + p.Name), peers: map[string]netpolicy.Set{}, networks: map[string][]netip.Prefix{}}
	if d == ingress {
		for i := range p.Spec.Ingress {
			c.rule(d, p.Namespace, p.Spec.Ingress[i].From, p.Spec.Ingress[i].Ports)
		}
	} else {
		for i := range p.Spec.Egress {
			c.rule(d, p.Namespace, p.Spec.Egress[i].To, p.Spec.Egress[i].Ports)
		}
	}
	c.version = c.hash()
	return c
}

func (c *compiled) hash() string {
	var b strings.Builder
	for _, m := range c.matches {
		fmt.Fprintf(&b, "%s %v %s %d-%d %s\n", m.prefix, m.sets, m.proto, m.lo, m.hi, m.named)
	}
	return hashed(b.String())
}

// comment is what iptables-save prints for it; only of letters that it does not escape.
func comment(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("\"'\\", r) {
			return '?'
		}
		return r
	}, s)
	return `-m comment --comment "` + s[:min(len(s), commentMost)] + `"`
}

// who is one alternative of a rule's peers.
type who struct {
	prefix netip.Prefix
	set    string
	pods   *netpolicy.Set // of set, if it is one of pods
}

func (c *compiled) rule(d direction, namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	all := c.who(namespace, peers)
	if len(ports) == 0 {
		for _, w := range all {
			c.add(c.peer(d, w))
		}
		return
	}
	for i := range ports {
		port := &ports[i]
		proto := strings.ToLower(string(netpolicy.ProtocolOf(port)))
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			continue
		}
		for _, w := range all {
			m := c.peer(d, w)
			m.proto = proto
			switch {
			case port.Port == nil:
			case netpolicy.Named(port) && d == ingress:
				m.named = port.Port.StrVal
			case netpolicy.Named(port):
				m = c.namedEgress(w, port)
				m.proto = proto
			default:
				m.lo, m.hi = uint16(port.Port.IntVal), uint16(port.Port.IntVal)
				if port.EndPort != nil {
					m.hi = uint16(*port.EndPort)
				}
				if port.Port.IntVal < 1 || port.Port.IntVal > 65535 || m.hi < m.lo || port.EndPort != nil && *port.EndPort > 65535 {
					continue // the API admits no such port
				}
			}
			c.add(m)
		}
	}
}

func (c *compiled) add(m match) { c.matches = append(c.matches, m) }

// who lists the alternatives; one that matches everybody stands for all.
func (c *compiled) who(namespace string, peers []networkingv1.NetworkPolicyPeer) []who {
	if len(peers) == 0 {
		return []who{{}}
	}
	var out []who
	var blocks []*networkingv1.IPBlock
	for i := range peers {
		if s, ok := netpolicy.PeerSet(namespace, &peers[i]); ok {
			out = append(out, who{set: peerSet(s.ID()), pods: &s})
		} else if b := peers[i].IPBlock; b != nil {
			blocks = append(blocks, b)
		}
	}
	switch nets := addresses(blocks); {
	case len(nets) == 0:
	case len(nets) == 1 && nets[0].Bits() == 0:
		return []who{{}}
	case len(nets) == 1:
		out = append(out, who{prefix: nets[0]})
	default:
		name := networkSet(nets)
		c.networks[name] = nets
		out = append(out, who{set: name})
	}
	return out
}

func (c *compiled) peer(d direction, w who) match {
	m := match{prefix: w.prefix}
	if w.set != "" {
		m.sets = []setMatch{{w.set, dir[d].peer}}
	}
	if w.pods != nil {
		c.peers[w.pods.ID()] = *w.pods
	}
	return m
}

// namedEgress is a port of the peers that they may have at different numbers: a set of addresses with ports.
func (c *compiled) namedEgress(w who, port *networkingv1.NetworkPolicyPort) match {
	m, pods := match{prefix: w.prefix}, netpolicy.Everywhere
	if w.pods != nil {
		pods = *w.pods
	} else if w.set != "" {
		m.sets = append(m.sets, setMatch{w.set, dir[egress].peer})
	}
	s := pods.WithPort(port)
	c.peers[s.ID()] = s
	m.sets = append(m.sets, setMatch{peerSet(s.ID()), "dst,dst"})
	return m
}

// lines of a group's chain: what the policy allows. ports are the selected pods' own, by protocol and name.
func (c *compiled) lines(b *strings.Builder, chain string, d direction, ports func(name string, protocol corev1.Protocol) []netpolicy.Port) {
	for _, m := range c.matches {
		if m.named == "" {
			m.line(b, chain, c.comment, d)
			continue
		}
		for _, p := range ports(m.named, corev1.Protocol(strings.ToUpper(m.proto))) {
			m.lo, m.hi = p.Number, p.Number
			m.line(b, chain, c.comment, d)
		}
	}
}

func (m match) line(b *strings.Builder, chain, comment string, d direction) {
	b.WriteString("-A " + chain)
	if m.prefix.IsValid() {
		fmt.Fprintf(b, " %s %s", dir[d].prefixFlag, m.prefix)
	}
	if m.proto != "" {
		b.WriteString(" -p " + m.proto)
	}
	b.WriteString(" " + comment)
	for _, s := range m.sets {
		fmt.Fprintf(b, " -m set --match-set %s %s", s.name, s.flags)
	}
	if m.lo != 0 {
		if m.proto == "sctp" {
			b.WriteString(" -m multiport --dports ") // xt_sctp is not in every kernel
		} else {
			fmt.Fprintf(b, " -m %s --dport ", m.proto)
		}
		fmt.Fprintf(b, "%d", m.lo)
		if m.hi != m.lo {
			fmt.Fprintf(b, ":%d", m.hi)
		}
	}
	b.WriteString(" -j RETURN\n")
}
