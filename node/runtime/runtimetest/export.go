package runtimetest

import (
	"archive/tar"
	"errors"
	"io"
	"path"
	"strings"

	"github.com/whalepod/whalepod/node/runtime"
)

// testExport: an image's files are those that its layers have, in an order in which they can be made, and nothing is
// left behind.
func testExport(h *harness) {
	i, err := h.e.Image(h.ctx, h.env.Image)
	h.check(err)
	seen := map[string]byte{}
	size := int64(0)
	h.check(h.e.ExportImage(h.ctx, i.ID, func(f *tar.Header, content io.Reader) error {
		if f.Name != path.Clean(f.Name) || path.IsAbs(f.Name) || strings.HasPrefix(f.Name, "..") {
			h.Errorf("name %q", f.Name)
		}
		if _, ok := seen[path.Dir(f.Name)]; !ok && f.Name != "." {
			h.Errorf("%s comes before its directory", f.Name)
		}
		seen[f.Name] = f.Typeflag
		if f.Name == "bin/busybox" {
			n, err := io.Copy(io.Discard, content)
			size = n
			return err
		}
		return nil
	}))
	if seen["bin/busybox"] != tar.TypeReg || size == 0 || seen["bin/sh"] != tar.TypeSymlink || seen["."] != tar.TypeDir {
		h.Errorf("files %v, busybox of %d bytes", seen, size)
	}
	for _, engines := range []string{".dockerenv", "dev", "proc", "sys", "etc/hosts", "etc/mtab"} {
		if _, ok := seen[engines]; ok {
			h.Errorf("%s is the engine's", engines)
		}
	}
	enough := errors.New("enough")
	if err := h.e.ExportImage(h.ctx, i.ID, func(*tar.Header, io.Reader) error { return enough }); !errors.Is(err, enough) {
		h.Errorf("an error of visit: %v", err)
	}
	if err := h.e.ExportImage(h.ctx, "sha256:"+strings.Repeat("0", 64), nil); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("an absent image: %v", err)
	}
	if pods, err := h.e.Pods(h.ctx); err != nil || len(pods) != 0 {
		h.Errorf("pods %+v, %v", pods, err)
	}
	if keeper, ok := h.e.(runtime.Housekeeper); ok {
		if used, err := keeper.UsedImages(h.ctx); err != nil || used[i.ID] {
			h.Errorf("the image is still used: %v, %v", used[i.ID], err)
		}
	}
}
