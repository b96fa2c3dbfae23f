package images

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// layerTime is the time of every file and image, so that the same content gives
// the same digest.
var layerTime = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// left out of every layer: what is mounted at run time, and the caches of apt.
var leftOut = []string{"dev/", "proc/", "sys/", "run/", "tmp/", "var/cache/apt/", "var/lib/apt/lists/", "etc/resolv.conf", "etc/hostname", "out/"}

// Layer describes a written layer.
type Layer struct {
	Digest string `json:"digest"` // of the compressed blob
	DiffID string `json:"diffID"` // of the tar within
	Size   int64  `json:"size"`
}

// writeLayer writes the tree below root to w as a compressed layer. With
// whiteouts, root is the upper directory of an overlay mount: its markers for
// deleted files become those of the image format (OCI image spec, layer.md).
func writeLayer(w io.Writer, root string, whiteouts bool) (Layer, error) {
	blob, diff := sha256.New(), sha256.New()
	count := &counter{}
	zip, err := gzip.NewWriterLevel(io.MultiWriter(w, blob, count), gzip.BestSpeed)
	if err != nil {
		return Layer{}, err
	}
	t := tar.NewWriter(io.MultiWriter(zip, diff))
	p := packer{tar: t, root: root, whiteouts: whiteouts, links: map[uint64]string{}}
	if err := filepath.WalkDir(root, p.add); err != nil {
		return Layer{}, fmt.Errorf("layer of %s: %w", root, err)
	}
	if err := t.Close(); err != nil {
		return Layer{}, err
	}
	if err := zip.Close(); err != nil {
		return Layer{}, err
	}
	return Layer{Digest: digest(blob), DiffID: digest(diff), Size: count.n}, nil
}

type packer struct {
	tar       *tar.Writer
	root      string
	whiteouts bool
	links     map[uint64]string // inode to the first name it was written under
}

func (p packer) add(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.root, path)
	if err != nil || rel == "." {
		return err
	}
	if skip, dir := left(rel, d.IsDir()); skip {
		if dir {
			return fs.SkipDir
		}
		return nil
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no owner known")
	}
	target := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	case info.Mode()&fs.ModeCharDevice != 0 && p.whiteouts && stat.Rdev == 0:
		name := filepath.Join(filepath.Dir(rel), ".wh."+filepath.Base(rel))
		return p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: layerTime})
	case info.Mode()&(fs.ModeDevice|fs.ModeSocket|fs.ModeNamedPipe) != 0:
		return nil
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = rel
	if d.IsDir() {
		h.Name += "/"
	}
	h.ModTime, h.AccessTime, h.ChangeTime = layerTime, time.Time{}, time.Time{}
	h.Uname, h.Gname = "", ""
	h.Format = tar.FormatPAX
	if info.Mode().IsRegular() && stat.Nlink > 1 {
		if first, ok := p.links[stat.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tar.WriteHeader(h)
		}
		p.links[stat.Ino] = rel
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		return p.copy(path)
	}
	if d.IsDir() && p.whiteouts && opaque(path) {
		return p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: rel + "/.wh..wh..opq", Mode: 0o644, ModTime: layerTime})
	}
	return nil
}

func (p packer) copy(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(p.tar, f)
	return err
}

// left reports whether a path is left out, and whether that goes for a whole
// directory. The directories of leftOut themselves stay, empty.
func left(rel string, isDir bool) (skip, dir bool) {
	for _, l := range leftOut {
		if parent, ok := strings.CutSuffix(l, "/"); ok {
			if rest, below := strings.CutPrefix(rel, parent+"/"); below && rest != "" {
				return true, isDir
			}
		} else if rel == l {
			return true, isDir
		}
	}
	return rel == "out", rel == "out"
}

// opaque tells whether overlayfs hides everything beneath this directory.
func opaque(path string) bool {
	var v [1]byte
	n, err := syscall.Getxattr(path, "trusted.overlay.opaque", v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func digest(h hash.Hash) string { return fmt.Sprintf("sha256:%x", h.Sum(nil)) }
