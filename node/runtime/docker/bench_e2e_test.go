//go:build e2e

package docker

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/whalepod/whalepod/node/runtime"
)

// BenchmarkPods starts pods (pause and one app container) through Engine, and the same containers by raw calls of
// Docker's API, in turns on one daemon. The two figures should be the same: what Engine adds is no call but one
// inspection for the sandbox's PID.
//
//	go test -tags e2e -run '^$' -bench Pods -benchtime 20x ./node/runtime/docker
func BenchmarkPods(b *testing.B) {
	d := startDockerd(b)
	e, cli := d.engine(b, "n1"), d.client(b)
	defer cli.Close()
	// Both learn what they have to before the clock runs.
	first, err := podThroughEngine(b.Context(), e, "warm")
	if err != nil {
		b.Fatal(err)
	}
	removeAll(b, cli, first)
	for _, width := range []int{1, 4} {
		b.Run(fmt.Sprintf("raw/%d", width), func(b *testing.B) {
			benchPods(b, cli, width, func(name string) ([]string, error) { return podThroughAPI(b.Context(), cli, e, name) })
		})
		b.Run(fmt.Sprintf("engine/%d", width), func(b *testing.B) {
			benchPods(b, cli, width, func(name string) ([]string, error) { return podThroughEngine(b.Context(), e, name) })
		})
	}
}

func benchPods(b *testing.B, cli *client.Client, width int, start func(name string) ([]string, error)) {
	var mu sync.Mutex
	var ids []string
	var wait sync.WaitGroup
	next := make(chan int)
	b.ResetTimer()
	for range width {
		wait.Go(func() {
			for i := range next {
				made, err := start(fmt.Sprintf("%d-%d-%d", width, b.N, i))
				if err != nil {
					b.Error(err)
				}
				mu.Lock()
				ids = append(ids, made...)
				mu.Unlock()
			}
		})
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	wait.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
	removeAll(b, cli, ids)
}

func benchSpecs(name string) (runtime.SandboxSpec, runtime.ContainerSpec) {
	p := runtime.PodRef{Namespace: "default", Name: name, UID: name}
	return runtime.SandboxSpec{Pod: p, Hostname: name},
		runtime.ContainerSpec{Pod: p, Name: "app", Image: testImage, Command: []string{"sleep", "1000"}}
}

func podThroughEngine(ctx context.Context, e *Engine, name string) ([]string, error) {
	sandbox, app := benchSpecs("engine-" + name)
	s, err := e.RunSandbox(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	app.SandboxID = s.ID
	id, err := e.CreateContainer(ctx, app)
	if err != nil {
		return []string{s.ID}, err
	}
	return []string{id, s.ID}, e.StartContainer(ctx, id)
}

// podThroughAPI makes exactly the containers that the engine would.
func podThroughAPI(ctx context.Context, cli *client.Client, e *Engine, name string) ([]string, error) {
	sandbox, app := benchSpecs("raw-" + name)
	f, err := e.features(ctx)
	if err != nil {
		return nil, err
	}
	cfg, host := sandboxRequest("n1", sandbox, f)
	if _, allowed := e.knownOOM(); !allowed {
		host.OomScoreAdj = 0
	}
	s, err := cli.ContainerCreate(ctx, cfg, host, nil, nil, cfg.Hostname+"-pause")
	if err == nil {
		err = cli.ContainerStart(ctx, s.ID, container.StartOptions{})
	}
	if err != nil {
		return nil, err
	}
	app.SandboxID = s.ID
	cfg, host, err = containerRequest("n1", app, f)
	if err != nil {
		return nil, err
	}
	c, err := cli.ContainerCreate(ctx, cfg, host, nil, nil, app.Pod.Name+"-app")
	if err != nil {
		return []string{s.ID}, err
	}
	return []string{c.ID, s.ID}, cli.ContainerStart(ctx, c.ID, container.StartOptions{})
}

func removeAll(b *testing.B, cli *client.Client, ids []string) {
	for _, id := range ids {
		if err := cli.ContainerRemove(context.Background(), id, container.RemoveOptions{Force: true}); err != nil {
			b.Error(err)
		}
	}
}
