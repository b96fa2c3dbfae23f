package registry

import "testing"

// A burst of events is written in parts, so that other writers get in between.
func TestEventBurstInParts(t *testing.T) {
	c := newRecorder(nil)
	for range eventQueue {
		c.queue <- EventInput{}
	}
	for left := eventQueue; left > 0; {
		n := len(c.drain(<-c.queue))
		if n > eventBatch {
			t.Fatalf("%d at once", n)
		}
		left -= n
	}
}
