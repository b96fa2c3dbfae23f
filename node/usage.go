package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure/meter"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	// usageSoon is how often containers that are new are measured, so that their pods need not wait long for figures;
	// everything is measured every usageTurns times, which is metrics-server's 15 s.
	usageSoon, usageTurns = 5 * time.Second, 3
	// usageShortest window that a rate is told of. The kernel counts in ticks of up to 10 ms.
	usageShortest = time.Second
)

// usageMeter is what usage is measured with; meter.Meter is it.
type usageMeter interface {
	Use(c meter.Container, b *meter.Buffer) (meter.Use, error)
	Machine(b *meter.Buffer) (meter.Use, error)
}

// usageReport tells the master what the node and its containers use: of the processor a rate since the measurement before, of
// memory the present working set. Nothing is asked of the engine.
type usageReport struct {
	meter usageMeter
	// running calls with each pod that has containers that run.
	running func(func(pods.Active))
	tell    func(*agentv1.Usage)
	log     *slog.Logger

	buffer  meter.Buffer
	machine measured
	// containers by ID.
	containers map[string]*measured
	turn       uint32
}

// measured is the last measurement of something.
type measured struct {
	at    time.Time
	cpu   time.Duration
	rated bool   // a rate has been told
	turn  uint32 // when it was looked at last
}

// rate since the measurement before, which this one replaces; false without one.
func (m *measured) rate(now time.Time, u meter.Use) (*agentv1.Sample, bool) {
	window, used := now.Sub(m.at), u.CPU-m.cpu
	first := m.at.IsZero() || used < 0
	if !first && window < usageShortest {
		return nil, false
	}
	m.at, m.cpu = now, u.CPU
	if first {
		m.rated = false
		return nil, false
	}
	m.rated = true
	return &agentv1.Sample{
		CpuNanos: uint64(float64(used) / window.Seconds()), Memory: uint64(u.Memory), WindowMillis: uint32(window.Milliseconds()),
	}, true
}

// run until ctx ends.
func (r *usageReport) run(ctx context.Context) error {
	r.containers = map[string]*measured{}
	tick := time.NewTicker(usageSoon)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		if u := r.look(time.Now(), turn%usageTurns == 0); u != nil {
			r.tell(u)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look at everything, or only at what has not been told of yet. nil when there is nothing to tell.
func (r *usageReport) look(now time.Time, everything bool) *agentv1.Usage {
	r.turn++
	u := &agentv1.Usage{UnixNano: now.UnixNano(), Partial: !everything}
	if everything || !r.machine.rated {
		u.Node = r.lookAtMachine(now)
	}
	r.running(func(a pods.Active) {
		if p := r.lookAt(now, &a, everything); p != nil {
			u.Pods = append(u.Pods, p)
		}
	})
	if everything {
		for id, m := range r.containers {
			if m.turn != r.turn {
				delete(r.containers, id)
			}
		}
	}
	if !everything && u.Node == nil && len(u.Pods) == 0 {
		return nil
	}
	return u
}

func (r *usageReport) lookAtMachine(now time.Time) *agentv1.Sample {
	use, err := r.meter.Machine(&r.buffer)
	if err != nil {
		r.log.Debug("the node's usage is unknown", "err", err)
		return nil
	}
	s, _ := r.machine.rate(now, use)
	return s
}

// lookAt one pod; nil while the usage of one of its containers is not known, since a sum of the others would be wrong.
func (r *usageReport) lookAt(now time.Time, a *pods.Active, everything bool) *agentv1.PodUsage {
	if !everything && !r.anyNew(a) {
		return nil
	}
	p := &agentv1.PodUsage{Namespace: a.Pod.Namespace, Name: a.Pod.Name, Uid: string(a.Pod.UID), Containers: make([]*agentv1.ContainerUsage, 0, len(a.Running))}
	whole := true
	for _, c := range a.Running {
		use, err := r.meter.Use(container(a, c), &r.buffer)
		if err != nil {
			r.log.Debug("a container's usage is unknown", "pod", a.Pod.Namespace+"/"+a.Pod.Name, "container", c.Name, "err", err)
			whole = false
			continue
		}
		m := r.containers[c.ID]
		if m == nil {
			m = &measured{}
			r.containers[c.ID] = m
		}
		m.turn = r.turn
		s, ok := m.rate(now, use)
		whole = whole && ok
		p.Containers = append(p.Containers, &agentv1.ContainerUsage{Name: c.Name, Sample: s})
	}
	if !whole {
		return nil
	}
	return p
}

// anyNew says whether a container of the pod has not been told of yet.
func (r *usageReport) anyNew(a *pods.Active) bool {
	for _, c := range a.Running {
		if m := r.containers[c.ID]; m == nil || !m.rated {
			return true
		}
	}
	return false
}

// measure these pods from now on.
func (a *Agent) measure(m *pods.Manager) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods = m
}

// running calls each with the pods to be measured.
func (a *Agent) running(each func(pods.Active)) {
	a.mu.Lock()
	m := a.pods
	a.mu.Unlock()
	if m != nil {
		m.Processes(each)
	}
}
