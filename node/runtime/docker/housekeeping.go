package docker

import (
	"context"
	"errors"
	"slices"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker/pause"
)

var _ runtime.Housekeeper = (*Engine)(nil)

// labelPinned on an image (LABEL io.whalepod.pinned=true in its Dockerfile) keeps it from being removed to make room.
const labelPinned = "io.whalepod.pinned"

func pinned(i *image.Summary) bool {
	return i.Labels[labelPinned] == "true" || slices.Contains(i.RepoTags, pause.Image)
}

// UsedImages implements runtime.Housekeeper.
func (d *Engine) UsedImages(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	list, err := d.cli.Load().ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, classify(err)
	}
	used := make(map[string]bool, len(list))
	for i := range list {
		used[list[i].ImageID] = true
	}
	return used, nil
}

// LayerSize implements runtime.Housekeeper.
func (d *Engine) LayerSize(ctx context.Context, id string) (int64, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	c, _, err := d.cli.Load().ContainerInspectWithRaw(ctx, id, true)
	if err != nil {
		return 0, classify(err)
	}
	if c.ContainerJSONBase == nil || c.SizeRw == nil {
		return 0, errors.New("docker: the engine does not say the size of container " + id)
	}
	return *c.SizeRw, nil
}
