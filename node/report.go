package node

import (
	"context"
	"errors"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// The node's status is told again this often when nothing changes, as the kubelet does.
	statusEvery = 5 * time.Minute
	// How often an engine that did not answer is asked again.
	engineRetry   = 2 * time.Second
	engineTimeout = 10 * time.Second
)

func (a *Agent) engineInfo(ctx context.Context) (runtime.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, engineTimeout)
	defer cancel()
	return a.cfg.Engine.Info(ctx)
}

// reportNode tells the master of this node: at the start, when the engine comes or goes, when the data plane is there, and
// now and then. That the engine goes is known at once, because its event stream breaks. When it comes back, the proxy looks
// at its rules: Docker puts its own first as it starts.
func (a *Agent) reportNode(ctx context.Context) error {
	for ctx.Err() == nil {
		ready := make(chan struct{})
		watching, stop := context.WithCancel(ctx)
		broken := make(chan error, 1)
		go func() { broken <- a.cfg.Engine.Events(watching, ready, func(runtime.Event) {}) }()
		err := a.reportWhile(ctx, ready, broken)
		stop()
		if ctx.Err() != nil {
			return nil
		}
		a.tellNode(ctx, errors.Join(runtime.ErrUnavailable, err))
		a.log.Warn("the container engine does not answer", "err", err, "retry", engineRetry)
		select {
		case <-ctx.Done():
		case <-time.After(engineRetry):
		}
	}
	return nil
}

// reportWhile reports until the engine's event stream breaks, and returns why.
func (a *Agent) reportWhile(ctx context.Context, ready <-chan struct{}, broken <-chan error) error {
	t := time.NewTicker(statusEvery)
	defer t.Stop()
	welcome := a.planeReady()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case <-ready:
			ready = nil
			a.repairRules()
		case <-welcome:
			welcome = nil
		case <-t.C:
		}
		if ready == nil {
			a.tellNode(ctx, nil)
		}
	}
}

func (a *Agent) tellNode(ctx context.Context, engine error) {
	var info runtime.Info
	var images []runtime.Image
	if engine == nil {
		if info, engine = a.engineInfo(ctx); engine == nil {
			images, _ = a.cfg.Engine.Images(ctx) // the list only helps the scheduler
		}
	}
	if ctx.Err() != nil {
		return
	}
	s := a.nodeStatus(info, engine)
	if engine == nil {
		s.Images = imageList(images)
	}
	a.outbox.Node(s)
}

func (a *Agent) repairRules() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.plane != nil {
		a.plane.proxy.Repair()
	}
}
