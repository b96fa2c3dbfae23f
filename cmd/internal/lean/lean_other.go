//go:build !linux

package lean

import "context"

// Keep gives memory of the heap back when the program has come to rest, until ctx ends.
func Keep(ctx context.Context) { keepHeap(ctx) }
