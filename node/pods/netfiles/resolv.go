package netfiles

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Limits of a resolv.conf as Kubernetes' validation has them (glibc reads three nameservers).
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
	// maxSearch is a domain's length; longer ones have made glibc 2.28 abort.
	maxSearch = validation.DNS1123SubdomainMaxLength
)

// Resolv is a resolv.conf taken apart.
type Resolv struct {
	Nameservers, Searches, Options []string
	// Omitted says, in the kubelet's words, what there was no room for.
	Omitted []string
}

// Cluster says how names are resolved in this cluster.
type Cluster struct {
	// Domain such as cluster.local, DNS its server's address.
	Domain, DNS string
}

// ParseResolv reads a resolv.conf; what it does not understand it leaves out.
func ParseResolv(data []byte) Resolv {
	var r Resolv
	for line := range bytes.Lines(WithoutServer(data)) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.Nameservers = append(r.Nameservers, fields[1])
		case "search", "domain": // the last one counts, says resolv.conf(5)
			r.Searches = nil
			for _, s := range fields[1:] {
				// systemd-resolved writes "search ." where there are no domains; musl, with one in the list, finds no name at all.
				if s = strings.TrimSuffix(s, "."); s != "" {
					r.Searches = append(r.Searches, s)
				}
			}
		case "options": // all lines count
			for _, o := range fields[1:] {
				r.Options = setOption(r.Options, o)
			}
		}
	}
	return r
}

// ForPod is the pod's resolv.conf by its dnsPolicy and dnsConfig. With ClusterFirst it names the cluster's server alone: a resolver
// that asks another one as well (musl asks all at once, glibc the next after a failure, or in turn with "rotate") believes its
// "no such name" for the cluster's names.
func ForPod(pod *corev1.Pod, node Resolv, c Cluster) Resolv {
	var r Resolv
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	if c.DNS == "" && policy != corev1.DNSNone {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		r = Resolv{Nameservers: slices.Clone(node.Nameservers), Searches: slices.Clone(node.Searches), Options: slices.Clone(node.Options)}
		if !pod.Spec.HostNetwork {
			r.Nameservers = reachable(r.Nameservers)
			if len(r.Nameservers) == 0 && c.DNS != "" { // the cluster's server, on the node itself, can
				r.Nameservers = []string{c.DNS}
			}
		}
	default: // ClusterFirst, ClusterFirstWithHostNet
		r.Nameservers = []string{c.DNS}
		r.Searches = append([]string{pod.Namespace + ".svc." + c.Domain, "svc." + c.Domain, c.Domain}, node.Searches...)
		r.Options = []string{"ndots:5"}
	}
	if d := pod.Spec.DNSConfig; d != nil {
		r.Nameservers = append(r.Nameservers, d.Nameservers...)
		r.Searches = append(r.Searches, d.Searches...)
		for _, o := range d.Options {
			word := o.Name
			if o.Value != nil && *o.Value != "" {
				word += ":" + *o.Value
			}
			r.Options = setOption(r.Options, word)
		}
	}
	r.Nameservers, r.Searches = unique(r.Nameservers), unique(r.Searches)
	r.limit()
	return r
}

// limit leaves out what resolvers do not take.
func (r *Resolv) limit() {
	if len(r.Nameservers) > maxNameservers {
		r.Nameservers = r.Nameservers[:maxNameservers]
		r.Omitted = append(r.Omitted, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(r.Nameservers, " "))
	}
	before := len(r.Searches)
	if r.Searches = limitSearches(r.Searches); len(r.Searches) < before {
		r.Omitted = append(r.Omitted, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(r.Searches, " "))
	}
}

// reachable are those that a pod can ask, which has a loopback of its own and no IPv6.
func reachable(servers []string) []string {
	return slices.DeleteFunc(slices.Clone(servers), func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err != nil || !a.Is4() || a.IsLoopback() || a.IsUnspecified()
	})
}

func unique(list []string) []string {
	seen := map[string]bool{}
	out := make([]string, 0, len(list))
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func limitSearches(list []string) []string {
	list = slices.DeleteFunc(slices.Clone(list[:min(len(list), maxSearches)]), func(s string) bool { return len(s) > maxSearch })
	chars := -1 // the first has no space before it
	for i, s := range list {
		if chars += 1 + len(s); chars > maxSearchChars {
			return list[:i]
		}
	}
	return list
}

// setOption lets an option replace one of the same name.
func setOption(list []string, option string) []string {
	name, _, _ := strings.Cut(option, ":")
	for i, have := range list {
		if was, _, _ := strings.Cut(have, ":"); was == name {
			list[i] = option
			return list
		}
	}
	return append(list, option)
}

// Bytes is the file's content.
func (r Resolv) Bytes() []byte {
	var b strings.Builder
	if len(r.Searches) > 0 {
		b.WriteString("search " + strings.Join(r.Searches, " ") + "\n")
	}
	for _, s := range r.Nameservers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(r.Options) > 0 {
		b.WriteString("options " + strings.Join(r.Options, " ") + "\n")
	}
	return []byte(b.String())
}
