package node

import (
	"context"
	"time"

	"github.com/whalepod/whalepod/node/pods"
)

const (
	// podPatience is how long a node that starts waits for its pods before it takes part in the gossip.
	podPatience = 10 * time.Second
	podLook     = 100 * time.Millisecond
)

// rejoin takes part in the gossip once others may count on this node again: whom gossip calls alive gets requests, and after
// a reboot, which the others may have noticed or not, its pods are not there yet.
func (a *Agent) rejoin(ctx context.Context, p *dataPlane, manager *pods.Manager) error {
	began := time.Now()
	if !awaitPods(ctx, manager.Looked, a.outbox.Stored) {
		a.log.Warn("not all pods are as they were; other nodes are told that this one is there", "waited", time.Since(began))
	}
	if ctx.Err() != nil {
		return nil
	}
	close(p.gossips)
	return p.members.Run(ctx)
}

// awaitPods waits until all pods were looked at, and those that were ready are so again, or else the master has stored how
// they are now. It returns false if that takes too long: without a master, or without the container engine.
func awaitPods(ctx context.Context, looked func() (all, asBefore bool), stored func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, podPatience)
	defer cancel()
	tick := time.NewTicker(podLook)
	defer tick.Stop()
	for {
		if all, asBefore := looked(); asBefore || all && stored() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
