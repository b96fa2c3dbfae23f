package node

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
)

// upstreams are the name servers of the machine itself, for names outside the cluster. Ours is left out, in case the
// machine resolves cluster names too.
func (a *Agent) upstreams(c *cluster) []string {
	data, err := os.ReadFile(a.cfg.ResolvConf)
	if err != nil {
		a.log.Warn("names outside the cluster will not resolve", "err", err)
		return nil
	}
	var out []string
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(f[1]); err == nil && ip != c.dns {
			out = append(out, f[1])
		}
	}
	return out
}
