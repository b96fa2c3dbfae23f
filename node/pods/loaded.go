package pods

import (
	"context"
	"time"
)

// loadedLimit bounds looking at images that were loaded.
const loadedLimit = time.Minute

// ImagesLoaded takes note of images that an administrator brought to the engine: pods that wait for one of them go on at
// once.
func (m *Manager) ImagesLoaded(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, loadedLimit)
	defer cancel()
	m.pulls.Loaded(ctx, names)
	for _, w := range m.all() {
		w.poke()
	}
}
