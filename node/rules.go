package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/iptables"
	"github.com/whalepod/whalepod/proxy/nft"
	"github.com/whalepod/whalepod/proxy/policy"
)

// What Config.ProxyMode may be.
const (
	ProxyAuto     = "auto"
	ProxyIptables = "iptables"
	ProxyNftables = "nftables"
)

// checkProxyMode refuses what is none.
func checkProxyMode(mode string) error {
	switch mode {
	case "", ProxyAuto, ProxyIptables, ProxyNftables:
		return nil
	}
	return fmt.Errorf("--proxy-mode %q: it may be %s, %s or %s", mode, ProxyAuto, ProxyIptables, ProxyNftables)
}

// newProxy sets up the rules of Services with the back end that the machine can carry.
func (a *Agent) newProxy(ctx context.Context, c *cluster, p *dataPlane) error {
	tables, err := iptables.New(ctx, iptables.Config{Prefix: proxy.Prefix})
	if err != nil {
		return err
	}
	native, refused := nft.New(nft.Config{PodCIDR: c.node, ClusterPodCIDR: c.pods, ServiceCIDR: c.service, LocalIPs: []netip.Addr{c.dns}})
	if refused == nil {
		refused = native.Try()
	}
	mode, why, err := chooseMode(a.cfg.ProxyMode, tables.Legacy(), refused)
	if err != nil {
		if native != nil {
			native.Close()
		}
		return err
	}
	a.log.Info("rules of services", "mode", mode, "why", why)
	cfg := proxy.Config{
		NodeName: a.cfg.Identity.Node, PodCIDR: c.node, ClusterPodCIDR: c.pods, ServiceCIDR: c.service,
		LocalIPs: []netip.Addr{c.dns}, RandomFully: tables.RandomFully(), Applier: tables, Former: mode == ProxyIptables, Logger: a.cfg.Logger,
		StaleUDP: func(list []proxy.UDPAddress) error {
			out := make([]network.UDPAddress, len(list))
			for i, a := range list {
				out[i] = network.UDPAddress(a)
			}
			return p.network.ClearUDP(out)
		},
		InForce: a.outbox.InForce,
		Announced: func(ip netip.Addr) bool {
			return slices.ContainsFunc(a.pools(), func(p netip.Prefix) bool { return p.Contains(ip) })
		},
		Withdrawn: func(nodes []string) error { return p.network.ClearDead(a.addressesOf(nodes)) },
	}
	if native != nil {
		cfg.Native = native
	}
	if p.proxy, err = proxy.New(cfg); err != nil {
		return err
	}
	p.native = native
	return nil
}

// chooseMode takes nf_tables where the kernel takes the rules, for a change there costs the same however many Services there
// are. On machines with the old iptables it does not mix the two.
func chooseMode(asked string, legacy bool, refused error) (mode, why string, err error) {
	if refused != nil {
		refused = fmt.Errorf("the kernel does not take rules of nf_tables: %w", refused)
	}
	switch {
	case asked == ProxyIptables:
		return ProxyIptables, "--proxy-mode", nil
	case asked == ProxyNftables:
		return ProxyNftables, "--proxy-mode", refused
	case refused != nil:
		return ProxyIptables, refused.Error(), nil
	case legacy:
		return ProxyIptables, "this machine's iptables is the legacy one", nil
	}
	return ProxyNftables, "the kernel takes them", nil
}

// tellZone tells the proxy in which zone this node is.
func (a *Agent) tellZone(p *dataPlane) {
	if n, ok := a.desired.Node(a.cfg.Identity.Node); ok {
		p.proxy.SetZone(n.Labels[corev1.LabelTopologyZone])
	}
}

// removeRules takes the rules of both back ends and those of policies away.
func removeRules(ctx context.Context, cfg UninstallConfig, c *cluster) error {
	tables, err := iptables.New(ctx, iptables.Config{Prefix: proxy.Prefix})
	if err != nil {
		return err
	}
	config := proxy.Config{
		NodeName: cfg.Identity.Node, PodCIDR: c.node, ClusterPodCIDR: c.pods, ServiceCIDR: c.service,
		LocalIPs: []netip.Addr{c.dns}, RandomFully: tables.RandomFully(), Applier: tables, Logger: cfg.Logger,
	}
	native, err := nft.New(nft.Config{PodCIDR: c.node, ClusterPodCIDR: c.pods, ServiceCIDR: c.service, LocalIPs: []netip.Addr{c.dns}})
	if err == nil { // otherwise the kernel cannot have any
		defer native.Close()
		config.Native = native
	}
	p, err := proxy.New(config)
	if err != nil {
		return err
	}
	policies, err := iptables.New(ctx, iptables.Config{Prefix: policy.Prefix, Names: []string{policy.Table}})
	if err != nil {
		return err
	}
	e := policy.New(policy.Config{Tables: policies, OpenSets: openSets, Logger: cfg.Logger})
	return errors.Join(p.Remove(ctx), e.Remove(ctx))
}
