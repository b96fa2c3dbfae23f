package lean

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestClean(t *testing.T) {
	const smaps = `00400000-00401000 r--p 00000000 fe:00 42                                 /usr/bin/wp master
Size:                  4 kB
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
00401000-00403000 r-xp 00001000 fe:00 42                                 /usr/bin/wp master
Rss:                   8 kB
Anonymous:             4 kB
00403000-00404000 rw-p 00003000 fe:00 42                                 /usr/bin/wp master
Anonymous:             0 kB
00405000-00406000 r--p 00003000 fe:00 43                                 /usr/lib/other
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000010000 r--s 00000000 fe:00 42                         /usr/bin/wp master
Anonymous:             0 kB
7fff0000-7fff1000 r-xp 00000000 fe:00 42                                 /usr/bin/wp master
Anonymous:             0 kB
`
	want := []mapping{{0x400000, 0x401000}, {0x7fff0000, 0x7fff1000}}
	if diff := cmp.Diff(want, clean(strings.NewReader(smaps), "/usr/bin/wp master"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Error(diff)
	}
}

// TestRelease releases this program's own pages, and lives.
func TestRelease(t *testing.T) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if len(clean(f, exe)) == 0 {
		t.Error("no mapping of the program itself found")
	}
	for range 3 {
		release()
	}
}
