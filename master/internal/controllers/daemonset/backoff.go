package daemonset

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A failed pod is replaced at once, the next one after a second, and so on up to a quarter of an hour.
const firstDelay, lastDelay = time.Second, 15 * time.Minute

// failures remembers for how long failed pods of a node are to be left alone.
type failures struct {
	mu    sync.Mutex
	known map[failureKey]failure
}

type failureKey struct {
	daemonSet types.UID
	// generation: another template may do better.
	generation int64
	node       string
}

type failure struct {
	at    time.Time
	delay time.Duration
}

// left is how long to wait yet.
func (f *failures) left(now time.Time, key failureKey) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, ok := f.known[key]
	if !ok {
		return 0
	}
	return max(0, was.at.Add(was.delay).Sub(now))
}

// replaced notes that a failed pod has been deleted, and forgets what is long past.
func (f *failures) replaced(now time.Time, key failureKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, was := range f.known {
		if now.Sub(was.at) > 2*lastDelay {
			delete(f.known, k)
		}
	}
	if f.known == nil {
		f.known = map[failureKey]failure{}
	}
	delay := firstDelay
	if was, ok := f.known[key]; ok {
		delay = min(2*was.delay, lastDelay)
	}
	f.known[key] = failure{now, delay}
}
