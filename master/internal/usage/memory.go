package usage

import (
	"math"
	"sync"
	"time"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// goodFor is how long figures are told after they came. Agents tell them every 15 s; one report may be lost.
const goodFor = 40 * time.Second

// Figures of a node, or of a container.
type Figures struct {
	// CPU in billionths of a processor, on average over the window.
	CPU int64
	// Memory is the working set in bytes.
	Memory int64
}

// Container of a pod.
type Container struct {
	Name string
	Figures
}

// Pod is what one pod used.
type Pod struct {
	// Time of the measurement, by the clock of its node, and the window before it. They are compared with the times in the
	// pod's status, which are by that clock too.
	Time       time.Time
	Window     time.Duration
	Containers []Container
}

// Node is what one node used.
type Node struct {
	Time   time.Time
	Window time.Duration
	Figures
}

// Memory of all nodes' last figures. Safe for concurrent use.
type Memory struct {
	mu    sync.RWMutex
	nodes map[string]*node
}

type node struct {
	own     Node
	ownCame time.Time
	// pods by UID: nothing but what this node said of itself and of its pods.
	pods map[string]pod
}

type pod struct {
	Pod
	came time.Time // by the master's clock
}

// NewMemory makes an empty one.
func NewMemory() *Memory { return &Memory{nodes: map[string]*node{}} }

// Report takes what a node says.
func (m *Memory) Report(name string, u *agentv1.Usage) {
	now := time.Now()
	at := time.Unix(0, u.GetUnixNano())
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[name]
	if n == nil {
		n = &node{pods: map[string]pod{}}
		m.nodes[name] = n
	}
	if s := u.GetNode(); s != nil {
		n.own, n.ownCame = Node{Time: at, Window: windowOf(s), Figures: figuresOf(s)}, now
	}
	old := n.pods
	if !u.GetPartial() {
		n.pods = make(map[string]pod, len(u.GetPods()))
		m.forgetSilent(now)
	}
	for _, p := range u.GetPods() {
		if read, ok := podOf(p, at, old[p.GetUid()].Containers); ok {
			n.pods[p.GetUid()] = pod{Pod: read, came: now}
		}
	}
}

// forgetSilent forgets nodes that have said nothing for long: they were taken away, or will say everything again.
func (m *Memory) forgetSilent(now time.Time) {
	for name, n := range m.nodes {
		last := n.ownCame
		for _, p := range n.pods {
			if p.came.After(last) {
				last = p.came
			}
		}
		if !last.IsZero() && now.Sub(last) > 2*goodFor {
			delete(m.nodes, name)
		}
	}
}

// podOf reads a pod's figures; false when one of its containers has none. Names come from before where they are the same, so
// that each is in memory once.
func podOf(p *agentv1.PodUsage, at time.Time, before []Container) (Pod, bool) {
	out := Pod{Time: at, Containers: make([]Container, 0, len(p.GetContainers()))}
	for i, c := range p.GetContainers() {
		s := c.GetSample()
		if s == nil {
			return out, false
		}
		if w := windowOf(s); out.Window == 0 || w < out.Window {
			out.Window = w
		}
		name := c.GetName()
		if i < len(before) && before[i].Name == name {
			name = before[i].Name
		}
		out.Containers = append(out.Containers, Container{Name: name, Figures: figuresOf(s)})
	}
	return out, len(out.Containers) > 0
}

func windowOf(s *agentv1.Sample) time.Duration {
	return time.Duration(s.GetWindowMillis()) * time.Millisecond
}

// most is as much as sums of many containers' figures can hold.
const most = math.MaxInt64 / (1 << 16)

func figuresOf(s *agentv1.Sample) Figures {
	return Figures{CPU: int64(min(s.GetCpuNanos(), most)), Memory: int64(min(s.GetMemory(), most))}
}

// Node tells what a node used last; false when that is not known.
func (m *Memory) Node(name string) (Node, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.nodes[name]
	if n == nil || n.ownCame.IsZero() || time.Since(n.ownCame) > goodFor {
		return Node{}, false
	}
	return n.own, true
}

// Pod tells what a pod of a node used last; false when that is not known. The containers must not be changed.
func (m *Memory) Pod(nodeName, uid string) (Pod, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.nodes[nodeName]
	if n == nil {
		return Pod{}, false
	}
	p, ok := n.pods[uid]
	if !ok || time.Since(p.came) > goodFor {
		return Pod{}, false
	}
	return p.Pod, true
}
