package volume

import (
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/runtime"
)

// Mounts of a container's volumes. vars is its environment, for subPathExpr.
func (m *Manager) Mounts(pod *corev1.Pod, c *corev1.Container, volumes map[string]Mounted, vars []string) ([]runtime.Mount, error) {
	out := make([]runtime.Mount, 0, len(c.VolumeMounts))
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		v, ok := volumes[vm.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			expanded, err := expandPath(vm.SubPathExpr, vars)
			if err != nil {
				return nil, err
			}
			sub = expanded
		}
		path := v.Path
		if sub != "" {
			var err error
			if path, err = m.SubPath(string(pod.UID), vm.Name, v, sub, c.Name, i); err != nil {
				return nil, err
			}
		}
		mount := runtime.Mount{HostPath: path, ContainerPath: vm.MountPath, ReadOnly: vm.ReadOnly || v.ReadOnly}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = "/" + mount.ContainerPath
		}
		if p := vm.MountPropagation; p != nil {
			switch *p {
			case corev1.MountPropagationHostToContainer:
				mount.Propagation = "rslave"
			case corev1.MountPropagationBidirectional:
				mount.Propagation = "rshared"
			}
		}
		if err := recursive(&mount, vm); err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	return out, nil
}

// recursive takes over what the manifest says of mounts below a read-only one; in the kubelet's words when it contradicts
// itself.
func recursive(mount *runtime.Mount, vm *corev1.VolumeMount) error {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return nil
	}
	if !vm.ReadOnly {
		return fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", vm.Name)
	}
	if p := vm.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
		return fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", vm.Name, *p)
	}
	mount.Below = runtime.RecursiveIfPossible
	if *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
		mount.Below = runtime.RecursiveAlways
	}
	return nil
}

// expandPath is env.Expand, but a variable that nothing defines is an error: it would name a wrong directory.
func expandPath(expr string, vars []string) (string, error) {
	missing := false
	values := env.Map(vars)
	out := env.Expand(expr, func(name string) (string, bool) {
		v, ok := values[name]
		missing = missing || !ok
		return v, ok
	})
	if missing {
		return "", fmt.Errorf("missing value for %q", expr)
	}
	return out, nil
}
