package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/runtime"
)

var (
	imageA = "sha256:" + strings.Repeat("a", 64)
	imageB = "sha256:" + strings.Repeat("b", 64)
)

// entry of an archive that belongs to whoever runs the test.
func entry(name string, kind byte, mode int64, text string) *tar.Header {
	h := &tar.Header{Name: name, Typeflag: kind, Mode: mode, Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1_000_000_000, 0)}
	switch kind {
	case tar.TypeReg:
		h.Size = int64(len(text))
		h.PAXRecords = map[string]string{"text": text}
	case tar.TypeSymlink, tar.TypeLink:
		h.Linkname = text
	}
	return h
}

// exporter has the same files in every image.
type exporter struct {
	files []*tar.Header
	takes time.Duration
	err   error
	calls atomic.Int32
}

func (e *exporter) ExportImage(ctx context.Context, _ string, visit runtime.Visit) error {
	e.calls.Add(1)
	for _, h := range e.files {
		if err := visit(h, strings.NewReader(h.PAXRecords["text"])); err != nil {
			return err
		}
	}
	select {
	case <-time.After(e.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	return e.err
}

func imageManager(t *testing.T, e runtime.Exporter) *Manager {
	t.Helper()
	m, _ := manager(t, source{})
	m.cfg.Images, m.cfg.ImagesDir = e, filepath.Join(t.TempDir(), "images")
	return m
}

func imagePod(uid string) *corev1.Pod {
	p := pod(vol(corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "img"}}))
	p.UID = types.UID("uid-" + uid)
	return p
}

