package lean

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestIdle(t *testing.T) {
	const mb = 1 << 20
	before := heap{allocated: 1000 * mb}
	for _, c := range []struct {
		name string
		now  heap
		want bool
	}{
		{"after a burst, its garbage is there", heap{alive: 80 * mb, objects: 120 * mb, allocated: 1001 * mb}, true},
		{"after a burst, its room is kept", heap{alive: 80 * mb, objects: 80 * mb, free: 40 * mb, allocated: 1001 * mb}, true},
		{"under way", heap{alive: 80 * mb, objects: 120 * mb, allocated: 1100 * mb}, false},
		{"at rest, all given back", heap{alive: 80 * mb, objects: 88 * mb, free: 4 * mb, allocated: 1001 * mb}, false},
		{"small, and at rest", heap{alive: 6 * mb, objects: 8 * mb, free: 2 * mb, allocated: 1002 * mb}, false},
		{"small, with room", heap{alive: 6 * mb, objects: 8 * mb, free: 5 * mb, allocated: 1002 * mb}, true},
		{"the last collection was before everything went", heap{alive: 80 * mb, objects: 10 * mb, free: 20 * mb, allocated: 1001 * mb}, false},
	} {
		if got := c.now.idle(before); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// What is read is what this program has.
func TestReadHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // what is held would count as alive after a collection in between
	runtime.GC()
	before := readHeap()
	held := make([]byte, 64<<20)
	if now := readHeap(); now.objects < before.objects+60<<20 || now.allocated < before.allocated+60<<20 || now.alive > before.alive+30<<20 {
		t.Errorf("%+v, then %+v", before, now)
	}
	runtime.KeepAlive(held)
	debug.FreeOSMemory()
	if now := readHeap(); now.objects+now.free > before.objects+before.free+8<<20 {
		t.Errorf("%+v, and after all: %+v", before, now)
	}
}
