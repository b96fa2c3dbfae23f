package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/whalepod/whalepod/cmd/internal/version"
	"github.com/whalepod/whalepod/node/hollow"
)

// runHollow plays many nodes that run nothing; see package hollow. It needs neither root nor Docker.
func runHollow(ctx context.Context, args []string) error {
	cfg := hollow.Config{Version: version.Kubernetes()}
	fs := flag.NewFlagSet("wp-agent hollow", flag.ContinueOnError)
	fs.StringVar(&cfg.Join.Master, "master", "", "the master's agents' port, as HOST:6444")
	fs.StringVar(&cfg.Join.Token, "token", "", "a join token")
	fs.StringVar(&cfg.Join.CAHash, "ca-hash", "", "sha256:HEX of the cluster's CA")
	fs.IntVar(&cfg.Nodes, "nodes", 100, "how many nodes to play")
	fs.StringVar(&cfg.Prefix, "prefix", "hollow", "beginning of the nodes' names")
	fs.IntVar(&cfg.Pods, "pods", maxHollowPods, "how many pods a node takes")
	fs.StringVar(&cfg.Dir, "data-dir", "", "where the nodes' identities are kept (default: nowhere; they are new nodes each time)")
	cpu := fs.String("cpu", "4", "processors of a node")
	memory := fs.String("memory", "8Gi", "memory of a node")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if cfg.CPU, err = resource.ParseQuantity(*cpu); err != nil {
		return fmt.Errorf("--cpu %q: %w", *cpu, err)
	}
	if cfg.Memory, err = resource.ParseQuantity(*memory); err != nil {
		return fmt.Errorf("--memory %q: %w", *memory, err)
	}
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "wp-hollow-"); err != nil {
			return err
		}
		defer os.RemoveAll(cfg.Dir)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return hollow.Run(ctx, cfg)
}

// maxHollowPods is what a real node takes.
const maxHollowPods = 110
