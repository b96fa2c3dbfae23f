package lean

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// window is how long the program is watched before it counts as idle, and share the part of what is alive that it may allocate
	// in that time; so much must there be to gain, and worth as well.
	window = 15 * time.Second
	share  = 8
	worth  = 4 << 20
)

// heap is what the runtime says of its memory, in bytes.
type heap struct {
	alive     uint64 // found by the last collection
	objects   uint64 // alive, dead, and new since
	free      uint64 // held and not used
	allocated uint64 // since the start
}

// idle tells whether the program did little since before, and holds memory that it does not need. The collector comes when enough has been
// allocated, or after two minutes, and what it frees it keeps: what a burst of work took stays until the next one.
func (h heap) idle(before heap) bool {
	gain := h.objects + h.free - min(h.alive, h.objects+h.free)
	return h.allocated-before.allocated < h.alive/share+worth && gain > h.alive/share+worth
}

func readHeap() heap {
	s := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(s)
	n := make([]uint64, len(s))
	for i := range s {
		if s[i].Value.Kind() == metrics.KindUint64 {
			n[i] = s[i].Value.Uint64()
		}
	}
	return heap{n[0], n[1], n[2], n[3]}
}

// keepHeap gives the system back what the heap does not need once the program has come to rest, until ctx ends.
func keepHeap(ctx context.Context) {
	t := time.NewTicker(window)
	defer t.Stop()
	for before := readHeap(); ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			now := readHeap()
			if now.idle(before) {
				debug.FreeOSMemory()
				now = readHeap()
			}
			before = now
		}
	}
}
