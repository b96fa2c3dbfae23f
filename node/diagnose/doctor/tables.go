package doctor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Tables are the chains of iptables' table filter, as iptables-save prints them.
type Tables struct {
	// program that lists and changes them: a kernel may have those of iptables-legacy beside those of nf_tables, and obeys both.
	program string
	policy  map[string]string
	rules   map[string][]string
}

// ReadTables reads the table filter, with root also the one of the other back end of iptables, if it has any rules.
func ReadTables(ctx context.Context, s System) ([]Tables, error) {
	text, err := s.Run(ctx, "iptables-save", "-t", "filter")
	if err != nil {
		return nil, err
	}
	out := []Tables{ParseTables("iptables", text)}
	version, err := s.Run(ctx, "iptables", "--version")
	if err != nil {
		return out, nil
	}
	other := "iptables-nft"
	if strings.Contains(version, "nf_tables") {
		// Asked for a table that is not there, iptables-legacy-save would make it.
		if there, err := s.ReadFile("/proc/net/ip_tables_names"); err != nil || !slices.Contains(strings.Fields(string(there)), "filter") {
			return out, nil
		}
		other = "iptables-legacy"
	}
	if text, err := s.Run(ctx, other+"-save", "-t", "filter"); err == nil {
		out = append(out, ParseTables(other, text))
	}
	return out, nil
}

// ParseTables reads what PROGRAM-save prints.
func ParseTables(program, text string) Tables {
	t := Tables{program: program, policy: map[string]string{}, rules: map[string][]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, ":") && len(f) > 1:
			t.policy[f[0][1:]] = f[1]
		case strings.HasPrefix(line, "-A ") && len(f) > 1:
			t.rules[f[1]] = append(t.rules[f[1]], line)
		}
	}
	return t
}

// Packet that begins a connection. What is not given matches no rule that asks for it.
type Packet struct {
	Protocol   string
	Port       int
	From, To   netip.Addr
	FromDevice string
}

// maxDepth of chains that call each other; the kernel refuses loops.
const maxDepth = 32

// Dropped says which rule, of others, drops or refuses a packet that enters a built-in chain; empty when it passes. Matches
// that are not understood count as not matching, so what is told is certain, and not everything is told.
func (t Tables) Dropped(chain string, p Packet) string {
	rule, _ := t.walk(chain, p, 0)
	return rule
}

func (t Tables) walk(chain string, p Packet, depth int) (rule string, done bool) {
	for _, line := range t.rules[chain] {
		r := read(line)
		if !r.matches(p) {
			continue
		}
		switch {
		case r.target == "ACCEPT":
			return "", true
		case r.target == "DROP" || r.target == "REJECT":
			return t.program + ": " + line, true
		case r.target == "RETURN":
			return "", false
		case strings.HasPrefix(r.target, "WP-FORWARD"):
			return "", true // ours lets pods pass, and comes first where nobody is in front
		case strings.HasPrefix(r.target, "WP-"):
		case depth < maxDepth && t.rules[r.target] != nil:
			if rule, done := t.walk(r.target, p, depth+1); done {
				return rule, true
			}
			if r.goes {
				return "", false
			}
		}
	}
	if t.policy[chain] == "DROP" {
		return fmt.Sprintf("%s: -P %s DROP, and no rule accepts it", t.program, chain), true
	}
	return "", false
}

// Mentions lists the rules of others that drop or refuse and name one of the addresses as source or destination, and those of FORWARD
// and OUTPUT that name none. What comes in FORWARD behind our chain is of no consequence to pods. Which packets a rule drops says Drops.
func (t Tables) Mentions(addrs []netip.Addr) []string {
	var out []string
	for chain, lines := range t.rules {
		if strings.HasPrefix(chain, "WP-") || strings.HasPrefix(chain, "DOCKER") && chain != dockerUser {
			continue
		}
		for _, line := range lines {
			r := read(line)
			if r.target == "WP-FORWARD" {
				break
			}
			if r.target != "DROP" && r.target != "REJECT" {
				continue
			}
			if slices.ContainsFunc(addrs, r.names) || (chain == "FORWARD" || chain == "OUTPUT") && r.from == nil && r.to == nil {
				out = append(out, t.program+" "+line)
			}
		}
	}
	slices.Sort(out)
	return out
}

