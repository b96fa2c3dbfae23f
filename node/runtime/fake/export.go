package fake

import (
	"archive/tar"
	"context"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// busybox is what every image has that was given no files.
var busybox = map[string]string{"bin/busybox": "not really", "bin/sh": "-> busybox"}

// SetFiles gives the image of this name its files: content by path, or "-> target" for a symlink.
func (w *world) SetFiles(ref string, files map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files == nil {
		w.files = map[string]map[string]string{}
	}
	w.files[normal(ref)] = files
}

// ExportImage implements runtime.Exporter.
func (w *world) ExportImage(ctx context.Context, id string, visit runtime.Visit) error {
	if err := w.enter(ctx, "ExportImage"); err != nil {
		return err
	}
	w.mu.Lock()
	i := w.image(id)
	files := busybox
	if i != nil {
		for _, tag := range i.Tags {
			if f, ok := w.files[tag]; ok {
				files = f
			}
		}
	}
	w.mu.Unlock()
	if i == nil {
		return mark(runtime.ErrNotFound, "Error response from daemon: No such image: %s", id)
	}
	made := map[string]bool{}
	var dirs func(name string) error
	dirs = func(name string) error {
		if made[name] {
			return nil
		}
		made[name] = true
		if name != "." {
			if err := dirs(path.Dir(name)); err != nil {
				return err
			}
		}
		return visit(header(name, tar.TypeDir, 0o755), nil)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := dirs(path.Dir(name)); err != nil {
			return err
		}
		h := header(name, tar.TypeReg, 0o644)
		if target, ok := strings.CutPrefix(files[name], "-> "); ok {
			h.Typeflag, h.Linkname = tar.TypeSymlink, target
		} else {
			h.Size = int64(len(files[name]))
		}
		if err := visit(h, strings.NewReader(files[name])); err != nil {
			return err
		}
	}
	return nil
}

// header of a file that belongs to whoever runs the test, for only root may give files away.
func header(name string, kind byte, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1, 0)}
}
