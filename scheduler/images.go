package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Sizes between which an image on the node counts, as in kube-scheduler: smaller ones are pulled in a moment.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

func imagesOf(obj *corev1.Node) map[string]int64 {
	if len(obj.Status.Images) == 0 {
		return nil
	}
	images := make(map[string]int64, len(obj.Status.Images))
	for i := range obj.Status.Images {
		for _, name := range obj.Status.Images[i].Names {
			images[normalizeImage(name)] = obj.Status.Images[i].SizeBytes
		}
	}
	return images
}

func sameImages(a, b []corev1.ContainerImage) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].SizeBytes != b[i].SizeBytes || len(a[i].Names) != len(b[i].Names) {
			return false
		}
		for j := range a[i].Names {
			if a[i].Names[j] != b[i].Names[j] {
				return false
			}
		}
	}
	return true
}

func (s *Snapshot) setImages(n *Node, images map[string]int64) {
	for name := range n.images {
		if s.images[name]--; s.images[name] <= 0 {
			delete(s.images, name)
		}
	}
	n.images = images
	for name := range images {
		s.images[name]++
	}
}

// normalizeImage gives "nginx", "library/nginx:latest" and "docker.io/library/nginx:latest" one name: people write the
// first, Docker reports the second or the third.
func normalizeImage(name string) string {
	name = strings.TrimPrefix(name, "docker.io/")
	name = strings.TrimPrefix(name, "library/")
	if !strings.Contains(name, "@") && strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		name += ":latest"
	}
	return name
}
