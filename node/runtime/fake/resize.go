package fake

import (
	"cmp"
	"context"
	"fmt"

	"github.com/whalepod/whalepod/node/runtime"
)

// defaultUsage of memory by a container of which the test says nothing.
const defaultUsage = 1 << 20

// Resize implements runtime.Resizer.
func (e *Engine) Resize(ctx context.Context, id string, r runtime.Resources) error {
	if err := e.enter(ctx, "Resize"); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(id)
	if err != nil {
		return err
	}
	if c.State != runtime.StateRunning {
		return fmt.Errorf("Error response from daemon: Cannot update container %s: it is not running", id)
	}
	have := &c.spec.Resources
	have.MemoryBytes = cmp.Or(r.MemoryBytes, have.MemoryBytes)
	have.CPUShares = cmp.Or(r.CPUShares, have.CPUShares)
	have.CPUQuota, have.CPUPeriod = cmp.Or(r.CPUQuota, have.CPUQuota), cmp.Or(r.CPUPeriod, have.CPUPeriod)
	return nil
}

// MemoryUsage implements runtime.Resizer: what was set for the container's name.
func (e *Engine) MemoryUsage(ctx context.Context, id string) (int64, error) {
	if err := e.enter(ctx, "MemoryUsage"); err != nil {
		return 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(id)
	if err != nil {
		return 0, err
	}
	if bytes, ok := e.usage[c.Name]; ok {
		return bytes, nil
	}
	return defaultUsage, nil
}

// SetUsage says how much memory containers of this name use.
func (w *world) SetUsage(container string, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.usage == nil {
		w.usage = map[string]int64{}
	}
	w.usage[container] = bytes
}

// Resources that a container was made with or last resized to.
func (w *world) Resources(id string) runtime.Resources {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.containers[id]; c != nil {
		return c.spec.Resources
	}
	return runtime.Resources{}
}
