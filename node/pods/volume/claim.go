package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// provisionedBy names who made a volume; localProvisioner is the master's, whose volumes are directories that this node
// makes when they are first used.
const (
	provisionedBy    = "pv.kubernetes.io/provisioned-by"
	localProvisioner = "whalepod.io/local"
)

// localKind is the name of local volumes' records below a pod's directory, as the kubelet names its plugin.
const localKind = "local-volume"

// ClaimName of a pod's volume; empty when it is none of a claim. (Kubernetes names the claims of ephemeral volumes so.)
func ClaimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// claimed gives the volume that the claim of a pod's volume is bound to.
func (m *Manager) claimed(pod *corev1.Pod, v *corev1.Volume, name string) (Mounted, error) {
	claim, ok := m.cfg.Source.Claim(pod.Namespace, name)
	switch {
	case !ok:
		return Mounted{}, fmt.Errorf("persistentvolumeclaim %q not found", name)
	case claim.Spec.VolumeName == "" || claim.Status.Phase != corev1.ClaimBound:
		return Mounted{}, fmt.Errorf("persistentvolumeclaim %q is not bound to a volume yet", name)
	}
	volume, ok := m.cfg.Source.Volume(claim.Spec.VolumeName)
	if !ok {
		return Mounted{}, fmt.Errorf("persistentvolume %q, to which claim %q is bound, is not there", claim.Spec.VolumeName, name)
	}
	if ref := volume.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return Mounted{}, fmt.Errorf("persistentvolume %q is bound to another claim than %q", volume.Name, name)
	}
	if mode := volume.Spec.VolumeMode; mode != nil && *mode == corev1.PersistentVolumeBlock {
		return Mounted{}, fmt.Errorf("persistentvolume %q is a block device, which is not supported on this node: use volumeMode Filesystem", volume.Name)
	}
	out := Mounted{ReadOnly: v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly}
	switch s := volume.Spec.PersistentVolumeSource; {
	case s.HostPath != nil:
		out.Path = filepath.Clean(s.HostPath.Path)
		return out, hostPath(s.HostPath)
	case s.Local != nil:
		out.Path = filepath.Clean(s.Local.Path)
		return out, m.local(pod, v.Name, volume)
	}
	return Mounted{}, fmt.Errorf("persistentvolume %q: no volume plugin matched: only hostPath and local volumes can be mounted on this node", volume.Name)
}

// local makes sure that the directory of a local volume is there and belongs to the pod's group. Only directories that the
// cluster itself keeps are made: one that an admin told of must be the admin's disk, mounted.
func (m *Manager) local(pod *corev1.Pod, name string, volume *corev1.PersistentVolume) error {
	dir := filepath.Clean(volume.Spec.Local.Path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && volume.Annotations[provisionedBy] == localProvisioner && filepath.Dir(dir) == m.cfg.LocalDir:
		if err := m.makeLocal(dir); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("path %q does not exist", dir)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("path %q is not a directory", dir)
	}
	return m.ownLocal(pod, name, dir)
}

// makeLocal makes a directory that anybody in the pod may write to, as provisioners of local paths do. Under another name
// first: a directory with the final name has its mode.
func (m *Manager) makeLocal(dir string) error {
	if err := os.MkdirAll(m.cfg.LocalDir, 0o711); err != nil {
		return err
	}
	fresh := dir + ".new"
	if err := makeDir(fresh, 0o777); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

// ownLocal gives a volume to the pod's fsGroup, once for each pod, by the rules of the kubelet: all that is in it, or with
// fsGroupChangePolicy OnRootMismatch only if the top is not right yet.
func (m *Manager) ownLocal(pod *corev1.Pod, name, dir string) error {
	group := fsGroup(pod)
	if group == nil {
		return nil
	}
	done := m.volumeDir(pod, localKind, name)
	if _, err := os.Lstat(done); err == nil {
		return nil
	}
	policy := pod.Spec.SecurityContext.FSGroupChangePolicy
	if policy == nil || *policy != corev1.FSGroupChangeOnRootMismatch || !owned(dir, *group) {
		if err := ownTree(dir, *group); err != nil {
			return fmt.Errorf("applyFSGroup failed for vol %s: %w", name, err)
		}
	}
	return makeDir(done, 0o750)
}

func owned(dir string, group int64) bool {
	info, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(st.Gid) == group && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&0o070 == 0o070
}

// ownTree sets the group of everything below dir, and lets the group read and write it; the top comes last, as the mark
// that all is done.
func ownTree(dir string, group int64) error {
	root, err := os.OpenRoot(dir) // no symlink leads out of it
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var all []string
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		all = append(all, path)
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(all)
	for _, path := range all {
		info, err := root.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the pod's containers are not there yet, but another pod's may be
		}
		if err != nil {
			return err
		}
		if err := root.Lchown(path, -1, int(group)); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			continue
		}
		mode := info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) | 0o660
		if info.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
		if err := root.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}

// RemoveLocal deletes the data of a local volume by the name of its directory; one that is not there is no error.
func (m *Manager) RemoveLocal(name string) error {
	if m.cfg.LocalDir == "" || name == "" || name == "." || name == ".." || filepath.Base(name) != name {
		return fmt.Errorf("invalid volume directory %q", name)
	}
	return os.RemoveAll(filepath.Join(m.cfg.LocalDir, name))
}
