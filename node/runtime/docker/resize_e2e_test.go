//go:build e2e

package docker

import (
	"testing"

	"github.com/whalepod/whalepod/node/runtime"
)

// What the engine has after a resize is what was asked for, and what was not named has stayed.
func TestResizedValues(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	_, id := runPod(t, e, pod)
	for _, r := range []runtime.Resources{
		{MemoryBytes: 64 << 20, CPUShares: 102, CPUQuota: 10_000, CPUPeriod: 100_000},
		{MemoryBytes: 96 << 20, CPUShares: 204, CPUQuota: 20_000, CPUPeriod: 100_000},
		{MemoryBytes: 32 << 20, CPUShares: 51, CPUQuota: 5_000, CPUPeriod: 100_000},
	} {
		if err := e.Resize(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Resize(t.Context(), id, runtime.Resources{CPUShares: 1024}); err != nil {
		t.Fatal(err)
	}
	cli := d.client(t)
	defer cli.Close()
	j, err := cli.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if h := j.HostConfig; h.Memory != 32<<20 || h.CPUShares != 1024 || h.CPUQuota != 5_000 || h.CPUPeriod != 100_000 {
		t.Errorf("memory %d, shares %d, quota %d of %d", h.Memory, h.CPUShares, h.CPUQuota, h.CPUPeriod)
	}
}
