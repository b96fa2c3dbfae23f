package policy

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"strings"
	"time"
)

// turn is what one sync has to do.
type turn struct {
	told   uint64
	text   string
	after  map[string]string // changed chains as they will be
	gone   []string          // changed chains that will not be
	want   map[string]string // for the jumps: whether the first chains are there
	create map[string]SetType
	add    map[string][]Entry
	del    map[string][]Entry
	drop   []string
	types  map[string]SetType
	plain  bool
	// isolated are all addresses that are.
	isolated map[netip.Addr]struct{}
}

// sync applies what changed; after an error, at the start and for repairs it reads the kernel and compares all.
func (e *Enforcer) sync(ctx context.Context) (err error) {
	e.applying.Lock()
	defer e.applying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	start := time.Now()
	t, err := e.plan(ctx)
	if err != nil {
		e.fail(err)
	}
	if err != nil || t == nil {
		return err
	}
	if err := e.apply(ctx, t); err != nil {
		e.fail(err)
		return err
	}
	if len(t.text) > 0 {
		e.log.Debug("network policies applied", "bytes", len(t.text), "took", time.Since(start))
	}
	e.succeed(t)
	return e.drop(t)
}

// errInUse: what is in force is right, and sets that nobody needs are still there.
var errInUse = errors.New("sets are still in use")

// drop removes sets that nothing refers to any more. nf_tables gives back what a rule held some time after the rule is gone: so the
// kernel may say for a while that they are in use, and nobody waits for this.
func (e *Enforcer) drop(t *turn) error {
	var errs []error
	for _, name := range t.drop {
		if err := e.sets.Destroy(name); err != nil {
			e.left[name] = struct{}{}
			errs = append(errs, err)
			continue
		}
		delete(e.have.sets, name)
		delete(e.left, name)
	}
	if len(errs) > 0 {
		return errors.Join(append(errs, errInUse)...)
	}
	return nil
}

// plan finds out what to do; nil while not all is known.
func (e *Enforcer) plan(ctx context.Context) (*turn, error) {
	e.together.Lock()
	defer e.together.Unlock()
	e.mu.Lock()
	ready := e.synced
	if e.repair {
		e.have, e.repair = nil, false
	}
	e.model.flush()
	e.mu.Unlock()
	if !ready {
		return nil, nil
	}
	whole := false
	for e.openSets(); e.have == nil; e.openSets() {
		whole = true
		have, err := e.read(ctx)
		if err != nil && e.idle() {
			// A machine without the table, or without the program, can do without as long as there are no policies.
			e.log.Warn("what is left of former network policies cannot be read", "err", err)
			have, err = &kernel{chains: map[string]string{}, sets: map[string]*kernelSet{}}, nil
		}
		if err != nil {
			return nil, err
		}
		e.have = have
		if !e.inherited {
			e.inherited = true
			e.mu.Lock()
			e.model.inherit(have)
			e.model.flush() // with all that came since, which may be what needs sets
			e.mu.Unlock()
		}
	}
	return e.prepare(whole), nil
}

// idle: nobody is isolated.
func (e *Enforcer) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.model.want) == 0
}

// openSets if rules ask for any, and turns to rules without where that cannot be.
func (e *Enforcer) openSets() {
	e.mu.Lock()
	needed := len(e.model.sets) > 0 && !e.model.plain
	e.mu.Unlock()
	if !needed || e.sets != nil {
		return
	}
	sets, err := e.cfg.OpenSets()
	if err != nil {
		e.plain(err)
		return
	}
	e.sets, e.have = sets, nil // one before this may have left some
}

// plain goes on without sets.
func (e *Enforcer) plain(why error) {
	e.mu.Lock()
	e.model.setPlain(true)
	e.model.flush()
	e.mu.Unlock()
	e.say(why.Error())
}

func (e *Enforcer) fail(err error) {
	e.have = nil
	e.mu.Lock()
	sets := len(e.model.sets) > 0 && !e.model.plain
	e.mu.Unlock()
	if sets && !e.worked {
		switch e.refusals {
		case plainAfter - 1:
			e.mu.Lock()
			e.model.noSelf, e.model.reshape = true, true
			e.mu.Unlock()
		case plainAfter:
			e.plain(err)
		}
	}
	e.done(0, err)
}

func (e *Enforcer) succeed(t *turn) {
	e.mu.Lock()
	lost := e.model.noSelf && !t.plain && !e.worked
	e.mu.Unlock()
	if lost {
		e.log.Warn("pods that network policies isolate cannot reach themselves by a Service, unless the policies allow it: the kernel has no xt_bpf")
	}
	e.worked = e.worked || !t.plain && len(e.have.sets) > 0
	if !t.plain {
		e.say("")
	}
	e.mu.Lock()
	e.enforced = t.isolated
	e.mu.Unlock()
	e.done(t.told, nil)
}

