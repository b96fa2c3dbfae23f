package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// labelExport marks containers that are made only to read an image's files; its value is the node's name.
	labelExport = "io.whalepod.export"
	// clockSlack is by how much the time of a file may be before ours: archives have whole seconds.
	clockSlack = 2 * time.Second
)

// ExportImage implements runtime.Exporter. Engines from 1.13 on can do it in one way: a container that is made and never
// started, whose files they write into an archive. (Its /archive call would show the anonymous volumes of the image instead of
// what the layers have there.) ctx bounds it: a large image takes a slow disk long.
func (d *Engine) ExportImage(ctx context.Context, id string, visit runtime.Visit) error {
	began := time.Now().Add(-clockSlack)
	name, err := d.createExport(ctx, id)
	if err != nil {
		return err
	}
	defer d.discard(ctx, name)
	body, err := d.cli.Load().ContainerExport(ctx, name)
	if err != nil {
		return classify(err)
	}
	defer body.Close()
	filter := exportFilter{began: began, visit: visit}
	for r := tar.NewReader(body); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("reading the files of image %s: %w", id, classify(err))
		}
		if err := filter.take(h, r); err != nil {
			return err
		}
	}
}

func (d *Engine) createExport(ctx context.Context, image string) (id string, err error) {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	cfg := &container.Config{
		Image:  image,
		Labels: map[string]string{labelExport: d.node},
		// Images of mere files have no command, and without one there is no container.
		Entrypoint:      []string{"none"},
		NetworkDisabled: true,
		Healthcheck:     &container.HealthConfig{Test: []string{"NONE"}},
	}
	host := &container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}}
	resp, err := d.cli.Load().ContainerCreate(ctx, cfg, host, nil, nil, "")
	if err != nil {
		return "", classifyCreate(err)
	}
	return resp.ID, nil
}

// endExports removes the containers that an agent which died has left while it read images.
func (d *Engine) endExports(ctx context.Context) {
	list, err := d.cli.Load().ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", labelExport+"="+d.node), filters.Arg("status", container.StateCreated)),
	})
	if err != nil {
		d.log.Debug("cannot find out whether an earlier agent left containers", "err", err)
		return
	}
	for i := range list {
		d.discard(ctx, list[i].ID)
	}
}

// added are the files that engines put into every new container (daemon/initlayer of Docker). They replace what the image
// has under the names of files, and leave directories that it has.
var added = map[string]bool{
	".dockerenv": true, "etc": true, "etc/hosts": true, "etc/hostname": true, "etc/resolv.conf": true, "etc/mtab": true,
	"dev": true, "dev/console": true, "dev/pts": true, "dev/shm": true, "proc": true, "sys": true,
}

// exportFilter leaves out what the engine added: what is as new as the container. Directories of those names wait until
// it is known that there is something in them.
type exportFilter struct {
	began time.Time
	visit runtime.Visit
	held  []*tar.Header
	root  bool
}

func (f *exportFilter) take(h *tar.Header, content io.Reader) error {
	h.Name = path.Clean(strings.TrimLeft(h.Name, "/"))
	if h.Name == ".." || strings.HasPrefix(h.Name, "../") {
		return mark(runtime.ErrInvalid, fmt.Errorf("the image has a file outside of its root: %q", h.Name))
	}
	if h.Typeflag == tar.TypeLink {
		h.Linkname = path.Clean(strings.TrimLeft(h.Linkname, "/"))
	}
	if h.Name == "." {
		if f.root {
			return nil
		}
		f.root = true
		return f.visit(h, nil)
	}
	if !f.root { // some engines leave it out
		f.root = true
		if err := f.visit(&tar.Header{Name: ".", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: h.ModTime}, nil); err != nil {
			return err
		}
	}
	for len(f.held) > 0 && !strings.HasPrefix(h.Name, f.held[len(f.held)-1].Name+"/") {
		f.held = f.held[:len(f.held)-1]
	}
	if added[h.Name] && !h.ModTime.Before(f.began) {
		if h.Typeflag == tar.TypeDir {
			f.held = append(f.held, h)
		}
		return nil
	}
	for _, dir := range f.held {
		if err := f.visit(dir, nil); err != nil {
			return err
		}
	}
	f.held = nil
	return f.visit(h, content)
}
