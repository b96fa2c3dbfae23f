package runtime

import "context"

// Housekeeper is what a runtime can tell beside for making room on its disk. It is asked only when the disk runs short.
type Housekeeper interface {
	// UsedImages are the IDs of the images of which the engine has containers, running or not, whoever made them.
	UsedImages(ctx context.Context) (map[string]bool, error)
	// LayerSize is how many bytes a container has written into its own file system. It can take the engine long.
	LayerSize(ctx context.Context, id string) (int64, error)
}