// dockerUser is the chain that Docker leaves to people.
const dockerUser = "DOCKER-USER"

// Drops tells whether a rule, as Mentions has it, drops a packet that begins a connection, or those that come back. By which device
// it comes is not known, and so not asked.
func Drops(rule string, p Packet) bool {
	at := strings.Index(rule, "-A ")
	if at < 0 {
		return false
	}
	l := read(rule[at:])
	if l.target != "DROP" && l.target != "REJECT" {
		return false
	}
	l.device = nil
	if l.matches(p) {
		return true
	}
	if l.ports != nil || l.state != nil && slices.Contains(strings.Split(l.state.value, ","), "ESTABLISHED") == l.state.not {
		return false
	}
	l.state = nil
	return l.matches(Packet{Protocol: p.Protocol, From: p.To, To: p.From})
}

type match struct {
	not   bool
	value string
}

// line is a rule taken apart.
type line struct {
	from, to, device, protocol, ports, state *match
	target                                   string
	goes                                     bool // -g: does not come back
	strange                                  bool // has a match that is not understood
}

// harmless modules only say what follows.
var harmless = map[string]bool{"tcp": true, "udp": true, "comment": true, "conntrack": true, "state": true, "multiport": true}

func read(text string) (l line) {
	words := splitQuoted(text)
	not := false
	for i := 2; i < len(words); i++ { // after -A CHAIN
		take := func() *match {
			m := &match{not: not}
			if i+1 < len(words) {
				i++
				m.value = words[i]
			}
			return m
		}
		switch words[i] {
		case "!":
			not = true
			continue
		case "-s":
			l.from = take()
		case "-d":
			l.to = take()
		case "-i":
			l.device = take()
		case "-p":
			l.protocol = take()
		case "--dport", "--dports":
			l.ports = take()
		case "--ctstate", "--state":
			l.state = take()
		case "--comment", "--reject-with":
			take()
		case "-m":
			l.strange = !harmless[take().value] || l.strange
		case "-j", "-g":
			l.goes = words[i] == "-g"
			l.target = take().value
		case "-f", "-o", "--sport", "--sports", "--tcp-flags", "--syn":
			l.strange = l.strange || words[i] != "--syn"
		}
		not = false
	}
	return l
}

func (l line) matches(p Packet) bool {
	if l.strange {
		return false
	}
	if l.from != nil && inRange(l.from.value, p.From) == l.from.not || l.to != nil && inRange(l.to.value, p.To) == l.to.not {
		return false
	}
	if l.device != nil && (strings.TrimSuffix(l.device.value, "+") == p.FromDevice) == l.device.not {
		return false
	}
	if l.protocol != nil && (l.protocol.value == p.Protocol || l.protocol.value == "all") == l.protocol.not {
		return false
	}
	if l.ports != nil && hasPort(l.ports.value, p.Port) == l.ports.not {
		return false
	}
	return l.state == nil || slices.Contains(strings.Split(l.state.value, ","), "NEW") != l.state.not
}

func (l line) names(a netip.Addr) bool {
	for _, m := range []*match{l.from, l.to} {
		if m != nil && !m.not && inRange(m.value, a) {
			return true
		}
	}
	return false
}

func inRange(prefix string, a netip.Addr) bool {
	if !strings.Contains(prefix, "/") {
		prefix += "/32"
	}
	p, err := netip.ParsePrefix(prefix)
	return err == nil && a.IsValid() && p.Contains(a)
}

// hasPort reads 80, 80:90 and 22,80:90,443.
func hasPort(list string, n int) bool {
	for part := range strings.SplitSeq(list, ",") {
		first, last := 0, 0
		if c, _ := fmt.Sscanf(part, "%d:%d", &first, &last); c == 1 {
			last = first
		}
		if n >= first && n <= last && first > 0 {
			return true
		}
	}
	return false
}

func splitQuoted(text string) []string {
	quoted := false
	return strings.FieldsFunc(text, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return !quoted && c == ' '
	})
}
