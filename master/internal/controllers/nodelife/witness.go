package nodelife

import (
	"context"
	"time"
)

// Sessions are the connections of agents; the session server has them.
type Sessions interface {
	// Alive says which nodes have a session that has been heard of lately.
	Alive() map[string]bool
	// Heard is when a node was last heard of; zero if it has had no session yet.
	Heard(node string) time.Time
	// Changed is poked when that may have changed.
	Changed() <-chan struct{}
}

// Gossip is what the machines tell of one another.
type Gossip interface {
	// States says of each machine it has heard of whether it is alive. One that left in order is not in the map.
	States() map[string]bool
	// Changed is poked when that has changed.
	Changed() <-chan struct{}
}

// recheck bounds how long a session that falls silent without an end goes unnoticed.
const recheck = 2 * time.Second

// listen keeps what the witnesses say and queues the nodes of which they say something new.
func (c *Controller) listen(ctx context.Context) {
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.cfg.Sessions.Changed():
		case <-c.cfg.Gossip.Changed():
		case <-tick.C:
		}
		for _, name := range c.hear(time.Now()) {
			c.loop.Add(keyOf(name))
		}
	}
}

// hear takes in the witnesses' words and returns the names of whom they have changed.
func (c *Controller) hear(now time.Time) (changed []string) {
	alive, states := c.cfg.Sessions.Alive(), c.cfg.Gossip.States()
	c.mu.Lock()
	defer c.mu.Unlock()
	note := func(name string) {
		old, had := c.witnesses[name]
		w := witness{session: alive[name], goneSince: old.goneSince}
		w.alive, w.known = states[name]
		switch {
		case w.session:
			w.goneSince = time.Time{}
		case old.session || !had:
			if w.goneSince = c.cfg.Sessions.Heard(name); w.goneSince.IsZero() {
				w.goneSince = now
			}
		}
		if !had || w != old {
			c.witnesses[name] = w
			changed = append(changed, name)
		}
	}
	for name := range c.witnesses {
		note(name)
	}
	for _, m := range []map[string]bool{alive, states} {
		for name := range m {
			if _, had := c.witnesses[name]; !had {
				note(name)
			}
		}
	}
	return changed
}

// witness returns what is known of a node; of one never heard of, that its session is gone since now.
func (c *Controller) witness(name string, now time.Time) witness {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, had := c.witnesses[name]
	if !had {
		w = witness{goneSince: now}
		c.witnesses[name] = w
	}
	return w
}

func (c *Controller) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.witnesses, name)
	delete(c.said, name)
}