// prepare compares what changed with what the kernel holds.
func (e *Enforcer) prepare(whole bool) *turn {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.model
	t := &turn{
		told: e.told, after: map[string]string{}, want: map[string]string{}, create: map[string]SetType{}, add: map[string][]Entry{},
		del: map[string][]Entry{}, types: map[string]SetType{}, plain: m.plain, isolated: map[netip.Addr]struct{}{},
	}
	if whole {
		for c := range e.have.chains {
			m.changed[c] = struct{}{}
		}
		for c := range m.want {
			m.changed[c] = struct{}{}
		}
	}
	t.text = restoreText(e.have.chains, m.want, maps.Keys(m.changed))
	for c := range m.changed {
		if rules, ok := m.want[c]; ok {
			t.after[c] = rules
		} else if strings.HasPrefix(c, Prefix) {
			t.gone = append(t.gone, c)
		}
	}
	for _, j := range jumps {
		if rules, ok := m.want[j.target]; ok {
			t.want[j.target] = rules
		}
	}
	clear(m.changed)
	if !m.plain {
		e.prepareSets(t, whole)
	}
	clear(m.touched)
	clear(m.fresh)
	for _, name := range []string{setIngress, setEgress} {
		if s := m.sets[name]; s != nil {
			for x := range s.entries {
				t.isolated[x.Net.Addr()] = struct{}{}
			}
		}
	}
	return t
}

// prepareSets compares the sets, or what was touched of them. Call with mu held.
func (e *Enforcer) prepareSets(t *turn, whole bool) {
	m := e.model
	names := map[string]map[Entry]struct{}{}
	for name := range e.left {
		names[name] = nil // it goes now, or is needed again, and fresh then
	}
	maps.Copy(names, m.touched)
	if whole {
		for name := range e.have.sets {
			names[name] = nil
		}
		for name := range m.sets {
			names[name] = nil
		}
	}
	for name, entries := range names {
		s, have := m.sets[name], e.have.sets[name]
		if s == nil && have != nil {
			t.drop = append(t.drop, name)
			continue
		}
		delete(e.left, name)
		if s == nil {
			continue
		}
		t.types[name] = s.typ
		_, fresh := m.fresh[name]
		all := whole || fresh
		if have == nil || all {
			entries = map[Entry]struct{}{}
			for x := range s.entries {
				entries[x] = struct{}{}
			}
		}
		if have == nil {
			t.create[name], have = s.typ, &kernelSet{}
		} else if all {
			for x := range have.entries {
				entries[x] = struct{}{}
			}
		}
		for x := range entries {
			_, is := have.entries[x]
			if wanted := s.entries[x] > 0; wanted && !is {
				t.add[name] = append(t.add[name], x)
			} else if !wanted && is {
				t.del[name] = append(t.del[name], x)
			}
		}
	}
}

// apply does it in the order in which nobody is let through for a moment who is not to be, and nobody stopped who may pass: what rules
// refer to comes before them; who is isolated no more is free before the way of its group goes, and who is now counts as isolated
// when its way is there. What nobody refers to goes last; see drop.
func (e *Enforcer) apply(ctx context.Context, t *turn) error {
	for name, typ := range t.create {
		if err := e.sets.Create(name, typ); err != nil {
			return err
		}
		e.have.sets[name] = &kernelSet{typ: typ, entries: map[Entry]struct{}{}}
	}
	for _, step := range []func() error{
		func() error { return e.enter(t, false) },
		func() error { return e.leave(t, true) },
		func() error { return e.restore(ctx, t) },
		func() error { return e.enter(t, true) },
		func() error { return e.leave(t, false) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// isolates: who is in the set is isolated.
func isolates(name string) bool { return name == setIngress || name == setEgress }

// enter adds what came to the sets that isolate, or to the others.
func (e *Enforcer) enter(t *turn, isolating bool) error {
	for name, entries := range t.add {
		if isolates(name) != isolating {
			continue
		}
		if err := e.sets.Add(name, t.types[name], entries); err != nil {
			return err
		}
		for _, x := range entries {
			e.have.sets[name].entries[x] = struct{}{}
		}
	}
	return nil
}

// leave takes out what went.
func (e *Enforcer) leave(t *turn, isolating bool) error {
	for name, entries := range t.del {
		if isolates(name) != isolating {
			continue
		}
		if err := e.sets.Delete(name, t.types[name], entries); err != nil {
			return err
		}
		for _, x := range entries {
			delete(e.have.sets[name].entries, x)
		}
	}
	return nil
}

func (e *Enforcer) restore(ctx context.Context, t *turn) error {
	if t.text == "" {
		return nil
	}
	if err := e.cfg.Tables.Restore(ctx, t.text); err != nil {
		if strings.Contains(t.text, "--match-set") {
			e.refusals++
		}
		return err
	}
	e.refusals = 0
	maps.Copy(e.have.chains, t.after)
	for _, c := range t.gone {
		delete(e.have.chains, c)
	}
	noteJumps(e.have.chains, t.want)
	return nil
}
