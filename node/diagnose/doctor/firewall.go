package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// firewall finds rules of others that keep out what nodes must hear from each other. It asks each kind of firewall in its own
// words; what is allowed is not tried here (see reach, mtu).
func firewall(ctx context.Context, s System, p *Place) []Finding {
	var out []Finding
	running := firewalldRuns(ctx, s)
	ufw := ufwRuns(s)
	if running {
		out = append(out, firewalld(ctx, s, p)...)
	}
	out = append(out, byTables(ctx, s, p, ufw)...)
	out = append(out, byNFT(ctx, s, p)...)
	if len(out) == 0 {
		switch {
		case running:
			out = append(out, good("firewalld lets the cluster's ports through"))
		case ufw:
			out = append(out, good("ufw lets the cluster's ports through"))
		default:
			out = append(out, good("no firewall here is in the way"))
		}
	}
	return out
}

func firewalldRuns(ctx context.Context, s System) bool {
	state, err := s.Run(ctx, "firewall-cmd", "--state")
	return err == nil && strings.TrimSpace(state) == "running"
}

func ufwRuns(s System) bool {
	data, err := s.ReadFile("/etc/ufw/ufw.conf")
	if err != nil {
		return false
	}
	for sc := bufio.NewScanner(strings.NewReader(string(data))); sc.Scan(); {
		if strings.EqualFold(strings.ReplaceAll(sc.Text(), " ", ""), "ENABLED=yes") {
			return true
		}
	}
	return false
}

