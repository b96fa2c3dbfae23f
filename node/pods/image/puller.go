package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// Reasons as they stand in a waiting container's status.
const (
	ErrImagePull      = "ErrImagePull"
	ImagePullBackOff  = "ImagePullBackOff"
	ErrImageNeverPull = "ErrImageNeverPull"
	InvalidImageName  = "InvalidImageName"
	ImageInspectError = "ImageInspectError"
)

// Timing. Back-off as documented: 10 s, doubling, at most 5 min; forgotten after twice the maximum.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 5 * time.Minute
	// showError is how long ErrImagePull stands before it becomes ImagePullBackOff.
	showError = 3 * time.Second
	// retryAbsent is when an image that must not be pulled is looked for again.
	retryAbsent = 30 * time.Second
	lookTimeout = 30 * time.Second
	// pullTimeout bounds a pull that makes no end; slow lines need long.
	pullTimeout = time.Hour
	knownMax    = 256
)

// Config of a Puller.
type Config struct {
	Images runtime.Images
	// Parallel pulls at a time; 0 is 3.
	Parallel int
	// NodeConfigs are Docker config.json files of the node, used for all pods.
	NodeConfigs []string
	// Dir is where the Puller remembers whose secrets were good for which image; empty: it forgets with the process.
	Dir string
	Log *slog.Logger
}

// Puller gets images. Safe for concurrent use.
type Puller struct {
	cfg     Config
	slots   chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	pulls   map[string]*pull
	backoff map[string]*backoff
	// known images, so that a second pod of the same image asks the engine nothing.
	known map[string]runtime.Image
	// loaded is when an administrator brought an image, by reference: whoever failed before looks again.
	loaded  map[string]time.Time
	records *records
}

type backoff struct {
	delay time.Duration
	since time.Time
	last  string
}

// New makes a Puller.
func New(cfg Config) *Puller {
	if cfg.Parallel <= 0 {
		cfg.Parallel = 3
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Puller{
		cfg: cfg, slots: make(chan struct{}, cfg.Parallel), pulls: map[string]*pull{}, backoff: map[string]*backoff{},
		known: map[string]runtime.Image{}, loaded: map[string]time.Time{}, records: openRecords(cfg.Dir, cfg.Log),
	}
}

// Request for one container's image.
type Request struct {
	PodUID string
	// Ref as in the pod.
	Ref    string
	Policy corev1.PullPolicy
	// Credentials of the pod's pull secrets.
	Credentials Credentials
	// Event receives the kubelet's words. It must not block.
	Event func(eventType, reason, message string)
}

// Start gets the image; wake is called when the Job is done, unless it is done already on return.
func (p *Puller) Start(ctx context.Context, r Request, wake func()) *Job {
	ctx, cancel := context.WithCancel(ctx)
	ref, err := normalize(r.Ref)
	j := &Job{p: p, ref: ref, cancel: cancel}
	if err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", r.Ref, r.Ref, err)
		r.Event(corev1.EventTypeWarning, "InspectFailed", msg)
		j.finish(runtime.Image{}, failed(r, InvalidImageName, msg, retryAbsent))
		return j
	}
	if r.Policy != corev1.PullAlways {
		if image, ok := p.knows(ref); ok && p.records.allows(ref, image.ID, r.Credentials.match(ref)) {
			p.present(r)
			j.finish(image, nil)
			return j
		}
	}
	if r.Policy == corev1.PullAlways {
		if e := p.inBackoff(r, ref); e != nil {
			j.finish(runtime.Image{}, e)
			return j
		}
	}
	p.running.Go(func() {
		defer cancel()
		image, e := p.get(ctx, r, ref)
		j.finish(image, e)
		wake()
	})
	return j
}

// Wait until everything that was started has ended, as it does soon when the contexts of Start have; nothing is started
// any more then.
func (p *Puller) Wait() { p.running.Wait() }

// normalize adds the tag that everybody means.
func normalize(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", err
	}
	return reference.FamiliarString(reference.TagNameOnly(named)), nil
}

