package docker

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/docker/docker/api/types/container"

	"github.com/whalepod/whalepod/node/runtime"
)

// Resize implements runtime.Resizer.
func (d *Engine) Resize(ctx context.Context, id string, r runtime.Resources) error {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	_, err := d.cli.Load().ContainerUpdate(ctx, id, container.UpdateConfig{Resources: container.Resources{
		// Memory and swap go together, as at creation: Docker refuses a limit above that of both.
		Memory: r.MemoryBytes, MemorySwap: r.MemoryBytes,
		CPUShares: r.CPUShares, CPUQuota: r.CPUQuota, CPUPeriod: r.CPUPeriod,
	}})
	return classify(err)
}

// MemoryUsage implements runtime.Resizer. Engines before 20.10 take a second or two, since they measure the CPU as well.
func (d *Engine) MemoryUsage(ctx context.Context, id string) (int64, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	resp, err := d.cli.Load().ContainerStatsOneShot(ctx, id)
	if err != nil {
		return 0, classify(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var stats container.StatsResponse
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
		return 0, classify(fmt.Errorf("stats of container %s: %w", id, err))
	}
	return int64(stats.MemoryStats.Usage), nil
}
