package fake

import (
	"context"

	"github.com/whalepod/whalepod/node/runtime"
)

var _ runtime.Housekeeper = (*Engine)(nil)

// UsedImages implements runtime.Housekeeper.
func (w *world) UsedImages(ctx context.Context) (map[string]bool, error) {
	if err := w.enter(ctx, "UsedImages"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	used := map[string]bool{}
	for _, c := range w.containers {
		if i := w.image(c.Image); !c.sandbox && i != nil {
			used[i.ID] = true
		}
	}
	return used, nil
}

// LayerSize implements runtime.Housekeeper: what was set for the container's name.
func (w *world) LayerSize(ctx context.Context, id string) (int64, error) {
	if err := w.enter(ctx, "LayerSize"); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.containers[id]
	if c == nil {
		return 0, mark(runtime.ErrNotFound, "Error response from daemon: No such container: %s", id)
	}
	return w.layers[c.Name], nil
}

// SetLayer says how much containers of this name have written.
func (w *world) SetLayer(container string, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.layers == nil {
		w.layers = map[string]int64{}
	}
	w.layers[container] = bytes
}

// PutImage puts an image into the engine as it is described: of its names, the tags count.
func (w *world) PutImage(i runtime.Image) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images[i.ID] = &img{i}
}
