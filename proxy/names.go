package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
)

// Prefix begins the name of every chain of ours.
const Prefix = "WP-"

// The chains that always exist.
const (
	chainServices    = "WP-SERVICES"
	chainClusterIP   = "WP-CLUSTERIP"
	chainNodePorts   = "WP-NODEPORTS"
	chainHostPorts   = "WP-HOSTPORTS"
	chainExternal    = "WP-EXTERNAL"
	chainPostrouting = "WP-POSTROUTING"
	chainMasquerade  = "WP-MASQUERADE"
	chainHairpin     = "WP-HAIRPIN"
	chainInput       = "WP-INPUT"
	chainForward     = "WP-FORWARD"
	chainOutput      = "WP-OUTPUT"
	chainRefuse      = "WP-REFUSE"
)

// Prefixes of the chains that come and go with Services.
const (
	kindCluster  = "S" // endpoints anywhere
	kindLocal    = "L" // endpoints of this node
	kindOutside  = "E" // what arrives at a NodePort or an external address
	kindFirewall = "F" // loadBalancerSourceRanges
)

const (
	tableNat    = "nat"
	tableFilter = "filter"
	// masqMark is set on packets that must be masqueraded. It is two bits, 01, for no single one is left that nobody sets: kube-proxy
	// and kubelet have 0x4000 and 0x8000, Podman and CNI's portmap 0x2000, Tailscale 0xff0000, Calico 0xffff0000, Cilium and Istio
	// the lower twelve; NetBird marks with 0x1bd00, Docker's encrypted overlays with 0xd0c4e3, wg-quick with 0xca6c.
	masqMark = "0x1000/0x3000"
	// unmark clears both.
	unmark = "0x0/0x3000"
	// bucketPorts is how many ports share one chain below WP-NODEPORTS.
	bucketPorts = 64
)

// jump is a rule of ours in a chain that is not ours.
type jump struct{ table, chain, target string }

var jumps = []jump{
	{tableNat, "PREROUTING", chainServices},
	{tableNat, "OUTPUT", chainServices},
	{tableNat, "POSTROUTING", chainPostrouting},
	{tableFilter, "INPUT", chainInput},
	{tableFilter, "FORWARD", chainForward},
	{tableFilter, "OUTPUT", chainOutput},
}

func (j jump) rule() string {
	return fmt.Sprintf("%s -m comment --comment \"whalepod: services and pods\" -j %s", j.chain, j.target)
}

// hashed names things after what they serve; 16 letters keep "WP-S-" plus the name under iptables' limit of 28.
func hashed(kind, what string) string {
	sum := sha256.Sum256([]byte(what))
	return Prefix + kind + "-" + base32.StdEncoding.EncodeToString(sum[:10])
}

// clusterBuckets names the two levels that lead to a ClusterIP.
func clusterBuckets(ip netip.Addr) (net20, net24 netip.Prefix, chain20, chain24 string) {
	b := ip.As4()
	net20, net24 = netip.PrefixFrom(ip, 20).Masked(), netip.PrefixFrom(ip, 24).Masked()
	chain20 = fmt.Sprintf("%sV-%02X%02X%X", Prefix, b[0], b[1], b[2]>>4)
	chain24 = fmt.Sprintf("%sV-%02X%02X%02X", Prefix, b[0], b[1], b[2])
	return net20, net24, chain20, chain24
}

func externalBucket(ip netip.Addr) string {
	b := ip.As4()
	return fmt.Sprintf("%sX-%02X%02X%02X%02X", Prefix, b[0], b[1], b[2], b[3])
}

func portBucket(proto string, port int32) (chain string, first, last int32) {
	n := port / bucketPorts
	return fmt.Sprintf("%sN-%s-%d", Prefix, proto, n), n * bucketPorts, n*bucketPorts + bucketPorts - 1
}
