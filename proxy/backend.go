package proxy

import (
	"context"
	"fmt"
	"maps"
)

// Backend writes what is planned into the kernel. SetPorts and SetHostPorts only note what is wanted; Apply puts it in force.
// Read must have succeeded before the first Apply, and after one that failed. No two methods are called at the same time,
// but for Look.
type Backend interface {
	// SetPorts replaces what a Service ("namespace/name") needs; none: nothing any more. old is what was set before.
	SetPorts(service string, old, now []Port)
	// SetHostPorts replaces the host ports of a pod ("namespace/name").
	SetHostPorts(pod string, ports []HostPort)
	// Read finds out what the kernel holds, so that the next Apply puts right all that differs, and nothing else. It returns
	// the host ports that are in force.
	Read(ctx context.Context) (map[string][]HostPort, error)
	// Apply makes the kernel hold what is wanted, all at once for a packet, and says how many bytes it took.
	Apply(ctx context.Context) (int, error)
	// Intact looks, cheaply, whether somebody else changed what Apply wrote.
	Intact(ctx context.Context) (bool, error)
	// Remove takes all rules of this back end out of the kernel.
	Remove(ctx context.Context) error
}

// beside is a native back end that needs a few rules in iptables: what another program's rules there drop, one of ours in
// another table cannot save. Docker's policy for FORWARD is DROP.
type beside struct {
	Backend
	pass *tables
}

// Read implements Backend. Host ports of an iptables back end that was here before count as well.
func (b *beside) Read(ctx context.Context) (map[string][]HostPort, error) {
	found, err := b.Backend.Read(ctx)
	if err != nil {
		return nil, err
	}
	before, err := b.pass.Read(ctx)
	if err != nil {
		return nil, err
	}
	maps.Copy(before, found)
	return before, nil
}

// Apply implements Backend: the new rules are in force before old ones are taken away.
func (b *beside) Apply(ctx context.Context) (int, error) {
	n, err := b.Backend.Apply(ctx)
	if err != nil {
		return n, err
	}
	more, err := b.pass.Apply(ctx)
	return n + more, err
}

// Intact implements Backend.
func (b *beside) Intact(ctx context.Context) (bool, error) {
	if ok, err := b.Backend.Intact(ctx); !ok || err != nil {
		return ok, err
	}
	return b.pass.Intact(ctx)
}

// Remove implements Backend.
func (b *beside) Remove(ctx context.Context) error {
	if err := b.Backend.Remove(ctx); err != nil {
		return err
	}
	return b.pass.Remove(ctx)
}

// after is the iptables back end where a native one may have been before.
type after struct {
	*tables
	former Backend // nil once its rules are gone
}

// Read implements Backend.
func (a *after) Read(ctx context.Context) (map[string][]HostPort, error) {
	found, err := a.tables.Read(ctx)
	if err != nil || a.former == nil {
		return found, err
	}
	before, err := a.former.Read(ctx)
	if err != nil {
		before = map[string][]HostPort{} // a kernel that knows nothing of it has nothing of it
	}
	maps.Copy(before, found)
	return before, nil
}

// Apply implements Backend.
func (a *after) Apply(ctx context.Context) (int, error) {
	n, err := a.tables.Apply(ctx)
	if err == nil && a.former != nil {
		if err := a.former.Remove(ctx); err != nil {
			return n, fmt.Errorf("take the former rules away: %w", err)
		}
		a.former = nil
	}
	return n, err
}

// Remove implements Backend.
func (a *after) Remove(ctx context.Context) error {
	if a.former != nil {
		if err := a.former.Remove(ctx); err != nil {
			return err
		}
	}
	return a.tables.Remove(ctx)
}

// backend is what Config asks for.
func (c *Config) backend() Backend {
	switch {
	case c.Native == nil:
		return newTables(c, false)
	case c.Former:
		return &after{newTables(c, false), c.Native}
	case c.Applier == nil:
		return c.Native
	}
	return &beside{c.Native, newTables(c, true)}
}
