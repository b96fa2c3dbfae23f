package runtime

import "context"

// Resizer is what a runtime can do with the resources of a container that runs.
type Resizer interface {
	// Resize sets the container's CPU weight, CPU limit and memory limit without a restart; the rest of r is not looked at,
	// and what is zero stays as it is. The kernel may refuse a memory limit below what is in use.
	Resize(ctx context.Context, id string, r Resources) error
	// MemoryUsage is how many bytes the container's processes use, the page cache of their files included.
	MemoryUsage(ctx context.Context, id string) (int64, error)
}
