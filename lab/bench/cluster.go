package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/whalepod/whalepod/lab"
)

const (
	manifest = "examples/app-wordpress3.yml"
	page     = "30080"
	// settle and watched: how long the lab is left alone, and watched.
	settle, watched = 60 * time.Second, 30 * time.Second
)

// manyPods are the numbers of pods with which one node is measured.
var manyPods = []int{30, 100}

// cluster measures a lab of three nodes: empty, idle with WordPress on it, and one of
// them with many pods.
func (b *bench) cluster(ctx context.Context) error {
	l, err := lab.New(lab.Config{Dir: filepath.Join(b.dir, "lab"), Bin: b.bin, Prefix: "wpb-", Images: b.images, Log: func(s lab.Step) {
		if s.Done && s.Err == nil {
			fmt.Printf("   %s %s (%s)\n", s.Name, s.Note, s.Took.Round(100*time.Millisecond))
		}
	}})
	if err != nil {
		return err
	}
	defer func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			fmt.Println("   the lab cannot be removed:", err)
		}
	}()
	if err := l.Up(ctx, 0); err != nil {
		return err
	}
	wait(ctx, settle)
	m, err := resident(l.Node(2).PID("agent"))
	if err != nil {
		return err
	}
	b.hold("wp-agent without pods: memory", m.rss, "MB", atMost(24, "MB"), m.String())
	if _, err := l.Wpctl(ctx, "apply", "-f", manifest); err != nil {
		return err
	}
	if err := waitPage(ctx, l); err != nil {
		return err
	}
	wait(ctx, settle)
	if err := b.idle(ctx, l); err != nil {
		return err
	}
	return b.manyPods(ctx, l)
}

// waitPage waits until WordPress answers on the first node.
func waitPage(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c := l.HTTPClient(10 * time.Second)
	defer c.CloseIdleConnections()
	url := "http://" + net.JoinHostPort(l.Node(1).Address.String(), page) + "/"
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := c.Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode < http.StatusInternalServerError {
				return nil
			}
			err = fmt.Errorf("%s answers %s", url, res.Status)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("no page: %w", err)
		}
		wait(ctx, 250*time.Millisecond)
	}
}

// idle reads memory and processor time of master and agents.
func (b *bench) idle(ctx context.Context, l *lab.Lab) error {
	pids := []int{l.Node(1).PID("master")}
	for _, n := range l.Nodes() {
		pids = append(pids, n.PID("agent"))
	}
	used, err := load(ctx, watched, pids...)
	if err != nil {
		return err
	}
	cpu := atMost(0.3, "% of a core")
	var most memory
	var mostCPU float64
	for i, pid := range pids {
		m, err := resident(pid)
		if err != nil {
			return err
		}
		if i == 0 {
			b.hold("wp-master, 60 s after WordPress came up: memory", m.rss, "MB", atMost(48, "MB"), m.String())
			b.hold("wp-master: processor", used[i], "% of a core", cpu)
			continue
		}
		if m.rss > most.rss {
			most = m
		}
		mostCPU = max(mostCPU, used[i])
	}
	b.hold("wp-agent, the largest of three: memory", most.rss, "MB", atMost(24, "MB"), most.String())
	b.hold("wp-agent, the busiest of three: processor", mostCPU, "% of a core", cpu)
	return nil
}

// manyPods gives the last node many pods more, measures how fast they come, and what the
// agent needs for them.
func (b *bench) manyPods(ctx context.Context, l *lab.Lab) error {
	n := l.Node(len(l.Nodes()))
	file := filepath.Join(b.dir, "many.json")
	text, err := json.Marshal(deployment(n.Name))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	if err := n.Pull(ctx, "busybox:latest"); err != nil {
		return err
	}
	if _, err := l.Wpctl(ctx, "apply", "-f", file); err != nil {
		return err
	}
	have := 0
	for _, pods := range manyPods {
		began := time.Now()
		if _, err := l.Wpctl(ctx, "scale", "deployment/many", fmt.Sprintf("--replicas=%d", pods)); err != nil {
			return err
		}
		if _, err := l.Wpctl(ctx, "rollout", "status", "deployment/many", "--timeout=5m"); err != nil {
			return err
		}
		b.add(fmt.Sprintf("from %d to %d pods on one node, from asking to the last one ready", have, pods), "%.1f pods/s", float64(pods-have)/time.Since(began).Seconds())
		have = pods
		wait(ctx, quiet)
		pid := n.PID("agent")
		used, err := load(ctx, watched, pid)
		if err != nil {
			return err
		}
		m, err := resident(pid)
		if err != nil {
			return err
		}
		b.hold(fmt.Sprintf("wp-agent with %d pods: memory", pods), m.rss, "MB", atMost(32, "MB"), m.String())
		b.hold(fmt.Sprintf("wp-agent with %d pods: processor", pods), used[0], "% of a core", atMost(0.3, "% of a core"))
	}
	return nil
}

// deployment of pods that sleep, all on one node; none at first.
func deployment(node string) any {
	type m = map[string]any
	labels := m{"app": "many"}
	return m{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": m{"name": "many"}, "spec": m{
		"replicas": 0, "selector": m{"matchLabels": labels},
		"template": m{"metadata": m{"labels": labels}, "spec": m{
			"nodeSelector": m{"kubernetes.io/hostname": node}, "terminationGracePeriodSeconds": 1,
			"containers": []m{{"name": "sleep", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": []string{"sleep", "100000"}}},
		}},
	}}
}
