package node

import (
	"context"
	"errors"
	"maps"
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
	// sizingTimeout bounds measuring one pod's files, rankingTimeout those of all.
	sizingTimeout, rankingTimeout = time.Minute, 2 * time.Minute
)

// enforceLimits evicts pods that use more of the disk than they may, until ctx ends. It has a goroutine of its own: measuring
// files can take long, and memory does not wait.
func (g *guard) enforceLimits(ctx context.Context) {
	due := map[string]time.Time{} // by UID: when the pod's files are to be measured again
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if p := g.manager(); p != nil {
			g.checkLimits(ctx, p, due)
		}
	}
}

// checkLimits of the pods that have some and are due.
func (g *guard) checkLimits(ctx context.Context, p guarded, due map[string]time.Time) {
	known, containers := map[string]bool{}, map[string]bool{}
	for _, a := range p.Active() {
		containers[a.SandboxID] = true
		for _, c := range a.Running {
			containers[c.ID] = true
		}
		uid := string(a.Pod.UID)
		if !pressure.Limited(a.Pod) {
			continue
		}
		known[uid] = true
		if began := time.Now(); !began.Before(due[uid]) && ctx.Err() == nil {
			g.checkLimit(ctx, p, &a)
			due[uid] = began.Add(min(max(time.Since(began)*sizingShare, guardEvery/2), sizingMost))
		}
	}
	maps.DeleteFunc(due, func(uid string, _ time.Time) bool { return !known[uid] })
	g.cfg.Gauges.Keep(containers)
}

func (g *guard) checkLimit(ctx context.Context, p guarded, a *pods.Active) {
	u := g.sizeOf(ctx, a)
	message := pressure.Exceeds(a.Pod, u)
	if message == "" || pressure.Critical(a.Pod) || ctx.Err() != nil {
		return
	}
	if p.Evict(string(a.Pod.UID), pods.Eviction{Message: message, Grace: evictionGrace}) {
		g.log.Warn("pod evicted", "pod", a.Pod.Namespace+"/"+a.Pod.Name, "message", message)
	}
}

// candidates for eviction, with what the signal asks for measured.
func (g *guard) candidates(ctx context.Context, p guarded, signal pressure.Signal) []pressure.Candidate {
	ctx, cancel := context.WithTimeout(ctx, rankingTimeout)
	defer cancel()
	active := p.Active()
	out := make([]pressure.Candidate, 0, len(active))
	for i := range active {
		a := &active[i]
		if a.SandboxPID == 0 && len(a.Running) == 0 { // it has nothing that could be freed
			continue
		}
		c := pressure.Candidate{Pod: a.Pod}
		if signal.Disk() {
			c.Usage = g.sizeOf(ctx, a)
		} else {
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

// sizeOf a pod on disk: its emptyDirs, and what its running containers wrote into their own file systems and logs. What cannot
// be measured (a container that has just ended) or not in time counts as far as it was.
func (g *guard) sizeOf(ctx context.Context, a *pods.Active) *pressure.Usage {
	ctx, cancel := context.WithTimeout(ctx, sizingTimeout)
	defer cancel()
	note := func(s pressure.Size, err error) pressure.Size {
		if err != nil {
			g.log.Debug("a pod's files could not be measured", "pod", a.Pod.Namespace+"/"+a.Pod.Name, "err", err)
		}
		return s
	}
	u := &pressure.Usage{}
	for name, dir := range a.EmptyDirs {
		u.Volumes = append(u.Volumes, pressure.VolumeUsage{Name: name, Size: note(g.cfg.Gauges.Tree(ctx, dir))})
	}
	for _, c := range a.Running {
		u.Containers = append(u.Containers, pressure.ContainerUsage{
			Name: c.Name, Rootfs: note(g.layer(ctx, container(a, c))), Logs: note(g.cfg.Gauges.Logs(ctx, g.rootDir(), c.ID)),
		})
	}
	return u
}

// layer that a container writes to. On storage drivers without a directory for it, the engine has to be asked.
func (g *guard) layer(ctx context.Context, c meter.Container) (pressure.Size, error) {
	size, err := g.cfg.Gauges.Layer(ctx, c)
	if !errors.Is(err, meter.ErrNoLayer) {
		return size, err
	}
	keeper, ok := g.cfg.Engine.(runtime.Housekeeper)
	if !ok {
		return size, err
	}
	bytes, err := keeper.LayerSize(ctx, c.ID)
	return pressure.Size{Bytes: bytes}, err
}
