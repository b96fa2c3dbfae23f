package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/whalepod/whalepod/dns"
	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/pods/netfiles"
)

const (
	// resolvedLooks is after how many looks systemd-resolved is told again; it forgets when it is started anew.
	resolvedLooks = 30
	// resolvedDir is where systemd-resolved writes its files.
	resolvedDir = "/run/systemd/resolve"
	// resolvectlTime is for one call.
	resolvectlTime = 5 * time.Second
)

// nodeDNS makes the machine itself resolve the cluster's names. It edits nothing unless somebody asked for it (--node-dns). The
// world's names must resolve whatever becomes of the agent: systemd-resolved is told to ask us for the cluster's names alone; in a
// plain resolv.conf our server stands before the others, which are asked when it does not answer.
type nodeDNS struct {
	file    string // the machine's resolv.conf
	server  netip.Addr
	domains []string // the cluster's, and those of its addresses
	// resolvectl runs the program of that name.
	resolvectl func(ctx context.Context, args ...string) error
	log        *slog.Logger
}

func (a *Agent) nodeDNS(c *cluster) *nodeDNS {
	n := &nodeDNS{file: a.cfg.ResolvConf, server: c.dns, domains: []string{c.domain}, resolvectl: runResolvectl, log: a.log}
	for _, p := range []netip.Prefix{c.service, c.pods} {
		if p.Bits()%8 == 0 { // the name of others is that of more than the cluster's addresses
			n.domains = append(n.domains, strings.TrimSuffix(dns.ReverseName(p.Masked()), "."))
		}
	}
	return n
}

// keep the machine as it was asked to be. Without the option nothing is edited, but what an agent that was killed has left goes.
func (n *nodeDNS) keep(ctx context.Context, asked bool) error {
	if asked {
		return n.run(ctx)
	}
	if err := n.takeOut(); err != nil {
		n.log.Error("what --node-dns once wrote is still in the machine's resolv.conf", "err", err)
	}
	return nil
}

// run sees to it that the machine asks us, until ctx ends; then it takes everything back.
func (n *nodeDNS) run(ctx context.Context) error {
	t := time.NewTicker(resolvCheck)
	defer t.Stop()
	said := "nothing"
	for look := 0; ; look++ {
		by, err := n.ensure(ctx, look)
		now := by
		if err != nil {
			now = err.Error()
		}
		if now != said && ctx.Err() == nil {
			said = now
			if err != nil {
				n.log.Error("--node-dns: this machine does not resolve the cluster's names", "err", err)
			} else if by != "" {
				n.log.Info("--node-dns: this machine resolves the cluster's names", "by", by)
			}
		}
		select {
		case <-ctx.Done():
			return n.undo(context.WithoutCancel(ctx))
		case <-t.C:
		}
	}
}

// ensure does what is missing and says by what the machine resolves our names; "" while the file is being written.
func (n *nodeDNS) ensure(ctx context.Context, look int) (by string, err error) {
	path, file, err := n.read()
	if err != nil {
		return "", err
	}
	servers := netfiles.ParseResolv(file).Nameservers
	for _, s := range servers {
		ip, err := netip.ParseAddr(s)
		switch {
		case err != nil || !ip.IsLoopback():
		case s == "127.0.0.53" || s == "127.0.0.54":
			if look%resolvedLooks != 0 {
				return "systemd-resolved", nil
			}
			return "systemd-resolved", n.tellResolved(ctx)
		default:
			return "", fmt.Errorf("a name server of this machine's own answers at %s, which %s names: tell it to ask %s for %s (dnsmasq: server=/%s/%s; unbound: a forward-zone). %s is left as it is, "+
				"for that server may ask those whom it names", s, path, n.server, n.domains[0], n.domains[0], n.server, path)
		}
	}
	if filepath.Dir(path) == resolvedDir {
		return "", fmt.Errorf("%s is a list that systemd-resolved writes, and no program asks it then: ln -sf %s/stub-resolv.conf %s", path, resolvedDir, n.file)
	}
	if len(servers) == 0 {
		return "", nil
	}
	return path, writeOver(path, file, netfiles.WithServer(file, n.server.String()))
}

// read the file behind the name, which may be a link to it.
func (n *nodeDNS) read() (path string, file []byte, err error) {
	if path, err = filepath.EvalSymlinks(n.file); err != nil {
		return "", nil, err
	}
	file, err = os.ReadFile(path)
	return path, file, err
}

func (n *nodeDNS) tellResolved(ctx context.Context) error {
	routes := []string{"domain", network.BridgeName}
	for _, d := range n.domains {
		routes = append(routes, "~"+d) // asked for names in it, and for no others
	}
	return errors.Join(
		n.resolvectl(ctx, "dns", network.BridgeName, n.server.String()),
		n.resolvectl(ctx, routes...),
		n.resolvectl(ctx, "dnssec", network.BridgeName, "no"), // nobody has signed the cluster's domain
	)
}

// undo takes back what was done.
func (n *nodeDNS) undo(ctx context.Context) error {
	_, file, err := n.read()
	if err != nil {
		return nil //nolint:nilerr // without the file nothing of ours is in it
	}
	for _, s := range netfiles.ParseResolv(file).Nameservers {
		if s == "127.0.0.53" || s == "127.0.0.54" {
			if err := n.resolvectl(ctx, "revert", network.BridgeName); err != nil {
				n.log.Warn("systemd-resolved asks a server for the cluster's names that is gone", "err", err)
			}
		}
	}
	return n.takeOut()
}

// takeOut of the file what we have put there, this agent or one before it.
func (n *nodeDNS) takeOut() error {
	path, file, err := n.read()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return writeOver(path, file, netfiles.WithoutServer(file))
}

// writeOver replaces the contents and keeps the file, its owner and its SELinux label. In one write, so that nobody reads half of it.
func writeOver(path string, old, data []byte) error {
	if bytes.Equal(old, data) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil && len(data) < len(old) {
		err = f.Truncate(int64(len(data)))
	}
	return errors.Join(err, f.Close())
}

func runResolvectl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, resolvectlTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, "resolvectl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("resolvectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
