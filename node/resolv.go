package node

import (
	"bufio"
	"bytes"
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// resolvCheck is how often the machine's name servers are read again: at boot the file may be written after the agent has
// started, and DHCP changes it.
const resolvCheck = 10 * time.Second

// followUpstreams tells set of the name servers in the file whenever they change, until ctx ends.
func (a *Agent) followUpstreams(ctx context.Context, c *cluster, set func(upstreams []string)) error {
	t := time.NewTicker(resolvCheck)
	defer t.Stop()
	var known []string
	for first := true; ; first = false {
		now, err := a.upstreams(c)
		if first && err != nil {
			a.log.Warn("names outside the cluster do not resolve until the file is there", "err", err)
		}
		if len(now) > 0 && !slices.Equal(now, known) { // none: it is being written
			set(now)
			known = now
			a.log.Info("name servers for names outside the cluster", "upstreams", now)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// upstreams are the name servers of the machine itself, for names outside the cluster. Ours is left out, in case the
// machine resolves cluster names too.
func (a *Agent) upstreams(c *cluster) ([]string, error) {
	data, err := os.ReadFile(a.cfg.ResolvConf)
	if err != nil {
		return nil, err
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
	return out, nil
}
