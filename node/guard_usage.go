package node

import (
	"context"
	"time"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/pressure/meter"
	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// Measuring a pod's files may take one part in so many of the time: a pod with a million files is not looked at every ten
	// seconds. But no less often than sizingMost.
	sizingShare = 500
	sizingMost  = 5 * time.Minute
)

// enforceLimits evicts pods that use more of the disk than they may. Only those with limits are measured. It tells whether any
// had to go.
func (g *guard) enforceLimits(ctx context.Context, now time.Time, p guarded) (any bool) {
	if p == nil {
		return false
	}
	known := map[string]bool{}
	containers := map[string]bool{}
	for _, a := range p.Active() {
		uid := string(a.Pod.UID)
		containers[a.SandboxID] = true
		for _, c := range a.Running {
			containers[c.ID] = true
		}
		if !pressure.Limited(a.Pod) || ctx.Err() != nil {
			continue
		}
		known[uid] = true
		if now.Before(g.sizes[uid]) {
			continue
		}
		began := time.Now()
		u, err := g.sizeOf(ctx, &a)
		took := time.Since(began)
		g.sizes[uid] = began.Add(min(max(took*sizingShare, guardEvery-guardClosely), sizingMost))
		if err != nil {
			g.log.Debug("a pod's files could not be measured", "pod", a.Pod.Namespace+"/"+a.Pod.Name, "err", err)
			continue
		}
		message := pressure.Exceeds(a.Pod, u)
		if message == "" || pressure.Critical(a.Pod) || !p.Evict(uid, pods.Eviction{Message: message, Grace: evictionGrace}) {
			continue
		}
		g.log.Warn("pod evicted", "pod", a.Pod.Namespace+"/"+a.Pod.Name, "message", message)
		g.awaitCleared(ctx, p, uid)
		any = true
	}
	for uid := range g.sizes {
		if !known[uid] {
			delete(g.sizes, uid)
		}
	}
	g.cfg.Gauges.Keep(containers)
	return any
}

// candidates for eviction, with what the signal asks for measured.
func (g *guard) candidates(ctx context.Context, p guarded, signal pressure.Signal) []pressure.Candidate {
	active := p.Active()
	out := make([]pressure.Candidate, 0, len(active))
	for i := range active {
		a := &active[i]
		c := pressure.Candidate{Pod: a.Pod}
		switch {
		case a.SandboxPID == 0 && len(a.Running) == 0: // it has nothing that could be freed
			continue
		case signal.Disk():
			if u, err := g.sizeOf(ctx, a); err == nil {
				c.Usage = u
			}
		default:
			c.Usage = g.workingSet(a)
		}
		out = append(out, c)
	}
	return out
}

// container for the gauges.
func container(a *pods.Active, c pods.Process) meter.Container {
	return meter.Container{ID: c.ID, PID: c.PID, SandboxID: a.SandboxID, SandboxPID: a.SandboxPID}
}

// workingSet is memory and processes of a pod; nil when none of its containers could be measured.
func (g *guard) workingSet(a *pods.Active) *pressure.Usage {
	u := &pressure.Usage{}
	measured := false
	add := func(c meter.Container) (memory int64) {
		memory, err := g.cfg.Gauges.WorkingSet(c)
		if err != nil {
			return 0
		}
		measured = true
		u.Memory += memory
		if n, err := g.cfg.Gauges.Processes(c); err == nil {
			u.Processes += n
		}
		return memory
	}
	if a.SandboxPID != 0 {
		add(meter.Container{ID: a.SandboxID, PID: a.SandboxPID})
	}
	for _, c := range a.Running {
		u.Containers = append(u.Containers, pressure.ContainerUsage{Name: c.Name, Memory: add(container(a, c))})
	}
	if !measured {
		return nil
	}
	return u
}

// sizeOf a pod on disk: its emptyDirs, and what its running containers wrote into their own file systems and logs.
func (g *guard) sizeOf(ctx context.Context, a *pods.Active) (*pressure.Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, sizingTimeout)
	defer cancel()
	u := &pressure.Usage{}
	for name, dir := range a.EmptyDirs {
		s, err := g.cfg.Gauges.Tree(ctx, dir)
		if err != nil {
			return nil, err
		}
		u.Volumes = append(u.Volumes, pressure.VolumeUsage{Name: name, Size: s})
	}
	for _, c := range a.Running {
		layer, err := g.layer(ctx, container(a, c))
		if err != nil {
			return nil, err
		}
		logs, err := g.cfg.Gauges.Logs(ctx, g.rootDir(), c.ID)
		if err != nil {
			return nil, err
		}
		u.Containers = append(u.Containers, pressure.ContainerUsage{Name: c.Name, Rootfs: layer, Logs: logs})
	}
	return u, nil
}

// layer that a container writes to. On storage drivers without a directory for it, the engine has to be asked.
func (g *guard) layer(ctx context.Context, c meter.Container) (pressure.Size, error) {
	size, err := g.cfg.Gauges.Layer(ctx, c)
	if !meter.ErrNoLayer(err) {
		return size, err
	}
	keeper, ok := g.cfg.Engine.(runtime.Housekeeper)
	if !ok {
		return size, err
	}
	bytes, err := keeper.LayerSize(ctx, c.ID)
	return pressure.Size{Bytes: bytes}, err
}
