package policy

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// kernel is what it holds of ours.
type kernel struct {
	chains map[string]string
	sets   map[string]*kernelSet
}

type kernelSet struct {
	typ     SetType
	entries map[Entry]struct{}
}

func (e *Enforcer) read(ctx context.Context) (*kernel, error) {
	k := &kernel{chains: map[string]string{}, sets: map[string]*kernelSet{}}
	tables, err := e.cfg.Tables.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the table %s: %w", Table, err)
	}
	for chain, rules := range tables[Table] {
		if strings.HasPrefix(chain, Prefix) {
			k.chains[chain] = rules
			continue
		}
		for line := range strings.Lines(rules) {
			if strings.Contains(line, "-j "+Prefix) { // never touch another, whatever the tables say
				k.chains[chain] += line
			}
		}
	}
	e.mu.Lock()
	plain := e.model.plain
	e.mu.Unlock()
	if e.sets == nil && !plain && len(k.chains) > 0 { // left by an agent before this one, and perhaps to be taken away
		if e.sets, err = e.cfg.OpenSets(); err != nil {
			e.sets = nil // then there are none
		}
	}
	if e.sets == nil || plain {
		return k, nil
	}
	sets, err := e.sets.List()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's sets: %w", err)
	}
	for name, s := range sets {
		have := &kernelSet{typ: s.Type, entries: make(map[Entry]struct{}, len(s.Entries))}
		for _, x := range s.Entries {
			have.entries[x] = struct{}{}
		}
		k.sets[name] = have
	}
	return k, nil
}

// Sets that the kernel still holds are tried again after pauses from the first to the second.
const removeRetry, removeWithin = 10 * time.Millisecond, time.Second

// Remove takes all our rules and sets out of the kernel: for uninstalling. Run must have ended.
func (e *Enforcer) Remove(ctx context.Context) error {
	e.applying.Lock()
	defer e.applying.Unlock()
	have, err := e.read(ctx)
	if err != nil {
		return err
	}
	e.have = nil
	if text := restoreText(have.chains, nil, maps.Keys(have.chains)); text != "" {
		if err := e.cfg.Tables.Restore(ctx, text); err != nil {
			return err
		}
	}
	t := &turn{drop: slices.Collect(maps.Keys(have.sets))}
	e.have = have
	defer func() { e.have = nil }()
	for pause := removeRetry; ; pause *= 2 {
		if err = e.drop(t); err == nil || pause > removeWithin || !wait(ctx, pause) {
			return err
		}
		t.drop = slices.Collect(maps.Keys(have.sets))
	}
}