func use(t *testing.T, m *Manager, p *corev1.Pod, id string) Mounted {
	t.Helper()
	if err := m.SetImage(p, "v", Image{ID: id, Ref: "docker://" + id}); err != nil {
		t.Fatal(err)
	}
	if err := m.UnpackImage(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	v, ok := m.MountedImage(p, "v")
	if !ok {
		t.Fatal("not mounted")
	}
	return v
}

// What an image has is there, with its modes, times and links; what could lead outside does not.
func TestUnpackImage(t *testing.T) {
	e := &exporter{files: []*tar.Header{
		entry(".", tar.TypeDir, 0o755, ""), entry("bin", tar.TypeDir, 0o555, ""), entry("bin/su", tar.TypeReg, 0o4755, "elf"),
		entry("bin/link", tar.TypeLink, 0, "bin/su"), entry("lib", tar.TypeSymlink, 0o777, "../../etc"), entry("abs", tar.TypeSymlink, 0o777, "/etc/passwd"),
		entry("tmp", tar.TypeDir, 0o1777, ""), entry("null", tar.TypeChar, 0o666, ""), entry("pipe", tar.TypeFifo, 0o666, ""), entry("secret", tar.TypeReg, 0o400, ""),
		entry("deep/er/file", tar.TypeReg, 0o640, "deep"),
	}}
	m := imageManager(t, e)
	v := use(t, m, imagePod("1"), imageA)
	if !v.ReadOnly || v.Image == nil || v.Image.Ref != "docker://"+imageA {
		t.Errorf("volume %+v", v)
	}
	for name, want := range map[string]fs.FileMode{
		"bin": fs.ModeDir | 0o555, "bin/su": fs.ModeSetuid | 0o755, "bin/link": fs.ModeSetuid | 0o755, "lib": fs.ModeSymlink | 0o777,
		"tmp": fs.ModeDir | fs.ModeSticky | 0o777, "secret": 0o400, "deep/er/file": 0o640, ".": fs.ModeDir | 0o755,
	} {
		info, err := os.Lstat(filepath.Join(v.Path, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		} else if at := info.ModTime(); name != "lib" && at.Unix() != 1_000_000_000 {
			t.Errorf("%s has the time %v", name, at)
		}
	}
	su, _ := os.Stat(filepath.Join(v.Path, "bin/su"))
	if n := su.Sys().(*syscall.Stat_t).Nlink; n != 2 {
		t.Errorf("%d links", n)
	}
	if text, err := os.ReadFile(filepath.Join(v.Path, "deep/er/file")); err != nil || string(text) != "deep" {
		t.Errorf("%q, %v", text, err)
	}
	for _, absent := range []string{"null", "pipe"} {
		if _, err := os.Lstat(filepath.Join(v.Path, absent)); err == nil {
			t.Errorf("%s is there", absent)
		}
	}
	if info, err := os.Stat(m.cfg.ImagesDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can reach setuid files: %v, %v", info, err)
	}
	if err := os.Chmod(filepath.Join(v.Path, "bin"), 0o755); err != nil { // else only root can clean up
		t.Fatal(err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	for name, files := range map[string][]*tar.Header{
		"a path outside":           {entry("../x", tar.TypeReg, 0o644, "x")},
		"an absolute path":         {entry("/x", tar.TypeReg, 0o644, "x")},
		"through a symlink":        {entry("out", tar.TypeSymlink, 0, "../.."), entry("out/x", tar.TypeReg, 0o644, "x")},
		"over a symlink":           {entry("out", tar.TypeSymlink, 0, "../../x"), entry("out", tar.TypeReg, 0o644, "x")},
		"a hard link outside":      {entry("x", tar.TypeLink, 0, "../../x")},
		"a link through a symlink": {entry("out", tar.TypeSymlink, 0, "/etc"), entry("x", tar.TypeLink, 0, "out/passwd")},
		"a directory over a link":  {entry("out", tar.TypeSymlink, 0, ".."), entry("out", tar.TypeDir, 0o777, "")},
	} {
		m := imageManager(t, &exporter{files: files})
		p := imagePod("1")
		if err := m.SetImage(p, "v", Image{ID: imageA}); err != nil {
			t.Fatal(err)
		}
		if err := m.UnpackImage(t.Context(), imageA); err == nil {
			t.Errorf("%s was let through", name)
		}
		if _, ok := m.MountedImage(p, "v"); ok {
			t.Errorf("%s: mounted", name)
		}
		if left, err := os.ReadDir(m.cfg.ImagesDir); err != nil || len(left) != 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
	for _, id := range []string{"", "img", "sha256:../../x", "sha256:" + strings.Repeat("A", 64), imageA + "a"} {
		m := imageManager(t, &exporter{})
		if m.UnpackImage(t.Context(), id) == nil || m.SetImage(imagePod("1"), "v", Image{ID: id}) == nil {
			t.Errorf("ID %q was taken", id)
		}
	}
}

// Pods share the files of an image; the last one takes them away.
func TestImageShared(t *testing.T) {
	e := &exporter{files: []*tar.Header{entry("a", tar.TypeReg, 0o644, "a")}}
	m := imageManager(t, e)
	p, q := imagePod("1"), imagePod("2")
	first, second := use(t, m, p, imageA), use(t, m, q, imageA)
	if first.Path != second.Path || e.calls.Load() != 1 {
		t.Errorf("%s and %s, unpacked %d times", first.Path, second.Path, e.calls.Load())
	}
	other := use(t, m, imagePod("3"), imageB)
	// Another agent finds it.
	again := New(m.cfg)
	if v, ok := again.MountedImage(q, "v"); !ok || v.Path != first.Path {
		t.Errorf("after a restart: %+v, %v", v, ok)
	}
	if r := again.Prepare(t.Context(), q, env.Facts{}); len(r.Failures) != 0 || r.Volumes["v"].Path != first.Path {
		t.Errorf("after a restart: %+v", r)
	}
	for _, uid := range []string{"uid-1", "uid-2"} {
		if _, err := os.Stat(filepath.Join(first.Path, "a")); err != nil {
			t.Errorf("before %s goes: %v", uid, err)
		}
		if err := again.Teardown(uid); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(first.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the last pod: %v", err)
	}
	if _, err := os.Stat(filepath.Join(other.Path, "a")); err != nil {
		t.Errorf("the other image: %v", err)
	}
	// What a crash has left goes too.
	for _, name := range []string{strings.Repeat("c", 64) + newSuffix, strings.Repeat("d", 64) + oldSuffix, strings.Repeat("e", 64), imageB[7:] + newSuffix} {
		if err := os.MkdirAll(filepath.Join(m.cfg.ImagesDir, name, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := again.CollectImages(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(m.cfg.ImagesDir); err != nil || len(left) != 1 || left[0].Name() != imageB[7:] {
		t.Errorf("left %v, %v", left, err)
	}
}

// Who waits for somebody else's unpacking goes on when that one gives up.
func TestUnpackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &exporter{files: []*tar.Header{entry("a", tar.TypeReg, 0o644, "a")}, takes: time.Minute}
		m := imageManager(t, e)
		p := imagePod("1")
		if err := m.SetImage(p, "v", Image{ID: imageA}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 3)
		go func() { ended <- m.UnpackImage(ctx, imageA) }()
		synctest.Wait()
		for range 2 {
			go func() { ended <- m.UnpackImage(t.Context(), imageA) }()
		}
		synctest.Wait()
		if err := m.CollectImages(); err != nil { // must not touch it, nor wait
			t.Error(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if _, ok := m.MountedImage(p, "v"); !ok || e.calls.Load() != 2 {
			t.Errorf("mounted %v, unpacked %d times", ok, e.calls.Load())
		}
	})
}

func TestImageSubPath(t *testing.T) {
	m := imageManager(t, &exporter{files: []*tar.Header{entry("etc/passwd", tar.TypeReg, 0o644, "root:"), entry("up", tar.TypeSymlink, 0, "../..")}})
	p := imagePod("1")
	v := use(t, m, p, imageA)
	c := &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "etc"}}}
	mounts, err := m.Mounts(p, c, map[string]Mounted{"v": v}, nil)
	if err != nil || len(mounts) != 1 || !mounts[0].ReadOnly {
		t.Errorf("%+v, %v", mounts, err)
	}
	c.VolumeMounts[0].SubPath = "not-existing"
	if _, err := m.Mounts(p, c, map[string]Mounted{"v": v}, nil); !errors.Is(err, ErrImageMount) ||
		err.Error() != `ImageVolumeMountFailed: the image of volume "v" has no subPath "not-existing"` {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(filepath.Join(v.Path, "not-existing")); err == nil {
		t.Error("it was made")
	}
	for _, bad := range []string{"up/x", "../x", "/etc"} {
		c.VolumeMounts[0].SubPath = bad
		if _, err := m.Mounts(p, c, map[string]Mounted{"v": v}, nil); err == nil {
			t.Errorf("%s was let through", bad)
		}
	}
}

// FuzzUnpack: no archive makes anything outside of its directory, or makes the agent panic.
func FuzzUnpack(f *testing.F) {
	archive := func(files ...*tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range files {
			text := h.PAXRecords["text"]
			h.PAXRecords = nil
			_ = w.WriteHeader(h)
			_, _ = io.WriteString(w, text)
		}
		_ = w.Close()
		return b.Bytes()
	}
	f.Add(archive(entry("a", tar.TypeDir, 0o755, ""), entry("a/b", tar.TypeReg, 0o644, "text")))
	f.Add(archive(entry("out", tar.TypeSymlink, 0, "../.."), entry("out/guard", tar.TypeReg, 0o644, "x")))
	f.Add(archive(entry("x", tar.TypeLink, 0, "../guard"), entry("x", tar.TypeReg, 0o644, "x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		guard := filepath.Join(top, "guard")
		if err := os.WriteFile(guard, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		in := filepath.Join(top, "in")
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(in)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = root.Close() }()
		u := &unpacker{root: root}
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			h.Uid, h.Gid, h.Mode = os.Getuid(), os.Getgid(), h.Mode|0o700 // so that the test can clean up
			if err := u.file(h, io.LimitReader(r, 1<<20)); err != nil {
				break
			}
		}
		_ = u.finish()
		entries, err := os.ReadDir(top)
		text, _ := os.ReadFile(guard)
		if err != nil || len(entries) != 2 || string(text) != "mine" {
			t.Errorf("outside: %v, %q, %v", entries, text, err)
		}
	})
}
