package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// ipam hands out the addresses of the node's pod range, going round so that a freed one is the last to be used again:
// other nodes' connection tracking and clients' caches have time to forget it.
type ipam struct {
	prefix netip.Prefix
	file   string

	mu    sync.Mutex
	byUID map[string]netip.Addr
	owner map[netip.Addr]string
	last  netip.Addr
}

func newIPAM(prefix netip.Prefix, stateDir string) *ipam {
	p := &ipam{prefix: prefix, byUID: map[string]netip.Addr{}, owner: map[netip.Addr]string{}, last: prefix.Addr().Next()}
	if stateDir == "" {
		return p
	}
	// Like everything about this file, failing here costs only an early reuse after a restart.
	_ = os.MkdirAll(stateDir, 0o700)
	p.file = filepath.Join(stateDir, "last-pod-address")
	if b, err := os.ReadFile(p.file); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil && prefix.Contains(a) {
			p.last = a
		}
	}
	return p
}

// adopt takes over the addresses that pods' links carry.
func (p *ipam) adopt(links []PodLink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range links {
		if _, taken := p.owner[l.IP]; taken || !p.usable(l.IP) {
			continue
		}
		p.byUID[l.UID], p.owner[l.IP] = l.IP, l.UID
	}
}

// usable leaves out the network address (our end of a tunnel), the gateway and the broadcast address.
func (p *ipam) usable(a netip.Addr) bool {
	if !p.prefix.Contains(a) || a == p.prefix.Addr() || a == p.prefix.Addr().Next() {
		return false
	}
	return p.prefix.Contains(a.Next())
}

// get returns the pod's address, giving it one if it has none; want is used when it is free.
func (p *ipam) get(uid string, want netip.Addr) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.byUID[uid]; ok {
		return a, nil
	}
	if _, taken := p.owner[want]; want.IsValid() && !taken && p.usable(want) {
		p.byUID[uid], p.owner[want] = want, uid
		return want, nil
	}
	size := 1 << (32 - p.prefix.Bits())
	for a, i := p.last.Next(), 0; i < size; a, i = a.Next(), i+1 {
		if !p.prefix.Contains(a) {
			a = p.prefix.Addr()
		}
		if _, taken := p.owner[a]; taken || !p.usable(a) {
			continue
		}
		p.byUID[uid], p.owner[a] = a, uid
		p.remember(a)
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("all %d pod addresses of %s are in use on this node", len(p.owner), p.prefix)
}

// remember keeps the last address over a restart; losing it costs only an early reuse, so errors are ignored.
func (p *ipam) remember(a netip.Addr) {
	p.last = a
	if p.file == "" {
		return
	}
	if err := os.WriteFile(p.file+".new", []byte(a.String()+"\n"), 0o600); err == nil {
		_ = os.Rename(p.file+".new", p.file)
	}
}

func (p *ipam) release(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.byUID[uid]; ok {
		delete(p.byUID, uid)
		delete(p.owner, a)
	}
}