// firewalld asks whether the ports are open in the zone of this machine's link, and whether pods are trusted.
func firewalld(ctx context.Context, s System, p *Place) []Finding {
	zone := "" // the default one
	if dev := deviceOf(ctx, s, p.NodeIP); dev != "" {
		if z, err := s.Run(ctx, "firewall-cmd", "--get-zone-of-interface="+dev); err == nil {
			zone = strings.TrimSpace(z)
		}
	}
	in := func(args ...string) []string {
		if zone == "" {
			return args
		}
		return append([]string{"--zone=" + zone}, args...)
	}
	var closed, words []string
	if zone != "trusted" {
		served := ""
		for _, n := range p.needed() {
			if _, err := s.Run(ctx, "firewall-cmd", in("--query-port="+n.String())...); err != nil {
				if served == "" {
					served = firewalldServices(ctx, s, in)
				}
				if served == everything || strings.Contains(served, " "+n.String()+" ") {
					continue
				}
				closed = append(closed, "--add-port="+n.String())
				words = append(words, n.String())
			}
		}
	}
	var out []Finding
	if len(closed) > 0 {
		fix := "firewall-cmd --permanent " + strings.Join(in(closed...), " ") + " && firewall-cmd --reload"
		out = append(out, bad(fix, "firewalld does not let %s through", strings.Join(words, ", ")))
	}
	if !p.Agent {
		return out
	}
	for _, r := range []netip.Prefix{p.Pods} {
		if !r.IsValid() {
			continue
		}
		if z, err := s.Run(ctx, "firewall-cmd", "--get-zone-of-source="+r.String()); err != nil || strings.TrimSpace(z) != "trusted" {
			out = append(out, bad(fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s && firewall-cmd --reload", r), "firewalld does not forward packets of pods (%s)", r))
		}
	}
	return out
}

// everything is what a zone lets through whose target is ACCEPT.
const everything = "everything"

// firewalldServices are the ports that a zone's services open, between blanks: queries for ports do not count them.
func firewalldServices(ctx context.Context, s System, in func(...string) []string) string {
	all, err := s.Run(ctx, "firewall-cmd", in("--list-all")...)
	if err != nil {
		return " "
	}
	out := " "
	for line := range strings.Lines(all) {
		name, values, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "target" && strings.TrimSpace(values) == "ACCEPT":
			return everything
		case name == "services":
			for _, service := range strings.Fields(values) {
				info, _ := s.Run(ctx, "firewall-cmd", "--info-service="+service) // what cannot be told opens nothing
				_, ports, _ := strings.Cut(info, "ports:")
				ports, _, _ = strings.Cut(ports, "\n")
				out += strings.TrimSpace(ports) + " "
			}
		}
	}
	return out
}

// deviceOf is the link that holds an address.
func deviceOf(ctx context.Context, s System, ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	text, err := s.Run(ctx, "ip", "-4", "-o", "addr", "show", "to", ip.String())
	if f := strings.Fields(text); err == nil && len(f) > 1 {
		return f[1]
	}
	return ""
}

// byTables follows iptables' rules, which are also those of ufw and of iptables-services.
func byTables(ctx context.Context, s System, p *Place, ufw bool) []Finding {
	tables, err := ReadTables(ctx, s)
	if err != nil {
		if errors.Is(err, ErrNoProgram) && p.Agent {
			return []Finding{bad("apt-get install iptables, or dnf install iptables", "iptables is not installed, and an agent needs it")}
		}
		return []Finding{unknown("iptables' rules: %v", err)}
	}
	var out []Finding
	for _, t := range tables {
		out = append(out, t.inTheWay(p, ufw)...)
	}
	return out
}

func (t Tables) inTheWay(p *Place, ufw bool) []Finding {
	// Somebody who is not named in any rule, and each peer, who may be.
	sources := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})}
	if len(p.Peers) > 0 {
		sources = sources[:0]
	}
	for _, peer := range p.Peers {
		sources = append(sources, peer.Address)
	}
	var out []Finding
	told := map[string]bool{}
	for _, n := range p.needed() {
		for _, from := range sources {
			rule := t.Dropped("INPUT", Packet{Protocol: n.protocol, Port: n.number, From: from, To: p.NodeIP})
			if rule == "" || told[n.String()] {
				continue
			}
			told[n.String()] = true
			fix := fmt.Sprintf("%s -I INPUT -p %s --dport %d -j ACCEPT, and the same where the rules are kept", t.program, n.protocol, n.number)
			if ufw && t.program == "iptables" {
				fix = "ufw allow " + n.String()
			}
			out = append(out, bad(fix, "%s (%s) is blocked: %s", n, n.what, rule))
		}
	}
	if p.Running && p.Pods.IsValid() {
		pod := p.Pods.Addr().Next().Next()
		if rule := t.Dropped("FORWARD", Packet{Protocol: "tcp", Port: 80, From: pod, To: pod.Next()}); rule != "" {
			fix := "remove the rule, or put it behind ours: rules for containers belong into the chain DOCKER-USER"
			if t.program != "iptables" {
				fix = fmt.Sprintf("the kernel obeys these rules beside those of iptables; let pods through (%s -I FORWARD -s %s -j ACCEPT; %[1]s -I FORWARD -d %[2]s -j ACCEPT), or do without them", t.program, p.Pods)
			}
			out = append(out, bad(fix, "packets of pods are dropped: %s", rule))
		}
	}
	return out
}

// nftChain is a chain that hooks into the kernel's way of packets.
type nftChain struct{ table, name, hook, policy, body string }

var nftHook = regexp.MustCompile(`type filter hook (\w+) priority [^;]+;(?: policy (\w+);)?`)

