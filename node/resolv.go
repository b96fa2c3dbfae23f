package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/whalepod/whalepod/dns"
	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods/netfiles"
)

// resolvCheck is how often the machine's name servers are read again: at boot the file may be written after the agent has
// started, and DHCP changes it.
const resolvCheck = 10 * time.Second

// The ConfigMap that says whom to ask for names outside the cluster, with the name and the keys that kube-dns gave it.
const (
	dnsConfigNamespace, dnsConfigName = "kube-system", "kube-dns"
	upstreamNameservers               = "upstreamNameservers"
	stubDomains                       = "stubDomains"
)

// forwardingFeed tells set whom to ask for names outside the cluster, whenever that changes: the name servers of the machine's
// resolv.conf, or those that the ConfigMap kube-system/kube-dns has.
type forwardingFeed struct {
	*Agent
	set func(dns.Forwarding)
	own netip.Addr // our server, which the machine may ask too
	sub *desired.Subscription

	known    dns.Forwarding
	machine  []string
	revision string // of the ConfigMap that was read last
}

// newForwardingFeed tells set at once what is known already.
func (a *Agent) newForwardingFeed(c *cluster, set func(dns.Forwarding)) *forwardingFeed {
	f := &forwardingFeed{Agent: a, set: set, own: c.dns, sub: a.desired.Subscribe(desired.ConfigMaps)}
	if err := f.look(); err != nil {
		a.log.Warn("names outside the cluster do not resolve until the file is there", "err", err)
	}
	return f
}

func (f *forwardingFeed) run(ctx context.Context) error {
	defer f.sub.Close()
	t := time.NewTicker(resolvCheck)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-f.sub.C():
			f.sub.Take()
		}
		_ = f.look() // a file that is gone for a while takes nothing
	}
}

// look again; an error means that the machine's file cannot be read.
func (f *forwardingFeed) look() error {
	servers, unread := f.upstreams()
	if len(servers) > 0 { // none: it is being written
		f.machine = servers
	}
	cm, _ := f.desired.ConfigMap(dnsConfigNamespace, dnsConfigName)
	now, err := forwarding(f.machine, cm)
	if cm != nil && cm.ResourceVersion != f.revision {
		f.revision = cm.ResourceVersion
		if err != nil {
			f.log.Error("the ConfigMap kube-system/kube-dns is not what DNS understands; what is wrong in it is left out", "err", err)
		}
	}
	if !reflect.DeepEqual(now, f.known) {
		f.set(now)
		f.known = now
		f.log.Info("name servers for names outside the cluster", "upstreams", now.Upstreams, "stubDomains", now.Stubs)
	}
	return unread
}

// forwarding is what the ConfigMap says, over the machine's own name servers. cm may be nil. What is wrong in it is left out
// and told.
func forwarding(machine []string, cm *corev1.ConfigMap) (dns.Forwarding, error) {
	f := dns.Forwarding{Upstreams: machine}
	if cm == nil {
		return f, nil
	}
	var errs []error
	if text := cm.Data[upstreamNameservers]; text != "" {
		var servers []string
		err := json.Unmarshal([]byte(text), &servers)
		if err == nil {
			servers, err = nameServers(servers)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", upstreamNameservers, err))
		}
		if len(servers) > 0 {
			f.Upstreams = servers
		}
	}
	if text := cm.Data[stubDomains]; text != "" {
		var stubs map[string][]string
		if err := json.Unmarshal([]byte(text), &stubs); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", stubDomains, err))
		}
		for domain, servers := range stubs {
			bare := strings.ToLower(strings.Trim(domain, "."))
			if msgs := validation.IsDNS1123Subdomain(strings.ReplaceAll(bare, "_", "x")); len(msgs) > 0 {
				errs = append(errs, fmt.Errorf("%s: %q: %s", stubDomains, domain, strings.Join(msgs, "; ")))
				continue
			}
			servers, err := nameServers(servers)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %w", stubDomains, domain, err))
			}
			if f.Stubs == nil {
				f.Stubs = map[string][]string{}
			}
			f.Stubs[bare] = servers // without one, too: such names are nobody else's
		}
	}
	return f, errors.Join(errs...)
}

// nameServers are those in the list that are addresses, with or without a port.
func nameServers(list []string) (good []string, err error) {
	var errs []error
	for _, s := range list {
		_, notAddr := netip.ParseAddr(s)
		_, notPort := netip.ParseAddrPort(s)
		if notAddr != nil && notPort != nil {
			errs = append(errs, fmt.Errorf("%q is not an IP address, nor one with a port", s))
			continue
		}
		good = append(good, s)
	}
	return good, errors.Join(errs...)
}

// upstreams are the name servers of the machine itself, for names outside the cluster. Ours is left out, in case the
// machine resolves cluster names too.
func (f *forwardingFeed) upstreams() ([]string, error) {
	data, err := os.ReadFile(f.cfg.ResolvConf)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, s := range netfiles.ParseResolv(data).Nameservers {
		if ip, err := netip.ParseAddr(s); err == nil && ip != f.own {
			out = append(out, s)
		}
	}
	return out, nil
}
