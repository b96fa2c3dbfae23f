package bolt

import (
	"errors"
	"testing"

	"github.com/whalepod/whalepod/master/internal/store"
)

// TestHistoryBounds appends events one by one: never more than allowed, never fewer than three quarters of it, and the
// floor is always right behind what is gone.
func TestHistoryBounds(t *testing.T) {
	for name, c := range map[string]struct {
		maxEvents, maxBytes, weight, least, most int
	}{
		"by count":      {maxEvents: 100, maxBytes: 1 << 30, weight: 1000, least: 75, most: 100},
		"by size":       {maxEvents: 1 << 20, maxBytes: 100_000, weight: 1000, least: 74, most: 100},
		"all too large": {maxEvents: 100, maxBytes: 1000, weight: 5000, least: 0, most: 0},
	} {
		t.Run(name, func(t *testing.T) {
			topic := newTopic(7)
			full := false
			for revision := int64(8); revision < 1000; revision++ {
				earlier := topic.recent.Load()
				topic.append([]store.Event{{Revision: revision}}, []int{c.weight}, c.maxEvents, c.maxBytes)
				h := topic.recent.Load()
				n := len(h.events)
				full = full || h.floor > 7
				if n > c.most || full && n < c.least {
					t.Fatalf("%d events kept at %d", n, revision)
				}
				if n != len(topic.weight) || topic.total != n*c.weight || h.floor+int64(n) != revision {
					t.Fatalf("%d events, %d weights, total %d, floor %d at %d", n, len(topic.weight), topic.total, h.floor, revision)
				}
				if _, err := h.since(h.floor-1, revision); !errors.Is(err, store.ErrCompacted) {
					t.Fatalf("before the floor: %v", err)
				}
				if events, err := h.since(h.floor, revision); err != nil || len(events) != n {
					t.Fatalf("since the floor: %d events, %v", len(events), err)
				}
				if events, err := h.since(h.floor, revision-1); err != nil || n > 0 && len(events) != n-1 {
					t.Fatalf("up to the last but one: %d events, %v", len(events), err)
				}
				for i, e := range earlier.events { // a slow reader's view does not change under it
					if e.Revision != earlier.floor+1+int64(i) {
						t.Fatalf("an earlier history has changed at %d", revision)
					}
				}
			}
		})
	}
}