// nftChains finds the filter chains of others in what `nft list ruleset` prints.
func nftChains(text string) []nftChain {
	var out []nftChain
	table, skip, warned := "", false, false
	theirs := false // a table of the name that iptables' has; people give it to theirs, too
	var chain *nftChain
	for l := range strings.Lines(text) {
		trimmed := strings.TrimSpace(l)
		switch f := strings.Fields(trimmed); {
		case strings.Contains(trimmed, "managed by iptables-nft"):
			warned = true // said before the table: iptables-save tells of it
		case len(f) >= 3 && f[0] == "table":
			table = strings.Join(f[1:3], " ")
			theirs = f[1] == "ip" && (f[2] == "filter" || f[2] == "nat")
			skip = warned || f[1] == "ip6" || f[1] == "bridge" || f[1] == "arp" || f[2] == "firewalld" ||
				strings.HasPrefix(f[2], "docker") || strings.HasPrefix(f[2], "wp") || strings.HasPrefix(f[2], "whalepod")
			warned, chain = false, nil
		case len(f) >= 2 && f[0] == "chain" && theirs && strings.ToUpper(f[1]) == f[1]:
			chain = nil // iptables-save tells of it
		case len(f) >= 2 && f[0] == "chain" && !skip:
			out = append(out, nftChain{table: table, name: f[1]})
			chain = &out[len(out)-1]
		case chain == nil || skip:
		case nftHook.MatchString(trimmed):
			m := nftHook.FindStringSubmatch(trimmed)
			chain.hook, chain.policy = m[1], m[2]
		default:
			chain.body += trimmed + "\n"
		}
	}
	return out
}

// byNFT reads nftables' own rules. Their language says more than can be followed here, so this is a suspicion only.
func byNFT(ctx context.Context, s System, p *Place) []Finding {
	text, err := s.Run(ctx, "nft", "list", "ruleset")
	if err != nil {
		return nil // nft is not everywhere, and not needed
	}
	var out []Finding
	for _, c := range nftChains(text) {
		ends := c.policy == "drop" || strings.HasSuffix(c.body, "\ndrop\n}\n") || regexp.MustCompile(`(?m)^(counter [^\n]*)?(drop|reject[^\n]*)$`).MatchString(c.body)
		if !ends {
			continue
		}
		switch c.hook {
		case "input":
			var closed []string
			for _, n := range p.needed() {
				if !mentionsPort(c.body, n) {
					closed = append(closed, n.String())
				}
			}
			if len(closed) > 0 {
				out = append(out, warn(acceptWords(c, p)+"; and the same in /etc/nftables.conf", "nftables, table %s, chain %s, seems to drop %s", c.table, c.name, strings.Join(closed, ", ")))
			}
		case "forward":
			if p.Agent && p.Pods.IsValid() && !strings.Contains(c.body, p.Pods.String()) && !strings.Contains(c.body, "wp0") {
				out = append(out, warn(fmt.Sprintf("nft insert rule %s %s ip saddr %s accept; nft insert rule %[1]s %[2]s ip daddr %[3]s accept; and the same in /etc/nftables.conf", c.table, c.name, p.Pods), "nftables, table %s, chain %s, seems to drop packets of pods", c.table, c.name))
			}
		}
	}
	return out
}

// acceptWords are commands that every version of nft takes.
func acceptWords(c nftChain, p *Place) string {
	by := map[string][]string{}
	for _, n := range p.needed() {
		by[n.protocol] = append(by[n.protocol], strconv.Itoa(n.number))
	}
	var out []string
	for _, protocol := range slices.Sorted(maps.Keys(by)) {
		out = append(out, fmt.Sprintf("nft insert rule %s %s %s dport { %s } accept", c.table, c.name, protocol, strings.Join(by[protocol], ", ")))
	}
	return strings.Join(out, "; ")
}

var nftNumbers = regexp.MustCompile(`\d+(-\d+)?`)

// mentionsPort: a line that accepts names the port, or a range with it.
func mentionsPort(body string, p port) bool {
	for l := range strings.Lines(body) {
		if !strings.Contains(l, "accept") || !strings.Contains(l, "dport") || strings.Contains(l, "udp dport") && p.protocol == "tcp" || strings.Contains(l, "tcp dport") && p.protocol == "udp" {
			continue
		}
		_, ports, _ := strings.Cut(l, "dport")
		for _, r := range nftNumbers.FindAllString(ports, -1) {
			first, last, ranged := strings.Cut(r, "-")
			a, _ := strconv.Atoi(first)
			b := a
			if ranged {
				b, _ = strconv.Atoi(last)
			}
			if p.number >= a && p.number <= b {
				return true
			}
		}
	}
	return false
}
