package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

const (
	// settle is how long changes are collected before they are applied together.
	settle = 3 * time.Millisecond
	// watchEvery is how often the kernel is looked at, in case somebody flushed the table or the sets.
	watchEvery = time.Minute
	// applyTimeout bounds one turn.
	applyTimeout = time.Minute
	// attachTimeout is how long a pod waits for its rules before it is said why it does not start.
	attachTimeout = 15 * time.Second
	backoffMin    = 100 * time.Millisecond
	backoffMax    = 30 * time.Second
	// plainAfter so many refusals in a row of rules with sets, on a kernel where none has ever worked, it counts as one without; before
	// the last it is tried without what fewer kernels have. (That the tables cannot be read for a while says nothing of this kind.)
	plainAfter = 3
)

// Tables holds the kernel's rules; proxy/iptables is the real one.
type Tables interface {
	// Read returns table → chain → rules as "-A …" lines: all of the chains whose names begin with Prefix, and of
	// other chains only the rules that jump to such a chain.
	Read(ctx context.Context) (map[string]map[string]string, error)
	// Restore applies the text, all at once or not at all.
	Restore(ctx context.Context, text string) error
}

// KernelSet is a set as the kernel has it.
type KernelSet struct {
	Type    SetType
	Entries []Entry
}

// Sets holds the kernel's sets; proxy/ipset is the real one. What is there already, or is not there any more, is no error.
type Sets interface {
	// List returns those whose names begin with SetPrefix.
	List() (map[string]KernelSet, error)
	Create(name string, t SetType) error
	Destroy(name string) error
	Add(name string, t SetType, entries []Entry) error
	Delete(name string, t SetType, entries []Entry) error
}

// Config of an Enforcer.
type Config struct {
	Tables Tables
	// OpenSets is called when a set is needed for the first time, and again as long as it fails: where the kernel has no sets,
	// nodes whose pods no policy selects never find out.
	OpenSets func() (Sets, error)
	// Trouble is told why policies cannot be enforced as they are written and pods get nothing instead, and "" when they can again.
	// It may be nil.
	Trouble func(why string)
	Logger  *slog.Logger
}

// Enforcer keeps the kernel equal to what it was told. Its methods return at once, but for Attach; Run does the work.
type Enforcer struct {
	cfg  Config
	log  *slog.Logger
	poke chan struct{}

	applying sync.Mutex // held while the kernel is read or written; taken before the other two
	// together is held while changes are told that belong together, and while it is found out what to do; taken before mu.
	together sync.Mutex

	mu       sync.Mutex
	model    *model
	synced   bool
	repair   bool
	told     uint64        // counts changes
	inForce  uint64        // up to which they are in force
	turned   chan struct{} // closed when a turn ends
	failed   error         // of the last turn
	trouble  string
	enforced map[netip.Addr]struct{} // isolated in the kernel

	// have is what the kernel holds as far as we know; nil means that it must be read. Only with applying.
	have     *kernel
	sets     Sets
	refusals int                 // how often in a row rules with sets were not taken
	worked   bool                // rules with sets have been taken once
	left     map[string]struct{} // sets to be dropped that the kernel still held
	// inherited: what an agent before this one left has been looked at.
	inherited bool
}

// New starts nothing.
func New(cfg Config) *Enforcer {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Trouble == nil {
		cfg.Trouble = func(string) {}
	}
	return &Enforcer{
		cfg: cfg, log: cfg.Logger.With("component", "policy"), poke: make(chan struct{}, 1), model: newModel(), turned: make(chan struct{}),
		enforced: map[netip.Addr]struct{}{}, left: map[string]struct{}{},
	}
}

// SetPolicy adds a policy or replaces it. The object must not be changed afterwards.
func (e *Enforcer) SetPolicy(p *networkingv1.NetworkPolicy) {
	e.change(func() { e.model.setPolicy(p) })
}

// DeletePolicy removes a policy.
func (e *Enforcer) DeletePolicy(namespace, name string) {
	e.change(func() { e.model.deletePolicy(key{namespace, name}) })
}

// SetPart replaces a part of a set that policies refer to (netpolicy.Set.ID); none removes it.
func (e *Enforcer) SetPart(set, part string, members []Member) {
	e.change(func() { e.model.setPart(set, part, members) })
}

// SetPod notes what a pod of this node is like. The object must not be changed afterwards.
func (e *Enforcer) SetPod(pod *corev1.Pod) { e.change(func() { e.model.setPod(pod) }) }

