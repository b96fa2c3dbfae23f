package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const subPathDir = "volume-subpaths"

// SubPath gives the path to mount for a subPath of a volume: a bind mount of the very file or directory that the
// subPath named when it was looked up inside the volume, so that a process which swaps it for a symlink afterwards gains
// nothing (CVE-2017-1002101 and its followers). What is absent becomes a directory.
func (m *Manager) SubPath(uid, volume string, v Mounted, subPath, container string, index int) (string, error) {
	if filepath.IsAbs(subPath) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", subPath)
	}
	for part := range strings.SplitSeq(filepath.ToSlash(subPath), "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", subPath)
		}
	}
	failed := func(what string, err error) error {
		// The details would tell the pod's owner about the node's files.
		m.log.Warn("subPath could not be used", "container", container, "volume", volume, "err", err)
		return fmt.Errorf("failed to %s for volumeMount %q of container %q", what, volume, container)
	}
	root, err := os.OpenRoot(v.Path)
	if err != nil {
		return "", failed("prepare subPath", err)
	}
	defer func() { _ = root.Close() }()
	clean := filepath.Clean(subPath)
	_, err = root.Stat(clean)
	if err != nil && v.Image != nil {
		return "", fmt.Errorf("%w: the image of volume %q has no subPath %q", ErrImageMount, volume, subPath)
	}
	if err != nil {
		info, err := root.Stat(".")
		if err == nil {
			err = root.MkdirAll(clean, info.Mode().Perm())
		}
		if err != nil {
			return "", failed("create subPath directory", err)
		}
		_ = root.Chmod(clean, info.Mode()&(fs.ModePerm|fs.ModeSetgid)) // against the umask
	}
	f, err := root.Open(clean)
	if err != nil {
		return "", failed("prepare subPath", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", failed("prepare subPath", err)
	}
	target := filepath.Join(m.PodDir(uid), subPathDir, volume, container, strconv.Itoa(index))
	if err := m.bind(f, info.IsDir(), target); err != nil {
		return "", failed("prepare subPath", err)
	}
	return target, nil
}

func (m *Manager) bind(f *os.File, isDir bool, target string) error {
	at, err := m.cfg.Mounter.Below(target)
	if err != nil {
		return err
	}
	for _, p := range at { // of an earlier attempt of the container
		if err := m.cfg.Mounter.Unmount(p); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !os.IsNotExist(err) {
		return err
	}
	if isDir {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return err
	}
	return m.cfg.Mounter.Bind(f, target)
}
