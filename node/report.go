package node

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// The node's status is told again this often when nothing changes, as the kubelet does.
	statusEvery = 5 * time.Minute
	// How often the engine is asked whether it still answers, and how often one that did not. That it hangs is no event, so
	// this bounds how long nobody is told.
	engineCheck, engineRecheck = 15 * time.Second, 5 * time.Second
	// enginePatience is how long it may be silent before the node counts as not ready: on a small server a pull can hold
	// it up for some seconds. (The kubelet's is 30 s too.)
	enginePatience = 30 * time.Second
	// How often an engine that is away is called again.
	engineRetry, engineRetryMost = 2 * time.Second, 15 * time.Second
	engineTimeout                = 10 * time.Second
	// infoTimeout is how long the node's status waits for what the engine tells of itself, which a single container that hangs in
	// its start can keep for good.
	infoTimeout = time.Second
)

// engineSeen is what is known of the container engine.
type engineSeen struct {
	info  runtime.Info // what it told of itself last
	known bool         // whether it has
	err   error        // why it did not answer when it was asked last
	// asked: it has answered or failed to since the agent started.
	asked bool
}

func (a *Agent) engineSeen() engineSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.engine
}

// sawEngine answer, or not.
func (a *Agent) sawEngine(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.engine.asked, a.engine.err = true, err
}

// askEngine what it is like.
func (a *Agent) askEngine(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	info, err := a.cfg.Engine.Info(ctx)
	if err != nil {
		a.log.Debug("the container engine has no time to tell of itself", "err", err)
		return
	}
	a.guard.found(info.RootDir)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.engine.info, a.engine.known = info, true
}

// nodeReport tells the master of this node: at the start, when the engine comes or goes, when the data plane is there, and
// now and then.
type nodeReport struct {
	*Agent
	tell func(*corev1.NodeStatus)
	// told is when, healthy what was told of the engine; silent is since when it has not answered.
	told, silent time.Time
	healthy      bool
}

// run until ctx ends. That the engine goes is known at once, because its event stream breaks; that it hangs, by asking. When
// it comes back, the proxy looks at its rules: Docker puts its own first as it starts.
func (r *nodeReport) run(ctx context.Context) error {
	pause := engineRetry
	for ctx.Err() == nil {
		ready := make(chan struct{})
		watching, stop := context.WithCancel(ctx)
		broken := make(chan error, 1)
		go func() { broken <- r.cfg.Engine.Events(watching, ready, func(runtime.Event) {}) }()
		err := r.whileConnected(ctx, ready, broken)
		stop()
		if ctx.Err() != nil {
			break
		}
		select {
		case <-ready:
			pause = engineRetry
		default:
		}
		if r.healthy || time.Since(r.told) >= statusEvery {
			r.status(ctx, errors.Join(runtime.ErrUnavailable, err))
		}
		r.log.Warn("the container engine does not answer", "err", err, "retry", pause)
		r.wait(ctx, pause, err)
		pause = min(2*pause, engineRetryMost)
	}
	return nil
}

// wait before the engine is called again; the node's other conditions are told all the same.
func (r *nodeReport) wait(ctx context.Context, pause time.Duration, err error) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-r.guard.changed:
			r.status(ctx, errors.Join(runtime.ErrUnavailable, err))
		}
	}
}

// whileConnected reports until the engine's event stream breaks, and returns why.
func (r *nodeReport) whileConnected(ctx context.Context, ready <-chan struct{}, broken <-chan error) error {
	welcome := r.planeReady()
	check := time.NewTimer(engineCheck)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-broken:
			return err
		case <-ready:
			ready = nil
			r.repairRules()
			r.told = time.Time{}
		case <-welcome:
			welcome = nil
			r.told = time.Time{}
		case <-r.guard.changed:
			r.told = time.Time{}
		case <-check.C:
		}
		next := engineCheck
		if ready == nil && !r.look(ctx) {
			next = engineRecheck
		}
		check.Reset(next)
	}
}

// look asks the engine, and tells what is new or was not told for long. It returns whether the engine answers.
func (r *nodeReport) look(ctx context.Context) bool {
	asked := time.Now()
	asking, cancel := context.WithTimeout(ctx, engineTimeout)
	err := r.cfg.Engine.Ping(asking)
	cancel()
	now := time.Now()
	switch {
	case err == nil:
		r.silent = time.Time{}
	case r.silent.IsZero():
		r.silent = asked
	}
	due := now.Sub(r.told) >= statusEvery || err == nil && !r.engineSeen().known
	switch {
	case err == nil && (due || !r.healthy), err != nil && (due && !r.healthy || r.healthy && now.Sub(r.silent) >= enginePatience):
		r.status(ctx, err)
	}
	return err == nil
}

func (r *nodeReport) status(ctx context.Context, engine error) {
	var images []runtime.Image
	if engine == nil {
		r.askEngine(ctx)
		images, _ = r.cfg.Engine.Images(ctx) // the list only helps the scheduler
	}
	if ctx.Err() != nil {
		return
	}
	r.sawEngine(engine)
	s := r.nodeStatus()
	if engine == nil {
		r.guard.saw(images)
		s.Images = imageList(images)
	}
	if r.healthy = engine == nil; isReadyKnown(s) {
		r.told = time.Now()
	}
	r.tell(s)
}

func isReadyKnown(s *corev1.NodeStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
}

func (a *Agent) repairRules() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.plane != nil {
		a.plane.proxy.Repair()
		a.plane.policy.Repair()
	}
}
