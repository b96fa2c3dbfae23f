package runtimetest

import (
	"errors"

	"github.com/whalepod/whalepod/node/runtime"
)

// testResize: a container gets more and less without being restarted, and one without limits gets some.
func testResize(h *harness) {
	s := h.sandbox()
	spec := h.spec(s, "sleep 1000")
	spec.Resources = runtime.Resources{MemoryBytes: 64 << 20, CPUShares: 102, CPUQuota: 10_000, CPUPeriod: 100_000}
	id := h.start(spec)
	before, err := h.e.Inspect(h.ctx, id)
	h.check(err)
	usage, err := h.e.MemoryUsage(h.ctx, id)
	h.check(err)
	if usage <= 0 || usage > 64<<20 {
		h.Errorf("it uses %d bytes", usage)
	}
	for _, r := range []runtime.Resources{
		{MemoryBytes: 96 << 20, CPUShares: 204, CPUQuota: 50_000, CPUPeriod: 100_000},
		{MemoryBytes: 48 << 20, CPUShares: 51, CPUQuota: 5_000, CPUPeriod: 100_000},
		{CPUShares: 512},
	} {
		h.check(h.e.Resize(h.ctx, id, r))
	}
	plain := h.spec(s, "sleep 1000")
	plain.Name = "plain"
	h.check(h.e.Resize(h.ctx, h.start(plain), runtime.Resources{MemoryBytes: 64 << 20, CPUShares: 102, CPUQuota: 10_000, CPUPeriod: 100_000}))
	after, err := h.e.Inspect(h.ctx, id)
	h.check(err)
	if after.State != runtime.StateRunning || after.PID != before.PID {
		h.Errorf("before %+v, after %+v", before, after)
	}
	if err := h.e.Resize(h.ctx, "nosuch", runtime.Resources{CPUShares: 2}); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("a container that is not there: %v", err)
	}
	if _, err := h.e.MemoryUsage(h.ctx, "nosuch"); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("a container that is not there: %v", err)
	}
}
