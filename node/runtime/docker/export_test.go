package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

func TestExportFilter(t *testing.T) {
	began := time.Unix(1_800_000_000, 0)
	old, fresh := began.Add(-time.Hour), began.Add(time.Second)
	dir := func(name string, at time.Time) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeDir, ModTime: at}
	}
	file := func(name string, at time.Time) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, ModTime: at}
	}
	cases := map[string]struct {
		in   []*tar.Header
		want string
	}{
		"only what the engine adds": {[]*tar.Header{file(".dockerenv", fresh), file("data.json", old), dir("dev/", fresh), file("dev/console", fresh),
			dir("dev/pts/", fresh), dir("dev/shm/", fresh), dir("etc/", fresh), file("etc/hosts", fresh), file("etc/mtab", fresh), dir("proc/", fresh), dir("sys/", fresh)},
			". data.json"},
		"an etc of its own": {[]*tar.Header{dir("./", old), dir("etc/", fresh), file("etc/hosts", fresh), file("etc/os-release", old), file("etc/passwd", old)},
			". etc etc/os-release etc/passwd"},
		"directories of its own": {[]*tar.Header{dir("dev/", old), dir("proc/", old), dir("sys/", fresh), dir("tmp/", fresh)}, ". dev proc tmp"},
		"deep in a held one":     {[]*tar.Header{dir("dev/", fresh), dir("dev/pts/", fresh), file("dev/pts/x", old), file("dev/y", old)}, ". dev dev/pts dev/pts/x dev/y"},
		"alike at another place": {[]*tar.Header{dir("srv", fresh), file("srv/.dockerenv", fresh)}, ". srv srv/.dockerenv"},
		"absolute":               {[]*tar.Header{dir("/", old), file("/a", old)}, ". a"},
	}
	for name, c := range cases {
		var got []string
		f := exportFilter{began: began, visit: func(h *tar.Header, _ io.Reader) error {
			got = append(got, h.Name)
			return nil
		}}
		for _, h := range c.in {
			if err := f.take(h, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
	f := exportFilter{visit: func(*tar.Header, io.Reader) error { return nil }}
	for _, bad := range []string{"../x", "a/../../x", "/../..", ".."} {
		if err := f.take(file(bad, old), nil); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// FuzzExportFilter: whatever the archive says, names stay inside and come after their directories' names were seen.
func FuzzExportFilter(f *testing.F) {
	var seed bytes.Buffer
	w := tar.NewWriter(&seed)
	for _, name := range []string{"etc/", "etc/hosts", "etc/../../x", "/dev/console", "a"} {
		_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, ModTime: time.Unix(5, 0)})
	}
	_ = w.Close()
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		var seen []string
		filter := exportFilter{began: time.Unix(1, 0), visit: func(h *tar.Header, _ io.Reader) error {
			if strings.HasPrefix(h.Name, "/") || slices.Contains(strings.Split(h.Name, "/"), "..") {
				t.Errorf("name %q", h.Name)
			}
			seen = append(seen, h.Name)
			return nil
		}}
		r := tar.NewReader(bytes.NewReader(data))
		for {
			h, err := r.Next()
			if err != nil || filter.take(h, r) != nil {
				break
			}
		}
		if len(seen) > 0 && seen[0] != "." {
			t.Errorf("the root comes after %s", seen[0])
		}
	})
}
