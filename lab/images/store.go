package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Media types of Docker's image manifest, version 2, schema 2: every engine that
// we support reads it (OCI's own came later).
const (
	typeManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeConfig   = "application/vnd.docker.container.image.v1+json"
	typeLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Store is the storage directory of a registry (docker-registry, "filesystem"
// driver). Writing it in place of pushing needs no running registry, and a crash
// half way leaves nothing but an unreferenced blob: every file is written aside
// and renamed, tags last.
type Store struct{ Dir string }

func (s Store) root() string { return filepath.Join(s.Dir, "docker/registry/v2") }

// BlobPath is where the content with this digest lies.
func (s Store) BlobPath(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	if len(hex) < 2 {
		hex = "00" + hex
	}
	return filepath.Join(s.root(), "blobs/sha256", hex[:2], hex, "data")
}

// Has tells whether the content with this digest is stored.
func (s Store) Has(digest string) bool {
	info, err := os.Stat(s.BlobPath(digest))
	return err == nil && info.Mode().IsRegular()
}

// temp makes a file to write a blob to; keep gives it its place.
func (s Store) temp() (*os.File, error) {
	dir := filepath.Join(s.Dir, "incoming")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.CreateTemp(dir, "blob-")
}

func (s Store) keep(f *os.File, digest string) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	path := s.BlobPath(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Put stores data and returns its digest.
func (s Store) Put(data []byte) (string, error) {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(data))
	if s.Has(digest) {
		return digest, nil
	}
	f, err := s.temp()
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		f.Close()
		return "", err
	}
	return digest, s.keep(f, digest)
}

// PutFrom stores what r gives, which must have this digest.
func (s Store) PutFrom(r io.Reader, want string) error {
	f, err := s.temp()
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), r); err != nil {
		f.Close()
		return err
	}
	if got := digest(h); got != want {
		f.Close()
		return fmt.Errorf("content is %s, not %s", got, want)
	}
	return s.keep(f, want)
}

// PutLayer stores the tree below root as a layer.
func (s Store) PutLayer(root string, whiteouts bool) (Layer, error) {
	f, err := s.temp()
	if err != nil {
		return Layer{}, err
	}
	defer os.Remove(f.Name())
	l, err := writeLayer(f, root, whiteouts)
	if err != nil {
		f.Close()
		return Layer{}, err
	}
	return l, s.keep(f, l.Digest)
}

// descriptor is a reference within a manifest.
type descriptor struct {
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	Digest    string `json:"digest"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// PutImage stores an image of these layers under all tags ("repository:tag") and
// returns the digest of its manifest.
func (s Store) PutImage(c Config, layers []Layer, tags []string) (string, error) {
	type rootfs struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	type history struct {
		Created   string `json:"created"`
		CreatedBy string `json:"created_by"`
	}
	created := layerTime.Format("2006-01-02T15:04:05Z")
	image := struct {
		Created      string    `json:"created"`
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       Config    `json:"config"`
		RootFS       rootfs    `json:"rootfs"`
		History      []history `json:"history"`
	}{Created: created, Architecture: runtime.GOARCH, OS: "linux", Config: c, RootFS: rootfs{Type: "layers"}}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest}
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.DiffID)
		image.History = append(image.History, history{created, "whalepod lab"})
		m.Layers = append(m.Layers, descriptor{typeLayer, l.Size, l.Digest})
	}
	config, err := json.Marshal(image)
	if err != nil {
		return "", err
	}
	if m.Config.Digest, err = s.Put(config); err != nil {
		return "", err
	}
	m.Config.MediaType, m.Config.Size = typeConfig, int64(len(config))
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	return s.PutManifest(data, tags)
}

// PutManifest stores a manifest whose blobs are stored already, and points the
// tags to it.
func (s Store) PutManifest(data []byte, tags []string) (string, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	digest, err := s.Put(data)
	if err != nil {
		return "", err
	}
	hex := strings.TrimPrefix(digest, "sha256:")
	for _, t := range tags {
		repository, tag, ok := strings.Cut(t, ":")
		if !ok {
			return "", fmt.Errorf("%q is no repository:tag", t)
		}
		dir := filepath.Join(s.root(), "repositories", repository)
		for _, d := range append([]descriptor{m.Config}, m.Layers...) {
			link := filepath.Join(dir, "_layers/sha256", strings.TrimPrefix(d.Digest, "sha256:"), "link")
			if err := writeFile(link, d.Digest); err != nil {
				return "", err
			}
		}
		for _, link := range []string{
			"_manifests/revisions/sha256/" + hex + "/link",
			"_manifests/tags/" + tag + "/index/sha256/" + hex + "/link",
			"_manifests/tags/" + tag + "/current/link", // last: from here on it can be pulled
		} {
			if err := writeFile(filepath.Join(dir, link), digest); err != nil {
				return "", err
			}
		}
	}
	return digest, nil
}

// Tagged returns the digest of the manifest that "repository:tag" stands for, ""
// if there is none or parts of it are missing.
func (s Store) Tagged(name string) string {
	repository, tag, _ := strings.Cut(name, ":")
	link, err := os.ReadFile(filepath.Join(s.root(), "repositories", repository, "_manifests/tags", tag, "current/link"))
	if err != nil {
		return ""
	}
	digest := strings.TrimSpace(string(link))
	data, err := os.ReadFile(s.BlobPath(digest))
	if err != nil {
		return ""
	}
	var m manifest
	if json.Unmarshal(data, &m) != nil {
		return ""
	}
	for _, d := range append([]descriptor{m.Config}, m.Layers...) {
		if !s.Has(d.Digest) {
			return ""
		}
	}
	return digest
}

// writeFile replaces a small file in one step, and leaves an equal one alone.
func writeFile(path, content string) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, []byte(content)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