// get looks for the image as the policy says and pulls it if needed.
func (p *Puller) get(ctx context.Context, r Request, ref string) (runtime.Image, *Error) {
	if r.Policy != corev1.PullAlways {
		image, err := p.look(ctx, ref)
		switch {
		case err == nil && p.records.allows(ref, image.ID, r.Credentials.match(ref)):
			p.remember(ref, image)
			p.present(r)
			return image, nil
		case err != nil && !errors.Is(err, runtime.ErrNotFound):
			msg := fmt.Sprintf("Failed to inspect image %q: %v", r.Ref, err)
			r.Event(corev1.EventTypeWarning, "InspectFailed", msg)
			return runtime.Image{}, failed(r, ImageInspectError, msg, backoffFirst)
		case r.Policy == corev1.PullNever: // also when it is there for others: that is nobody's business
			msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.Ref)
			r.Event(corev1.EventTypeWarning, ErrImageNeverPull, msg)
			return runtime.Image{}, failed(r, ErrImageNeverPull, msg, retryAbsent)
		}
		if e := p.inBackoff(r, ref); e != nil {
			return runtime.Image{}, e
		}
	}
	return p.pullNow(ctx, r, ref)
}

func (p *Puller) look(ctx context.Context, ref string) (runtime.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return p.cfg.Images.Image(ctx, ref)
}

func backoffKey(r Request, ref string) string { return r.PodUID + "_" + ref }

// inBackoff returns the error to show while the last failure is too recent.
func (p *Puller) inBackoff(r Request, ref string) *Error {
	p.mu.Lock()
	b := p.backoff[backoffKey(r, ref)]
	p.mu.Unlock()
	if b == nil || !time.Now().Before(b.since.Add(b.delay)) {
		return nil
	}
	msg := fmt.Sprintf("Back-off pulling image %q", r.Ref)
	r.Event(corev1.EventTypeNormal, "BackOff", msg)
	e := failed(r, ImagePullBackOff, msg+": "+ErrImagePull+": "+b.last, 0)
	e.RetryAt = b.since.Add(b.delay)
	return e
}

func (p *Puller) pullNow(ctx context.Context, r Request, ref string) (runtime.Image, *Error) {
	r.Event(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", r.Ref))
	start := time.Now()
	creds := r.Credentials.match(ref)
	for _, file := range p.cfg.NodeConfigs {
		creds = append(creds, FromFile(file).match(ref)...)
	}
	p.records.begin(ref)
	defer p.records.end(ref)
	got, err := p.share(ctx, ref, creds, func(said string) {
		r.Event(corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q: %s", r.Ref, said))
	})
	if ctx.Err() != nil {
		return runtime.Image{}, &Error{Reason: ErrImagePull, Message: ctx.Err().Error(), RetryAt: time.Now()}
	}
	key := backoffKey(r, ref)
	if err != nil {
		msg := explain(r.Ref, err, len(creds) > 0)
		r.Event(corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", r.Ref, msg))
		now := time.Now()
		p.mu.Lock()
		b := p.backoff[key]
		if b == nil || now.Sub(b.since) > 2*backoffMax {
			b = &backoff{delay: backoffFirst}
		} else {
			b = &backoff{delay: min(2*b.delay, backoffMax)}
		}
		b.since, b.last = now, msg
		p.backoff[key] = b
		p.mu.Unlock()
		return runtime.Image{}, failed(r, ErrImagePull, msg, showError)
	}
	p.mu.Lock()
	delete(p.backoff, key)
	p.mu.Unlock()
	p.remember(ref, got.image)
	p.records.add(ref, got.image.ID, got.source(creds))
	p.records.prune(ctx, p.cfg.Images)
	waited := time.Since(start) // less than the pull took for who came when it was under way
	r.Event(corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		r.Ref, min(got.took, waited).Truncate(time.Millisecond), waited.Truncate(time.Millisecond), got.image.SizeBytes))
	return got.image, nil
}

// Forget what is known of an image, when the engine turned out not to have it any more.
func (p *Puller) Forget(ref string) {
	if n, err := normalize(ref); err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.known, n)
	}
}

// ForgetPod drops the back-offs of a pod that is gone.
func (p *Puller) ForgetPod(uid string, refs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ref := range refs {
		if n, err := normalize(ref); err == nil {
			delete(p.backoff, uid+"_"+n)
		}
	}
}

func (p *Puller) knows(ref string) (runtime.Image, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	image, ok := p.known[ref]
	return image, ok
}

func (p *Puller) remember(ref string, image runtime.Image) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= knownMax {
		clear(p.known)
	}
	p.known[ref] = image
}
