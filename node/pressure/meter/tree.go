package meter

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whalepod/whalepod/node/pressure"
)

const (
	// entriesAtOnce bounds what is held of a large directory.
	entriesAtOnce = 256
	// maxDepth bounds how many directories are open at a time. What a container hides deeper than that is found when the whole
	// disk runs short.
	maxDepth = 256
	// blockSize is the unit of st_blocks, whatever the file system's is.
	blockSize = 512
)

// inode of a file with several names.
type inode struct{ device, number uint64 }

// Tree is what dir and everything below it take up on its file system. What is mounted below it, and what goes away
// meanwhile, does not count; a file with several names counts once.
func (m *Meter) Tree(ctx context.Context, dir string) (pressure.Size, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return pressure.Size{}, nil
		}
		return pressure.Size{}, &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	w := walk{ctx: ctx, device: uint64(st.Dev), seen: map[inode]bool{}}
	w.add(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.size, nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return w.size, err
	}
	defer func() { _ = f.Close() }()
	err = w.descend(f, 0)
	return w.size, err
}

type walk struct {
	ctx    context.Context
	device uint64
	seen   map[inode]bool
	size   pressure.Size
}

// add counts one file.
func (w *walk) add(st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id := inode{uint64(st.Dev), st.Ino}
		if w.seen[id] {
			return
		}
		w.seen[id] = true
	}
	w.size = w.size.Plus(pressure.Size{Bytes: st.Blocks * blockSize, Inodes: 1})
}

// descend into an open directory. Everything is opened relative to its parent, so that a container that moves its directories
// about meanwhile does not lead out of them.
func (w *walk) descend(dir *os.File, depth int) error {
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(entriesAtOnce)
		for _, name := range names {
			if err := w.visit(dir, name, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return err
		}
	}
}

func (w *walk) visit(dir *os.File, name string, depth int) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	if uint64(st.Dev) != w.device {
		return nil
	}
	w.add(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || depth == maxDepth {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	sub := os.NewFile(uintptr(fd), name)
	defer func() { _ = sub.Close() }()
	return w.descend(sub, depth+1)
}

// ErrNoLayer: the container's root is not an overlay, so that its writable layer cannot be told from the image. The engine has to
// be asked.
var ErrNoLayer = errors.New("the container's writable layer is not a directory")

// Layer is what a container that runs has written into its own file system. The kernel says where that is: overlay's upperdir
// in the process's list of mounts.
func (m *Meter) Layer(ctx context.Context, c Container) (pressure.Size, error) {
	m.mu.Lock()
	dir, ok := m.layers[c.ID]
	m.mu.Unlock()
	if !ok {
		pid, err := m.pidOf(c)
		if err != nil {
			return pressure.Size{}, err
		}
		data, err := os.ReadFile(filepath.Join(m.proc, strconv.Itoa(pid), "mountinfo"))
		if err != nil {
			return pressure.Size{}, err
		}
		if dir = upperdir(data); dir == "" {
			return pressure.Size{}, ErrNoLayer
		}
		m.mu.Lock()
		m.layers[c.ID] = dir
		m.mu.Unlock()
	}
	return m.Tree(ctx, dir)
}

// upperdir of the overlay on "/"; empty when there is none, or its path is not absolute. See proc_pid_mountinfo(5).
func upperdir(mountinfo []byte) string {
	dir := ""
	for line := range strings.Lines(string(mountinfo)) {
		left, right, ok := strings.Cut(line, " - ")
		fields, fsFields := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || fields[4] != "/" {
			continue
		}
		dir = "" // the last mount on / is the one that is seen
		if len(fsFields) < 3 || fsFields[0] != "overlay" {
			continue
		}
		for option := range strings.SplitSeq(fsFields[2], ",") {
			if path, ok := strings.CutPrefix(option, "upperdir="); ok && filepath.IsAbs(path) && !strings.Contains(path, `\`) {
				dir = path
			}
		}
	}
	return dir
}

// Logs of a container, rotated ones too, in the directory that the Docker Engine keeps for it: the files of its json-file driver,
// and the directory of its local one. What else is there does not count.
func (m *Meter) Logs(ctx context.Context, root, id string) (size pressure.Size, err error) {
	dir := filepath.Join(root, "containers", id)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return size, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), id+"-json.log") && e.Name() != "local-logs" {
			continue
		}
		s, err := m.Tree(ctx, filepath.Join(dir, e.Name()))
		if err != nil {
			return size, err
		}
		size = size.Plus(s)
	}
	return size, nil
}
