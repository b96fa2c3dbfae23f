// Package pause carries the program that holds a pod's namespaces, and makes the image of it that a container engine
// imports. So no registry is needed to start a pod.
//
// The program waits, reaps what the pod's containers leave behind when they share its PID namespace, and ends at SIGTERM
// or SIGINT. Its source is the folder elf; after a change there, raise Version.
package pause

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

//go:generate go run ./gen

// Version is part of the image's name: agents of two versions can share an engine.
const Version = "1"

// Image is the name under which the engine keeps it.
const Image = "whalepod/pause:" + Version

//go:embed pause-amd64
var amd64 []byte

//go:embed pause-arm64
var arm64 []byte

// Binary is the program for an architecture in Go's words.
func Binary(arch string) ([]byte, error) {
	switch arch {
	case "amd64":
		return amd64, nil
	case "arm64":
		return arm64, nil
	}
	return nil, fmt.Errorf("no pause program for architecture %s (there are amd64 and arm64)", arch)
}

// Archive is the image as `docker save` would write it (docker-archive, image specification 1.2). It has no times in
// it, so its ID is the same everywhere.
func Archive(arch string) ([]byte, error) {
	bin, err := Binary(arch)
	if err != nil {
		return nil, err
	}
	layer, err := tarball(file{"pause", 0o755, bin})
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": arch,
		"os":           "linux",
		"created":      "1970-01-01T00:00:00Z",
		"config":       map[string]any{"Entrypoint": []string{"/pause"}, "User": "65535:65535"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
		"history":      []any{map[string]any{"created": "1970-01-01T00:00:00Z", "created_by": "whalepod pause " + Version}},
	})
	if err != nil {
		return nil, err
	}
	configName, layerName := digest(config)+".json", digest(layer)+"/layer.tar"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": []string{Image}, "Layers": []string{layerName},
	}})
	if err != nil {
		return nil, err
	}
	return tarball(file{configName, 0o644, config}, file{layerName, 0o644, layer}, file{"manifest.json", 0o644, manifest})
}

type file struct {
	name string
	mode int64
	body []byte
}

func tarball(files ...file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.body)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
