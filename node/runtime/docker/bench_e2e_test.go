//go:build e2e

package docker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/whalepod/whalepod/node/runtime"
)

// BenchmarkPods starts pods (pause and one app container) through Engine and the same containers by raw calls of
// Docker's API, in turns on one daemon, so that both see the same machine. The two figures should be the same: Engine
// adds one inspection, for the sandbox's PID.
//
//	go test -tags e2e -run '^$' -bench Pods -benchtime 20x ./node/runtime/docker
func BenchmarkPods(b *testing.B) {
	d := startDockerd(b)
	e, cli := d.engine(b, "n1"), d.client(b)
	defer cli.Close()
	// What is learned and imported once is not counted.
	first, err := podThroughEngine(b.Context(), e, "first")
	removeAll(b, cli, first)
	if err != nil {
		b.Fatal(err)
	}
	ways := []func(name string) ([]string, error){
		func(name string) ([]string, error) { return podThroughAPI(b.Context(), cli, e, name) },
		func(name string) ([]string, error) { return podThroughEngine(b.Context(), e, name) },
	}
	for _, width := range []int{1, 4} {
		b.Run(fmt.Sprintf("workers=%d", width), func(b *testing.B) {
			var took [2]time.Duration
			for i := range 2 * b.N / width {
				way := i % 2
				if i/2%2 == 1 {
					way = 1 - way // who comes second finds warm caches
				}
				took[way] += batch(b, cli, width, func(n int) ([]string, error) {
					return ways[way](fmt.Sprintf("%d-%d-%d-%d", width, b.N, i, n))
				})
			}
			pods := float64(b.N / width * width)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(pods/took[0].Seconds(), "raw-pods/s")
			b.ReportMetric(pods/took[1].Seconds(), "engine-pods/s")
		})
	}
}

// batch starts pods at the same time, and removes them when the clock has stopped.
func batch(b *testing.B, cli *client.Client, width int, start func(n int) ([]string, error)) time.Duration {
	made := make([][]string, width)
	var wait sync.WaitGroup
	began := time.Now()
	for n := range width {
		wait.Go(func() {
			var err error
			if made[n], err = start(n); err != nil {
				b.Error(err)
			}
		})
	}
	wait.Wait()
	took := time.Since(began)
	for _, ids := range made {
		removeAll(b, cli, ids)
	}
	return took
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
