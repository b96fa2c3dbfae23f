package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"syscall"
	"time"
)

// Names inside a volume that comes from the API, as Kubernetes has them: ..data is a symlink to a directory whose name
// is the time of writing; what users see are symlinks into ..data. Swapping that one link changes all files at once.
const (
	dataLink  = "..data"
	dataLink2 = "..data_tmp"
)

// writeAtomic makes the directory hold exactly the payload. It tells whether anything changed.
func writeAtomic(dir string, p payload, fsGroup *int64) (changed bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer func() { _ = root.Close() }()
	for name := range p {
		if !fs.ValidPath(name) || strings.HasPrefix(name, "..") || name == "." {
			return false, fmt.Errorf("invalid path: %q", name)
		}
	}
	old, err := root.Readlink(dataLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if old != "" && same(root, old, p, fsGroup) {
		return false, links(root, p) // the links too: a crash may have come between
	}
	fresh := fmt.Sprintf("..%s.%d", time.Now().Format("2006_01_02_15_04_05"), rand.Uint32()) //nolint:gosec // only to differ
	if err := root.Mkdir(fresh, 0o755); err != nil {
		return false, err
	}
	if err := fill(root, fresh, p, fsGroup); err != nil {
		_ = root.RemoveAll(fresh)
		return false, err
	}
	_ = root.Remove(dataLink2)
	if err := root.Symlink(fresh, dataLink2); err != nil {
		return false, err
	}
	if err := root.Rename(dataLink2, dataLink); err != nil {
		return false, err
	}
	if err := links(root, p); err != nil {
		return true, err
	}
	return true, removeStale(root, fresh, p)
}

// same tells whether the directory holds exactly the payload already.
func same(root *os.Root, dir string, p payload, fsGroup *int64) bool {
	count := 0
	err := fs.WalkDir(root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		count++
		want, ok := p[strings.TrimPrefix(name, dir+"/")]
		if !ok {
			return fs.ErrInvalid
		}
		info, err := d.Info()
		if err != nil || info.Mode().Perm() != permOf(want.mode, fsGroup) || !ownedBy(info, want.owner) || info.Size() != int64(len(want.data)) {
			return fs.ErrInvalid
		}
		have, err := root.ReadFile(name)
		if err != nil || !bytes.Equal(have, want.data) {
			return fs.ErrInvalid
		}
		return nil
	})
	return err == nil && count == len(p)
}

// permOf adds the right to read for the pod's group.
func permOf(mode int32, fsGroup *int64) fs.FileMode {
	perm := fs.FileMode(mode) & fs.ModePerm
	if fsGroup != nil {
		perm |= 0o440
	}
	return perm
}

func ownedBy(info fs.FileInfo, owner *int64) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return owner == nil || ok && int64(st.Uid) == *owner
}

func chown(root *os.Root, name string, owner, group *int64) error {
	if owner == nil && group == nil {
		return nil
	}
	uid, gid := -1, -1
	if owner != nil {
		uid = int(*owner)
	}
	if group != nil {
		gid = int(*group)
	}
	return root.Lchown(name, uid, gid)
}

func fill(root *os.Root, dir string, p payload, fsGroup *int64) error {
	if err := root.Chmod(dir, 0o755); err != nil { // whatever the umask is
		return err
	}
	for name, f := range p {
		full := path.Join(dir, name)
		if sub := path.Dir(name); sub != "." {
			if err := root.MkdirAll(path.Join(dir, sub), 0o755); err != nil {
				return err
			}
		}
		if err := root.WriteFile(full, f.data, 0o600); err != nil {
			return err
		}
		if err := chown(root, full, f.owner, fsGroup); err != nil {
			return err
		}
		if err := root.Chmod(full, permOf(f.mode, fsGroup)); err != nil {
			return err
		}
	}
	return nil
}

// links makes the names that users see: one for each first element of a path.
func links(root *os.Root, p payload) error {
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		target := dataLink + "/" + top
		if have, err := root.Readlink(top); err == nil && have == target {
			continue
		}
		_ = root.RemoveAll(top)
		if err := root.Symlink(target, top); err != nil {
			return err
		}
	}
	return nil
}

// removeStale removes names and directories of earlier payloads.
func removeStale(root *os.Root, fresh string, p payload) error {
	tops := map[string]bool{dataLink: true, fresh: true}
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		tops[top] = true
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !tops[e.Name()] {
			if err := root.RemoveAll(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
