package volume

import corev1 "k8s.io/api/core/v1"

// EmptyDir is the path of a pod's emptyDir.
func (m *Manager) EmptyDir(pod *corev1.Pod, name string) string {
	return m.volumeDir(pod, "empty-dir", name)
}
