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
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.Searches = append(r.Searches, s)
			}
		case "options":
			r.Options = fields[1:]
		}
	}
	return r
}

// ForPod is the pod's resolv.conf by its dnsPolicy and dnsConfig. With ClusterFirst the cluster's server comes first and
// the node's own servers after it, so that names outside the cluster resolve even while the node's DNS restarts; those
// on loopback are left out, for a pod has a loopback of its own.
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
		}
	default: // ClusterFirst, ClusterFirstWithHostNet
		r.Nameservers = append([]string{c.DNS}, reachable(node.Nameservers)...)
		r.Searches = append([]string{pod.Namespace + ".svc." + c.Domain, "svc." + c.Domain, c.Domain}, node.Searches...)
		r.Options = []string{"ndots:5"}
	}
	if d := pod.Spec.DNSConfig; d != nil {
		if len(d.Nameservers) > 0 { // what the pod asks for must not be pushed out by the node's
			if policy != corev1.DNSNone && policy != corev1.DNSDefault {
				r.Nameservers = r.Nameservers[:1]
			}
			r.Nameservers = append(r.Nameservers, d.Nameservers...)
		}
		r.Searches = append(r.Searches, d.Searches...)
		r.Options = mergeOptions(r.Options, d.Options)
	}
	r.Nameservers, r.Searches = unique(r.Nameservers), unique(r.Searches)
	r.limit(policy == corev1.DNSNone || policy == corev1.DNSDefault || pod.Spec.DNSConfig != nil && len(pod.Spec.DNSConfig.Nameservers) > 0)
	return r
}

// limit leaves out what resolvers do not take. Nobody asked for the node's servers behind the cluster's: those are no loss.
func (r *Resolv) limit(asked bool) {
	if len(r.Nameservers) > maxNameservers {
		r.Nameservers = r.Nameservers[:maxNameservers]
		if asked {
			r.Omitted = append(r.Omitted, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(r.Nameservers, " "))
		}
	}
	before := len(r.Searches)
	if r.Searches = limitSearches(r.Searches); len(r.Searches) < before {
		r.Omitted = append(r.Omitted, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(r.Searches, " "))
	}
}

func reachable(servers []string) []string {
	return slices.DeleteFunc(slices.Clone(servers), func(s string) bool {
		a, err := netip.ParseAddr(s)
		return err != nil || a.IsLoopback() || a.IsUnspecified()
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

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(base []string, more []corev1.PodDNSConfigOption) []string {
	out := slices.Clone(base)
	for _, o := range more {
		word := o.Name
		if o.Value != nil && *o.Value != "" {
			word += ":" + *o.Value
		}
		i := slices.IndexFunc(out, func(have string) bool {
			name, _, _ := strings.Cut(have, ":")
			return name == o.Name
		})
		if i >= 0 {
			out[i] = word
		} else {
			out = append(out, word)
		}
	}
	return out
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
