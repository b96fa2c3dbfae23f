package lean

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

func TestLimitFor(t *testing.T) {
	for _, c := range []struct{ floor, alive, now, want int64 }{
		{400, 100, 400, 400},
		{400, 350, 400, 525},
		{400, 300, 400, 400}, // not worth a stop
		{400, 600, 400, 900},
		{400, 620, 900, 900},
		{400, 1200, 900, 1800},
		{400, 600, 1800, 900},
		{400, 200, 420, 400},
	} {
		if got := limitFor(c.floor, c.alive, c.now); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// A limit is no lower than what is alive, and comes back when that is less.
func TestAdjust(t *testing.T) {
	defer debug.SetMemoryLimit(math.MaxInt64)
	const floor, size = 32 << 20, 64 << 20
	debug.SetMemoryLimit(floor)
	held := make([]byte, size)
	runtime.GC()
	adjust(floor)
	if got := debug.SetMemoryLimit(-1); got < size*3/2 {
		t.Errorf("with %d bytes alive the limit is %d", size, got)
	}
	runtime.KeepAlive(held)
	held = nil
	runtime.GC()
	adjust(floor)
	if got := debug.SetMemoryLimit(-1); got != floor {
		t.Errorf("with nothing alive the limit is %d", got)
	}
}
