package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// imageRoot is the directory with the files, in the image's own, which is for root alone: what is setuid in an image
	// must not be there for the users of the node.
	imageRoot = "files"
	// newSuffix marks what is not complete, or on its way out.
	newSuffix = ".new"
	oldSuffix = ".old"
)

// UnpackImage makes the files of an image be there for all pods of the node. Several calls for one image share the work:
// one does it, the others wait; when it gives up, the next goes on. It can take long; the caller has noted with SetImage who
// needs it, for what nobody needs is removed.
func (m *Manager) UnpackImage(ctx context.Context, id string) error {
	name := imageDir(id)
	if name == "" {
		return fmt.Errorf("invalid image ID %q", id)
	}
	if m.cfg.Images == nil {
		return errors.New("this node cannot read the files of images")
	}
	unlock, err := m.lockImage(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(m.cfg.ImagesDir, name)
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(m.cfg.ImagesDir, 0o700); err != nil {
		return err
	}
	fresh := dir + newSuffix
	if err := os.RemoveAll(fresh); err != nil { // of an agent that died
		return err
	}
	if err := m.unpack(ctx, id, fresh); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if err := os.Rename(fresh, dir); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	m.log.Info("the files of an image are there for volumes", "image", id)
	return syncDir(m.cfg.ImagesDir)
}

// unpack into a directory that does not exist, all the way to the disk.
func (m *Manager) unpack(ctx context.Context, id, fresh string) error {
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	files := filepath.Join(fresh, imageRoot)
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(files)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	u := &unpacker{root: root}
	if err := m.cfg.Images.ExportImage(ctx, id, u.file); err != nil {
		return err
	}
	if err := u.finish(); err != nil {
		return err
	}
	if u.skipped > 0 {
		m.log.Info("devices, pipes and sockets of an image are not in its volume", "image", id, "number", u.skipped)
	}
	f, err := os.Open(fresh)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Syncfs(int(f.Fd())) // one call for all files; it happens once for an image
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lockImage waits until nobody else works on the image.
func (m *Manager) lockImage(ctx context.Context, name string) (unlock func(), err error) {
	for {
		unlock, busy := m.tryLockImage(name)
		if unlock != nil {
			return unlock, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryLockImage gives the lock, or what is closed when it is to be had again.
func (m *Manager) tryLockImage(name string) (unlock func(), busy <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if busy := m.unpacking[name]; busy != nil {
		return nil, busy
	}
	done := make(chan struct{})
	m.unpacking[name] = done
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.unpacking, name)
		close(done)
	}, nil
}

// CollectImages removes the files of images that no pod's volume needs, and what a crash left of unpacking. What is being
// worked on stays: whoever does that collects again.
func (m *Manager) CollectImages() error {
	entries, err := os.ReadDir(m.cfg.ImagesDir)
	if errors.Is(err, fs.ErrNotExist) || len(entries) == 0 && err == nil {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := strings.TrimSuffix(strings.TrimSuffix(e.Name(), newSuffix), oldSuffix)
		errs = append(errs, m.collect(name, e.Name()))
	}
	return errors.Join(errs...)
}

// collect one directory.
func (m *Manager) collect(name, entry string) error {
	unlock, _ := m.tryLockImage(name)
	if unlock == nil {
		return nil
	}
	defer unlock()
	path := filepath.Join(m.cfg.ImagesDir, entry)
	if entry != name {
		return os.RemoveAll(path)
	}
	if err := os.RemoveAll(path + oldSuffix); err != nil {
		return err
	}
	if needed, err := m.putAside(name, path); err != nil || needed {
		return err
	}
	m.log.Info("the files of an image are removed: no volume needs them", "image", "sha256:"+name)
	return os.RemoveAll(path + oldSuffix)
}

// putAside takes an image's directory away under the lock of SetImage: a pod that notes later that it needs the image does
// not find it.
func (m *Manager) putAside(name, path string) (needed bool, err error) {
	m.records.Lock()
	defer m.records.Unlock()
	all, err := m.neededImages()
	if err != nil || all[name] {
		return true, err
	}
	return false, os.Rename(path, path+oldSuffix)
}
