package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ErrImageMount is what container runtimes say when an image volume cannot be mounted (k8s.io/cri-api/pkg/errors).
var ErrImageMount = errors.New("ImageVolumeMountFailed")

// Image is what an image volume of a pod was resolved to. It stays for the life of the pod, also when the name means another
// image by then: the API promises new content when the pod is made anew.
type Image struct {
	// ID is content-addressed: sha256:…
	ID string `json:"id"`
	// Ref is the image in the words of status.containerStatuses[].imageID.
	Ref string `json:"ref"`
}

const (
	imageKind = "image"
	// imageRecord is the file, in the volume's directory, that says what it was resolved to. While it is there the image's
	// files stay.
	imageRecord = "image.json"
)

// Image tells what an image volume was resolved to, by this agent or one before it.
func (m *Manager) Image(pod *corev1.Pod, name string) (Image, bool) {
	if checkName(name) != nil {
		return Image{}, false
	}
	i, err := readImage(filepath.Join(m.volumeDir(pod, imageKind, name), imageRecord))
	return i, err == nil
}

func readImage(file string) (Image, error) {
	var i Image
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &i)
	}
	if err == nil && imageDir(i.ID) == "" {
		err = fmt.Errorf("invalid image ID %q", i.ID)
	}
	return i, err
}

// SetImage notes it, before the image's files are asked for.
func (m *Manager) SetImage(pod *corev1.Pod, name string, i Image) error {
	if err := checkName(name); err != nil {
		return err
	}
	if imageDir(i.ID) == "" {
		return fmt.Errorf("invalid image ID %q", i.ID)
	}
	data, err := json.Marshal(i)
	if err != nil {
		return err
	}
	m.records.Lock()
	defer m.records.Unlock()
	dir := m.volumeDir(pod, imageKind, name)
	if err := makeDir(dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(dir, imageRecord)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// DropImage takes it back: the image is not there any more.
func (m *Manager) DropImage(pod *corev1.Pod, name string) {
	if checkName(name) == nil {
		_ = os.Remove(filepath.Join(m.volumeDir(pod, imageKind, name), imageRecord))
	}
}

// MountedImage is the volume of a pod whose image's files are there; false when they are not yet.
func (m *Manager) MountedImage(pod *corev1.Pod, name string) (Mounted, bool) {
	i, ok := m.Image(pod, name)
	if !ok {
		return Mounted{}, false
	}
	path := filepath.Join(m.cfg.ImagesDir, imageDir(i.ID))
	if info, err := os.Lstat(path); err != nil || !info.IsDir() {
		return Mounted{}, false
	}
	return Mounted{Path: filepath.Join(path, imageRoot), ReadOnly: true, Image: &i}, true
}

// imageDir is the directory's name for an image; empty when the ID is none.
func imageDir(id string) string {
	hex, ok := strings.CutPrefix(id, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return ""
	}
	return hex
}

func checkName(name string) error {
	if strings.ContainsAny(name, "/\x00") || name == "" || strings.HasPrefix(name, ".") {
		return fmt.Errorf("invalid volume name %q", name)
	}
	return nil
}

// neededImages are the directories of images that volumes of pods were resolved to.
func (m *Manager) neededImages() (map[string]bool, error) {
	uids, err := m.Pods()
	if err != nil {
		return nil, err
	}
	needed := map[string]bool{}
	for _, uid := range uids {
		dir := filepath.Join(m.PodDir(uid), "volumes", "kubernetes.io~"+imageKind)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			i, err := readImage(filepath.Join(dir, e.Name(), imageRecord))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil { // nobody can mount it either
				m.log.Warn("the record of an image volume cannot be read", "uid", uid, "volume", e.Name(), "err", err)
				continue
			}
			needed[imageDir(i.ID)] = true
		}
	}
	return needed, nil
}
