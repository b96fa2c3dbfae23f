package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/session"
)

// Containers get this long to end by themselves when a node is uninstalled.
const uninstallGrace = 5 * time.Second

// UninstallConfig says what to remove.
type UninstallConfig struct {
	DataDir string
	// ResolvConf of the machine; what --node-dns has put there is taken out. Empty: there is none.
	ResolvConf string
	Identity   *session.Identity
	Engine     runtime.Engine
	// Mounter for the pods' volumes; nil: the kernel.
	Mounter volume.Mounter
	Logger  *slog.Logger
}

// Uninstall ends this node's containers and removes its links, rules and files: only what is its own. It goes on when a part
// fails, and says at the end what is left.
func Uninstall(ctx context.Context, cfg UninstallConfig) error {
	errs := []error{removeContainers(ctx, cfg.Engine)}
	c, err := cfg.Identity.ClusterConfig()
	if err == nil && cfg.Identity.PodCIDR != "" {
		var parsed *cluster
		if parsed, err = parseCluster(c, cfg.Identity.PodCIDR); err == nil {
			errs = append(errs, removeRules(ctx, cfg, parsed), removeLinks(ctx, cfg, parsed))
		}
	}
	if cfg.ResolvConf != "" {
		errs = append(errs, (&nodeDNS{file: cfg.ResolvConf}).takeOut()) // systemd-resolved forgets what it was told of a link with it
	}
	errs = append(errs, err, removeVolumes(cfg))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not everything could be removed; what is left is named here, and running this again goes on: %w", err)
	}
	return os.RemoveAll(cfg.DataDir)
}

func removeContainers(ctx context.Context, engine runtime.Engine) error {
	all, err := engine.Pods(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		for _, c := range p.Containers {
			if c.State == runtime.StateRunning {
				errs = append(errs, engine.StopContainer(ctx, c.ID, uninstallGrace))
			}
			errs = append(errs, engine.RemoveContainer(ctx, c.ID))
		}
		for _, s := range p.Sandboxes {
			errs = append(errs, engine.RemoveContainer(ctx, s.ID))
		}
	}
	return errors.Join(errs...)
}

// removeVolumes unmounts what is mounted below the pods' directories before anything there is removed: a subPath of a
// hostPath volume is the user's own data.
func removeVolumes(cfg UninstallConfig) error {
	volumes := volume.New(volume.Config{Dir: pods.VolumesDir(cfg.DataDir), Mounter: cfg.Mounter, Log: cfg.Logger})
	uids, err := volumes.Pods()
	errs := []error{err}
	for _, uid := range uids {
		errs = append(errs, volumes.Teardown(uid))
	}
	return errors.Join(errs...)
}

// Removing links needs no address of the node; the network asks for one all the same.
var anyAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func removeLinks(ctx context.Context, cfg UninstallConfig, c *cluster) error {
	n, err := network.New(network.Config{
		NodeName: cfg.Identity.Node, NodeIP: anyAddress, PodCIDR: c.node, ClusterPodCIDR: c.pods, ServiceCIDR: c.service,
		DNSIP: c.dns, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	defer n.Close()
	return n.Remove(ctx)
}