// DeletePod notes that there is no such pod any more. As long as it is attached it keeps what it has, or less.
func (e *Enforcer) DeletePod(uid string) { e.change(func() { e.model.deletePod(uid) }) }

// Together tells changes of which none comes into force without the others. f may not call Attach.
func (e *Enforcer) Together(f func()) {
	e.together.Lock()
	defer e.together.Unlock()
	f()
}

// Adopt notes the address of a pod that runs already.
func (e *Enforcer) Adopt(uid string, addr netip.Addr) { e.change(func() { e.model.attach(uid, addr) }) }

// Attach gives a pod an address, and returns when what its policies say is in force for it; at once, if there are none. It must be
// called before anything of the pod runs, and SetPod and SetPolicy before it.
func (e *Enforcer) Attach(ctx context.Context, uid string, addr netip.Addr) error {
	e.Adopt(uid, addr)
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	e.together.Lock()
	e.mu.Lock()
	e.model.flush()
	e.together.Unlock()
	_, stale := e.enforced[addr] // of a pod before it
	wait, at := stale || e.model.pods[uid].isIsolated(), e.told
	for wait && e.inForce < at {
		turned := e.turned
		e.mu.Unlock()
		select {
		case <-turned:
			e.mu.Lock()
		case <-ctx.Done():
			e.mu.Lock()
			defer e.mu.Unlock()
			return fmt.Errorf("its network policies are not in force: %w", errors.Join(ctx.Err(), e.failed))
		}
	}
	defer e.mu.Unlock()
	if wait && e.trouble != "" && e.model.pods[uid].isIsolated() {
		return fmt.Errorf("network policies select this pod, and this node cannot enforce them: %s", e.trouble)
	}
	return nil
}

// Detach takes a pod off the network; its address may be another's next.
func (e *Enforcer) Detach(uid string) { e.change(func() { e.model.attach(uid, netip.Addr{}) }) }

// Synced says that everything there is has been given. Before that nothing is applied, so that a restarted agent never lets anybody
// in or out whom the rules in force keep away.
func (e *Enforcer) Synced() {
	e.mu.Lock()
	was := e.synced
	e.mu.Unlock()
	if !was {
		e.change(func() { e.synced = true })
	}
}

// Repair makes Run read the kernel back and put right what differs: call it when a firewall may have been restarted.
func (e *Enforcer) Repair() { e.change(func() { e.repair = true }) }

func (e *Enforcer) change(f func()) {
	e.mu.Lock()
	f()
	e.told++
	e.mu.Unlock()
	select {
	case e.poke <- struct{}{}:
	default:
	}
}

// Run applies changes until ctx ends, and leaves the rules in force.
func (e *Enforcer) Run(ctx context.Context) error {
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	backoff := backoffMin
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C:
			e.lookAfter()
		case <-retry:
		case <-e.poke:
			if !wait(ctx, settle) {
				return nil
			}
		}
		err := e.sync(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errInUse):
			e.log.Debug("sets that nobody needs are still there, trying again", "err", err, "in", backoff)
			retry = time.After(backoff)
			backoff = min(2*backoff, backoffMax)
		case err != nil:
			e.log.Error("network policies are not in force, trying again", "err", err, "in", backoff)
			retry = time.After(backoff)
			backoff = min(2*backoff, backoffMax)
		default:
			retry, backoff = nil, backoffMin
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// lookAfter makes the next turn read everything, if there is anything: a table or a set may have been flushed, and a module that was
// missing may have been loaded.
func (e *Enforcer) lookAfter() {
	e.applying.Lock()
	defer e.applying.Unlock()
	if e.have == nil || len(e.have.chains) == 0 {
		return
	}
	e.have = nil
	e.mu.Lock()
	if e.model.plain {
		e.model.setPlain(false)
		e.model.noSelf = false
	}
	e.mu.Unlock()
}

// done ends a turn.
func (e *Enforcer) done(at uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = err
	if err == nil {
		e.inForce = at
	}
	close(e.turned)
	e.turned = make(chan struct{})
}

// say tells of trouble, once.
func (e *Enforcer) say(why string) {
	e.mu.Lock()
	same := e.trouble == why
	e.trouble = why
	e.mu.Unlock()
	if same {
		return
	}
	if why != "" {
		e.log.Error("network policies cannot be enforced as they are written: the pods that they select get no traffic at all", "err", why)
	} else {
		e.log.Info("network policies can be enforced again")
	}
	e.cfg.Trouble(why)
}
