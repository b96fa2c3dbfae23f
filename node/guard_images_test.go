package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/runtime"
)

// An image counts as used by whatever of a pod names it, also before there is a container of it.
func TestImagesInUse(t *testing.T) {
	var images []runtime.Image
	for _, name := range []string{"init:1", "main:1", "debug:1", "volume:1", "unused:1"} {
		images = append(images, runtime.Image{ID: "sha256:" + name, Tags: []string{name}})
	}
	images = append(images, runtime.Image{ID: "sha256:running", Digests: []string{"app@sha256:1234"}})
	spec := corev1.PodSpec{
		InitContainers:      []corev1.Container{{Image: "init:1"}},
		Containers:          []corev1.Container{{Image: "main:1"}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Image: "debug:1"}}},
		Volumes: []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "docker.io/library/volume:1"}}}},
	}
	used := inUse(images, []pods.Active{{Pod: &corev1.Pod{Spec: spec}, ImageIDs: []string{"docker-pullable://app@sha256:1234"}}})
	for _, i := range images {
		if want := i.ID != "sha256:unused:1"; used[i.ID] != want {
			t.Errorf("%s used: %v", i.ID, used[i.ID])
		}
	}
}
