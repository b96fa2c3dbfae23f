package hollow

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/whalepod/whalepod/node/session"
)

// Label marks hollow nodes, so that real pods can keep away from them, and others be sent there.
const Label = "whalepod.io/hollow"

// parallelJoins is how many nodes join at a time.
const parallelJoins = 16

// Config of hollow nodes.
type Config struct {
	// Nodes is how many there are; they are called Prefix-0 and so on.
	Nodes  int
	Prefix string
	// Join says how to join; the names are made here.
	Join session.JoinOptions
	// Dir keeps their identities, so that they are the same nodes when they come again.
	Dir string
	// CPU, Memory and Pods are what each node can take.
	CPU, Memory resource.Quantity
	Pods        int
	// Version that the nodes show as their kubelet's.
	Version string
	// Dial replaces TCP in tests.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Logger of every node; nil: none.
	Logger *slog.Logger
}

// Run plays the nodes until ctx ends, or until one of them is not let in.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Nodes < 1 || cfg.Pods < 1 {
		return fmt.Errorf("%d hollow nodes of %d pods each: both must be positive", cfg.Nodes, cfg.Pods)
	}
	if cfg.Logger == nil {
		cfg.Logger = discard
	}
	joins := make(chan struct{}, parallelJoins)
	g, running := errgroup.WithContext(ctx)
	for i := range cfg.Nodes {
		n := newNode(&cfg, i)
		g.Go(func() error { return n.run(running, joins) })
	}
	err := g.Wait()
	if ctx.Err() != nil {
		return nil // what the nodes complain of is that
	}
	return err
}
