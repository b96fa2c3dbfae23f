//go:build e2e

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
)

// importTar makes an image of files, without any command.
func (d *dockerd) importTar(t *testing.T, name string, changes []string, files ...*tar.Header) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		h.ModTime = time.Unix(1_000_000_000, 0)
		text := h.Gname
		h.Gname, h.Size = "", int64(len(text))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cli := d.client(t)
	defer cli.Close()
	body, err := cli.ImageImport(t.Context(), image.ImportSource{Source: &b, SourceName: "-"}, name, image.ImportOptions{Changes: changes})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if out, err := io.ReadAll(body); err != nil || bytes.Contains(out, []byte("error")) {
		t.Fatalf("import: %v %s", err, out)
	}
}

// Images without a command, with volumes, links, capabilities and an /etc of their own; with today's and the oldest API.
func TestExportImage(t *testing.T) {
	d := startDockerd(t)
	d.importTar(t, "files:1", []string{"VOLUME /srv", "LABEL io.whalepod.node=n1"},
		&tar.Header{Name: "data.json", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8, Gname: "kitten"},
		&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, &tar.Header{Name: "etc/os-release", Typeflag: tar.TypeReg, Mode: 0o644, Gname: "Alpine"},
		&tar.Header{Name: "proc/", Typeflag: tar.TypeDir, Mode: 0o555}, &tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "data.json", Mode: 0o640, Uid: 7, Gid: 8},
		&tar.Header{Name: "lib", Typeflag: tar.TypeSymlink, Linkname: "/usr/lib"},
		&tar.Header{Name: "ping", Typeflag: tar.TypeReg, Mode: 0o4755, Gname: "elf", PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		&tar.Header{Name: "srv/", Typeflag: tar.TypeDir, Mode: 0o755}, &tar.Header{Name: "srv/page", Typeflag: tar.TypeReg, Mode: 0o644, Gname: "hi"})
	old, _ := d.counted(t, "old", "1.25")
	for api, e := range map[string]*Engine{"new": d.engine(t, "n1"), "1.25": old} {
		var names []string
		err := e.ExportImage(t.Context(), "files:1", func(h *tar.Header, content io.Reader) error {
			names = append(names, h.Name)
			switch h.Name {
			case "data.json", "hard":
				if h.Typeflag == tar.TypeReg {
					text, err := io.ReadAll(content)
					if string(text) != "kitten" || h.Uid != 7 || h.Gid != 8 || h.Mode&0o7777 != 0o640 {
						t.Errorf("%s: %s: %q, %+v", api, h.Name, text, h)
					}
					return err
				}
			case "ping":
				if h.PAXRecords["SCHILY.xattr.security.capability"] == "" || h.Mode&0o7777 != 0o4755 {
					t.Errorf("%s: %+v", api, h)
				}
			}
			return nil
		})
		slices.Sort(names)
		if got := strings.Join(names, " "); err != nil || got != ". data.json etc etc/os-release hard lib ping proc srv srv/page" {
			t.Errorf("%s: %s, %v", api, got, err)
		}
	}
	cli := d.client(t)
	defer cli.Close()
	left, err := cli.ContainerList(t.Context(), container.ListOptions{All: true})
	volumes, err2 := cli.VolumeList(t.Context(), volume.ListOptions{})
	if err != nil || err2 != nil || len(left) != 0 || len(volumes.Volumes) != 0 {
		t.Errorf("left %v, %v, %v, %v", left, volumes.Volumes, err, err2)
	}
}

// What an agent that died has left is removed by the next at its first list; another node's and what people made stays.
func TestExportLeftBehind(t *testing.T) {
	d := startDockerd(t)
	d.importTar(t, "files:1", nil, &tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644})
	for _, node := range []string{"n1", "n2"} {
		if _, err := d.engine(t, node).createExport(t.Context(), "files:1"); err != nil {
			t.Fatal(err)
		}
	}
	e := d.engine(t, "n1")
	cli := d.client(t)
	defer cli.Close()
	for range 2 {
		if _, err := e.Pods(t.Context()); err != nil {
			t.Fatal(err)
		}
		left, err := cli.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelExport))})
		if err != nil || len(left) != 1 || left[0].Labels[labelExport] != "n2" {
			t.Errorf("left %v, %v", left, err)
		}
	}
	// A reader that gives up leaves none either.
	ctx, cancel := context.WithCancel(t.Context())
	err := e.ExportImage(ctx, "files:1", func(*tar.Header, io.Reader) error {
		cancel()
		return ctx.Err()
	})
	left, err2 := cli.ContainerList(t.Context(), container.ListOptions{All: true})
	if err == nil || err2 != nil || len(left) != 1 {
		t.Errorf("%v; left %v, %v", err, left, err2)
	}
}
