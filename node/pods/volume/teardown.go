package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Teardown removes everything of a pod: mounts first, files only when no mount is left below, for what is mounted may be
// somebody else's data.
func (m *Manager) Teardown(uid string) error {
	if uid == "" || filepath.Base(uid) != uid {
		return fmt.Errorf("invalid pod UID %q", uid)
	}
	m.forgetTokens(uid)
	dir := m.PodDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := m.cfg.Mounter.Below(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range mounts {
		if err := m.cfg.Mounter.Unmount(p); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	left, err := m.cfg.Mounter.Below(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return errors.Join(append(errs, fmt.Errorf("still mounted: %v", left))...)
	}
	_, err = os.Lstat(filepath.Join(dir, "volumes", "kubernetes.io~"+imageKind))
	hadImages := err == nil
	if err := os.RemoveAll(dir); err != nil || !hadImages {
		return err
	}
	if err := m.CollectImages(); err != nil { // it comes again; the pod is gone all the same
		m.log.Warn("files of images that no volume needs could not be removed", "err", err)
	}
	return nil
}

// Pods lists the UIDs that have a directory, for finding what a crash left behind.
func (m *Manager) Pods() ([]string, error) {
	entries, err := os.ReadDir(m.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, err
}
