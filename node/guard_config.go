package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/pressure/meter"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/session"
)

// gauges is what a guard measures with; meter.Meter is it.
type gauges interface {
	Memory() (pressure.Observation, error)
	PIDs() (pressure.Observation, error)
	Disk(path string) (meter.Disk, error)
	WorkingSet(c meter.Container) (int64, error)
	Processes(c meter.Container) (int64, error)
	Tree(ctx context.Context, dir string) (pressure.Size, error)
	Layer(ctx context.Context, c meter.Container) (pressure.Size, error)
	Logs(ctx context.Context, root, id string) (pressure.Size, error)
	Stalls(ctx context.Context, fn func()) error
	Keep(ids map[string]bool)
}

// guarded is what a guard needs of the pods; pods.Manager is it.
type guarded interface {
	Active() []pods.Active
	Evict(uid string, e pods.Eviction) bool
	Cleared(uid string) bool
	RemoveEnded(ctx context.Context)
	ForgetImages(names []string)
}

// guardConfig of a guard.
type guardConfig struct {
	Node       string
	DataDir    string
	Thresholds []pressure.Threshold
	Images     pressure.ImagePolicy
	Gauges     gauges
	Engine     runtime.Engine
	// Clock is the wall clock and one that nobody sets; nil: the machine's.
	Clock func() (wall time.Time, mono time.Duration)
	// Event about the node.
	Event func(eventType, reason, message string)
	Log   *slog.Logger
}

// addGuard makes the agent's guard of its configuration.
func (a *Agent) addGuard() error {
	thresholds, err := pressure.ParseThresholds(a.cfg.EvictionHard, pressure.Defaults(a.machine.memory))
	if err != nil {
		return err
	}
	if a.cfg.ImageGC == (pressure.ImagePolicy{}) {
		a.cfg.ImageGC = pressure.DefaultImagePolicy()
	}
	if err := a.cfg.ImageGC.Validate(); err != nil {
		return err
	}
	a.guard = newGuard(guardConfig{
		Node: a.cfg.Identity.Node, DataDir: a.cfg.DataDir, Thresholds: thresholds, Images: a.cfg.ImageGC, Gauges: a.meter, Engine: a.cfg.Engine,
		Event: func(eventType, reason, message string) {
			a.outbox.Event(session.Event{Kind: "Node", Name: a.cfg.Identity.Node, UID: a.cfg.Identity.Node, Type: eventType, Reason: reason, Message: message})
		},
		Log: a.cfg.Logger,
	})
	return a.checkReserved()
}

// checkReserved refuses to leave nothing to pods.
func (a *Agent) checkReserved() error {
	capacity := a.capacity()
	for name, q := range a.cfg.Reserved {
		if have, ok := capacity[name]; ok && q.Cmp(have) > 0 {
			return fmt.Errorf("invalid Node Allocatable configuration. Resource %q has a reservation of %v but capacity of %v. Expected capacity >= reservation", name, &q, &have)
		}
	}
	return nil
}
