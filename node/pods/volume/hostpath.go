package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
)

// hostPath checks or makes a path of the node as its type says. Without a type nothing is checked, but an absent path
// becomes a directory, as container engines have always done.
func hostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	info, err := os.Stat(h.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	absent := err != nil
	bad := func(what string) error {
		return fmt.Errorf("hostPath type check failed: %s is not %s", h.Path, what)
	}
	switch kind {
	case corev1.HostPathUnset:
		if absent {
			return os.MkdirAll(h.Path, 0o755)
		}
	case corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory:
		if absent && kind == corev1.HostPathDirectoryOrCreate {
			return os.MkdirAll(h.Path, 0o755)
		}
		if absent || !info.IsDir() {
			return bad("a directory")
		}
	case corev1.HostPathFileOrCreate, corev1.HostPathFile:
		if absent && kind == corev1.HostPathFileOrCreate {
			f, err := os.OpenFile(filepath.Clean(h.Path), os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		if absent || !info.Mode().IsRegular() {
			return bad("a file")
		}
	case corev1.HostPathSocket:
		if absent || info.Mode()&fs.ModeSocket == 0 {
			return bad("a socket file")
		}
	case corev1.HostPathCharDev:
		if absent || info.Mode()&fs.ModeCharDevice == 0 {
			return bad("a character device")
		}
	case corev1.HostPathBlockDev:
		if absent || info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
			return bad("a block device")
		}
	default:
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
	return nil
}
