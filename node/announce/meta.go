package announce

import (
	"encoding/hex"
	"net/netip"
	"strings"
)

// Link of a node by which it has neighbours.
type Link struct {
	// Name and Index are the kernel's; of other nodes' links they are not known.
	Name  string
	Index int
	MAC   MAC
	// Addrs are the node's own addresses on the link, each with its network.
	Addrs []netip.Prefix
}

// MAC is a hardware address.
type MAC [6]byte

func (m MAC) String() string {
	const digits = "0123456789abcdef"
	b := make([]byte, 0, 17)
	for i, x := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[x>>4], digits[x&15])
	}
	return string(b)
}

// metaWord begins what an agent that announces tells of itself by gossip; an agent that does not say it takes no part.
const metaWord = "arp"

// Meta says, in at most limit bytes, that this node can announce, and on which links, as in
//
//	arp 02420a0b0c0d=198.51.100.11/24,192.0.2.1/28 02420a0b0c0e=192.168.1.5/24
//
// Links for which there is no room are left out.
func Meta(links []Link, limit int) string {
	meta := metaWord
	for _, l := range links {
		addrs := make([]string, len(l.Addrs))
		for i, a := range l.Addrs {
			addrs[i] = a.String()
		}
		more := " " + hex.EncodeToString(l.MAC[:]) + "=" + strings.Join(addrs, ",")
		if len(meta)+len(more) <= limit {
			meta += more
		}
	}
	return meta
}

// ParseMeta reads what another node said by Meta; false when it does not announce. What cannot be read is left out.
func ParseMeta(meta string) ([]Link, bool) {
	words := strings.Fields(meta)
	if len(words) == 0 || words[0] != metaWord {
		return nil, false
	}
	var links []Link
	for _, w := range words[1:] {
		mac, addrs, _ := strings.Cut(w, "=")
		raw, err := hex.DecodeString(mac)
		if err != nil || len(raw) != len(MAC{}) {
			continue
		}
		l := Link{MAC: MAC(raw)}
		for s := range strings.SplitSeq(addrs, ",") {
			if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
				l.Addrs = append(l.Addrs, p)
			}
		}
		links = append(links, l)
	}
	return links, true
}
