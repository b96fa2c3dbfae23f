package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/admit"
	"github.com/whalepod/whalepod/node/pressure"
)

const (
	// guardEvery is how often the node is looked at, as the kubelet does. A look reads five small files.
	guardEvery = 10 * time.Second
	// guardClosely is how often when memory is nearly short, or when the kernel cannot tell that tasks wait for memory.
	guardClosely = time.Second
	// nearly: less than that many times the threshold is left.
	nearly = 2
	// evictionGrace is what a pod gets that has to go at once.
	evictionGrace = time.Second
	// clearingPatience is how long an evicted pod may take to free what it had before the node is looked at again, and
	// clearingLook how often that is asked.
	clearingPatience, clearingLook = 30 * time.Second, time.Second
	// Image garbage collection that did not help is tried again after this (the kubelet's period), and so is making room
	// when nothing could be removed.
	collectAgain, reclaimAgain = 5 * time.Minute, time.Minute
	removeTimeout              = time.Minute
)

// guard looks after the node's memory, disk and process IDs, and makes room before they run out: ended pods' containers and unused
// images first, then pods, one at a time.
type guard struct {
	cfg guardConfig
	log *slog.Logger
	// changed wakes whoever tells the master of the node's conditions.
	changed chan struct{}
	wake    chan struct{}

	mu         sync.Mutex
	pods       guarded // nil until the data plane is up
	root       string  // the engine's directory; empty until it has said
	conditions pressure.Conditions
	clock      pressure.Clock
	images     pressure.Images

	// Of run alone.
	promptly  bool // the kernel says when memory gets short
	split     bool // images and containers have a file system of their own
	warned    map[string]bool
	tellAt    time.Time // when to tell again that room is being made
	collectAt time.Time
	reclaimAt time.Time
	failures  int // of image garbage collection, in a row
}

func newGuard(cfg guardConfig) *guard {
	if cfg.Clock == nil {
		began := time.Now()
		cfg.Clock = func() (time.Time, time.Duration) { return time.Now(), time.Since(began) }
	}
	return &guard{
		cfg: cfg, log: cfg.Log.With("component", "guard"), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), warned: map[string]bool{},
	}
}

// watch over these pods from now on.
func (g *guard) watch(p guarded) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pods = p
}

// found the engine's directory.
func (g *guard) found(root string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if root != "" {
		g.root = root
	}
}

// rootDir of the engine; the agent's own while it is not known.
func (g *guard) rootDir() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.root == "" {
		return g.cfg.DataDir
	}
	return g.root
}

func (g *guard) manager() guarded {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pods
}

// tell the node's conditions.
func (g *guard) tell(now time.Time) []corev1.NodeCondition {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append(g.conditions.Node(now), g.clock.Condition(now))
}

// refuse tells why a pod may not come now.
func (g *guard) refuse(pod *corev1.Pod) *admit.Refusal {
	g.mu.Lock()
	active := g.conditions.Active()
	g.mu.Unlock()
	if reason, message := pressure.Refuse(pod, active); reason != "" {
		return &admit.Refusal{Reason: reason, Message: message}
	}
	return nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run until ctx ends.
func (g *guard) run(ctx context.Context) error {
	stalls := make(chan error, 1)
	go func() { stalls <- g.cfg.Gauges.Stalls(ctx, func() { poke(g.wake) }) }()
	g.promptly = true
	var sizing sync.WaitGroup
	sizing.Go(func() { g.enforceLimits(ctx) })
	defer sizing.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer func() {
		if stalls != nil {
			<-stalls
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-stalls:
			stalls, g.promptly = nil, false
			if ctx.Err() == nil {
				g.log.Info("the kernel does not tell when memory gets short; looking every second", "err", err)
			}
		case <-timer.C:
		case <-g.wake:
		}
		timer.Reset(g.look(ctx))
	}
}

// look once and do what has to be done; it returns when to look again.
func (g *guard) look(ctx context.Context) time.Duration {
	now := time.Now()
	g.lookAtClock(now)
	seen := g.observe()
	met := pressure.Met(g.cfg.Thresholds, seen)
	g.note(now, met)
	p := g.manager()
	if len(met) == 0 {
		delete(g.warned, nothingLeft)
		if disk, ok := seen[pressure.ImageFsAvailable]; ok {
			g.collect(ctx, now, disk)
		}
		return g.next(seen)
	}
	if p == nil { // the pods are not known yet
		return g.next(seen)
	}
	for _, t := range met { // the next only when nothing could be done about the one before
		if g.relieve(ctx, now, p, t, seen) {
			return 0
		}
	}
	return g.next(seen)
}

// next look: soon when memory may run short before the usual time.
func (g *guard) next(seen pressure.Observations) time.Duration {
	m, ok := seen[pressure.MemoryAvailable]
	for _, t := range g.cfg.Thresholds {
		if q := t.Of(m.Capacity); ok && t.Signal == pressure.MemoryAvailable && (!g.promptly || m.Available < nearly*q.Value()) {
			return guardClosely
		}
	}
	return guardEvery
}

// observe everything; what cannot be measured is left out, and told once.
func (g *guard) observe() pressure.Observations {
	seen := pressure.Observations{}
	note := func(signal pressure.Signal, o pressure.Observation, err error) {
		if err != nil {
			if !g.warned[string(signal)] {
				g.warned[string(signal)] = true
				g.log.Warn("cannot be measured", "signal", signal, "err", err)
			}
			return
		}
		delete(g.warned, string(signal))
		seen[signal] = o
	}
	o, err := g.cfg.Gauges.Memory()
	note(pressure.MemoryAvailable, o, err)
	nodeFs, err := g.cfg.Gauges.Disk(g.cfg.DataDir)
	note(pressure.NodeFsAvailable, nodeFs.Space, err)
	note(pressure.NodeFsInodesFree, nodeFs.Inodes, err)
	imageFs, rootErr := g.cfg.Gauges.Disk(g.rootDir())
	if rootErr != nil { // the engine's directory may be hidden from us; then it counts as if it were beside ours
		imageFs, rootErr = nodeFs, err
	}
	note(pressure.ImageFsAvailable, imageFs.Space, rootErr)
	note(pressure.ImageFsInodesFree, imageFs.Inodes, rootErr)
	g.split = imageFs.Device != nodeFs.Device
	for _, t := range g.cfg.Thresholds {
		if t.Signal == pressure.PIDAvailable { // nobody asks by default
			o, err := g.cfg.Gauges.PIDs()
			note(pressure.PIDAvailable, o, err)
		}
	}
	return seen
}

// note the conditions, and tell what changed.
func (g *guard) note(now time.Time, met []pressure.Threshold) {
	g.mu.Lock()
	events := g.conditions.Observe(now, met, pressure.TransitionPeriod)
	active := g.conditions.Active()
	g.mu.Unlock()
	if len(events) == 0 {
		return
	}
	g.log.Info("node conditions changed", "active", active, "events", events)
	for _, reason := range events {
		g.cfg.Event(corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", g.cfg.Node, reason))
	}
	poke(g.changed)
}

func (g *guard) lookAtClock(now time.Time) {
	g.mu.Lock()
	before := g.clock.Condition(now)
	message := g.clock.Look(g.cfg.Clock())
	after := g.clock.Condition(now)
	g.mu.Unlock()
	if message != "" {
		g.log.Warn("clock", "message", message)
		g.cfg.Event(corev1.EventTypeWarning, string(pressure.ClockJumped), message)
	}
	if before.Status != after.Status || message != "" {
		poke(g.changed)
	}
}
