package volume

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unpacker makes files as an image has them, with owners, modes, times, links and the extended attributes that a read-only
// mount needs. Everything goes through an os.Root: whatever names and links an archive holds, nothing is written outside.
type unpacker struct {
	root *os.Root
	// open are the directories around the last file: they get their times when nothing more comes into them.
	open    []*tar.Header
	skipped int
}

// file is a runtime.Visit.
func (u *unpacker) file(h *tar.Header, content io.Reader) error {
	name := path.Clean(h.Name)
	if name != "." && !fs.ValidPath(name) {
		return fmt.Errorf("invalid path in an image: %q", h.Name)
	}
	if err := u.leave(name); err != nil {
		return err
	}
	if dir := path.Dir(name); dir != "." {
		if err := u.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(name, h)
	case tar.TypeReg:
		return u.regular(name, h, content)
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		target := path.Clean(h.Linkname)
		if !fs.ValidPath(target) {
			return fmt.Errorf("invalid link in an image: %q to %q", h.Name, h.Linkname)
		}
		return u.root.Link(target, name)
	}
	u.skipped++ // nothing can be done with a device or a pipe in a volume of files
	return nil
}

func (u *unpacker) dir(name string, h *tar.Header) error {
	if name != "." {
		if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := u.own(name, h); err != nil {
		return err
	}
	dir := *h
	dir.Name = name
	u.open = append(u.open, &dir)
	return nil
}

func (u *unpacker) regular(name string, h *tar.Header, content io.Reader) (err error) {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if content != nil {
		if _, err := io.Copy(f, content); err != nil {
			return err
		}
	}
	// The owner first: changing it takes setuid bits and capabilities away.
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	if err := f.Chmod(modeBits(h.Mode)); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || attr != "security.capability" && !strings.HasPrefix(attr, "user.") {
			continue
		}
		err := unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("setting %s of %s: %w", attr, name, err)
		}
	}
	return u.root.Chtimes(name, time.Time{}, h.ModTime)
}

// own gives a directory its owner and mode.
func (u *unpacker) own(name string, h *tar.Header) error {
	if err := u.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	return u.root.Chmod(name, modeBits(h.Mode))
}

// modeBits of an archive in Go's terms.
func modeBits(mode int64) fs.FileMode {
	out := fs.FileMode(mode) & fs.ModePerm //nolint:gosec // nine bits
	for bit, flag := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if mode&bit != 0 {
			out |= flag
		}
	}
	return out
}

// leave the directories that name is not in.
func (u *unpacker) leave(name string) error {
	for len(u.open) > 0 {
		last := u.open[len(u.open)-1]
		if last.Name == "." && name != "" || strings.HasPrefix(name, last.Name+"/") {
			return nil
		}
		u.open = u.open[:len(u.open)-1]
		if err := u.root.Chtimes(last.Name, time.Time{}, last.ModTime); err != nil {
			return err
		}
	}
	return nil
}

// finish leaves all.
func (u *unpacker) finish() error { return u.leave("") }
