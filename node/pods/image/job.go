package image

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// Error says why there is no image. It is a waiting container's reason and message.
type Error struct {
	Reason, Message string
	// RetryAt is when to Start again.
	RetryAt time.Time
}

// Job is one Start under way.
type Job struct {
	p      *Puller
	ref    string
	cancel context.CancelFunc
	mu     sync.Mutex
	done   bool
	at     time.Time // when it was done
	image  runtime.Image
	err    *Error
}

// Result returns what became of it; done is false while it is still under way. A failure may be over sooner than it
// said: when the image was loaded meanwhile.
func (j *Job) Result() (image runtime.Image, err *Error, done bool) { //nolint:revive // err is a result, not a failure of Result
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil && j.p.loadedSince(j.ref, j.at) {
		again := *j.err
		again.RetryAt = time.Time{}
		return j.image, &again, j.done
	}
	return j.image, j.err, j.done
}

// Cancel ends it; the pull goes on only if others want it too.
func (j *Job) Cancel() { j.cancel() }

func (j *Job) finish(image runtime.Image, err *Error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.image, j.err, j.done, j.at = image, err, true, time.Now()
}

// Loaded takes note that an administrator brought these images to the engine: every pod may use them, and who waits for
// one of them need not wait any more (see Job.Result).
func (p *Puller) Loaded(ctx context.Context, names []string) {
	for _, name := range names {
		ref, err := normalize(name)
		if err != nil {
			continue // an image without a name, told by its ID: no pod can ask for it
		}
		image, err := p.look(ctx, ref)
		if err != nil {
			p.cfg.Log.Debug("an image that was loaded is not there", "image", ref, "err", err)
			p.Forget(ref)
			continue
		}
		p.records.preload(ref, image.ID)
		p.remember(ref, image)
		p.mu.Lock()
		if len(p.loaded) >= knownMax {
			clear(p.loaded)
		}
		p.loaded[ref] = time.Now()
		for key := range p.backoff {
			if strings.HasSuffix(key, "_"+ref) {
				delete(p.backoff, key)
			}
		}
		p.mu.Unlock()
	}
}

func (p *Puller) loadedSince(ref string, t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.loaded[ref]
	return ok && at.After(t)
}
