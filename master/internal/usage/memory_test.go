package usage

import (
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

func sample(cpu, memory uint64) *agentv1.Sample {
	return &agentv1.Sample{CpuNanos: cpu, Memory: memory, WindowMillis: 15000}
}

func podUsage(uid string, samples ...*agentv1.Sample) *agentv1.PodUsage {
	p := &agentv1.PodUsage{Namespace: "default", Name: "p-" + uid, Uid: uid}
	for i, s := range samples {
		p.Containers = append(p.Containers, &agentv1.ContainerUsage{Name: string(rune('a' + i)), Sample: s})
	}
	return p
}

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		if _, ok := m.Node("n1"); ok {
			t.Error("a node that said nothing")
		}
		at := time.Now().Add(-time.Second)
		m.Report("n1", &agentv1.Usage{UnixNano: at.UnixNano(), Node: sample(5, 6), Pods: []*agentv1.PodUsage{podUsage("1", sample(1, 2), sample(3, 1<<63)), podUsage("2", nil)}})
		p, ok := m.Pod("n1", "1")
		if !ok || len(p.Containers) != 2 || p.Containers[0] != (Container{"a", Figures{1, 2}}) || p.Window != 15*time.Second || !p.Time.Equal(at) {
			t.Errorf("%+v %v", p, ok)
		}
		if sum := p.Containers[1].Memory; sum <= 0 || sum*100 < 0 {
			t.Errorf("%d bytes", sum)
		}
		if _, ok := m.Pod("n1", "2"); ok {
			t.Error("a container without figures")
		}
		if _, ok := m.Pod("n2", "1"); ok {
			t.Error("another node speaks of this pod")
		}
		m.Report("n1", &agentv1.Usage{Partial: true, Pods: []*agentv1.PodUsage{podUsage("3", sample(1, 1))}})
		for _, uid := range []string{"1", "3"} {
			if _, ok := m.Pod("n1", uid); !ok {
				t.Error(uid, "is missing after a partial report")
			}
		}
		m.Report("n1", &agentv1.Usage{Pods: []*agentv1.PodUsage{podUsage("3", sample(1, 1))}})
		if _, ok := m.Pod("n1", "1"); ok {
			t.Error("a pod that is not in a whole report")
		}
		if n, ok := m.Node("n1"); !ok || n.CPU != 5 || n.Memory != 6 {
			t.Errorf("the node's figures: %+v %v", n, ok)
		}
		time.Sleep(goodFor + time.Second)
		if _, ok := m.Node("n1"); ok {
			t.Error("old figures of a node")
		}
		if _, ok := m.Pod("n1", "3"); ok {
			t.Error("old figures of a pod")
		}
		time.Sleep(goodFor)
		m.Report("n2", &agentv1.Usage{Node: sample(1, 1)})
		if len(m.nodes) != 1 {
			t.Errorf("%d nodes remembered", len(m.nodes))
		}
	})
}
