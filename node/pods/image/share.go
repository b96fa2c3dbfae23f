package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// A pull that lasts is told of in an event after progressFirst and every progressEvery from then on.
	progressFirst = 10 * time.Second
	progressEvery = 30 * time.Second
	// queued is what is told of a pull that has not begun.
	queued = "waiting for other pulls to end"
)

// pull is one download that several may wait for.
type pull struct {
	cancel  context.CancelFunc
	waiters int
	// said is how far it is.
	said atomic.Pointer[string]
	done chan struct{}
	// Valid once done.
	got pulledImage
	err error
}

// pulledImage is what came of a pull.
type pulledImage struct {
	image runtime.Image
	took  time.Duration
	// used is which of the credentials was good for it; -1 when there were none.
	used int
}

// source is the Secret whose rights brought the image; nil when no Secret was needed.
func (g pulledImage) source(creds Credentials) *Source {
	if g.used < 0 || g.used >= len(creds) {
		return nil
	}
	return creds[g.used].from
}

func (pl *pull) say(text string) { pl.said.Store(&text) }

// share joins the pull of the same image with the same credentials, or starts it. When the last who waits gives up, the
// pull ends. Pulls with different credentials are not shared: one pod's rights are not another's. tell hears now and
// then how far it is.
func (p *Puller) share(ctx context.Context, ref string, creds Credentials, tell func(string)) (pulledImage, error) {
	key := shareKey(ref, creds)
	p.mu.Lock()
	pl := p.pulls[key]
	if pl == nil {
		// The pull must outlive the pod that asked first, if another waits for it too.
		pullCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullTimeout)
		pl = &pull{cancel: cancel, done: make(chan struct{})}
		pl.say(queued)
		p.pulls[key] = pl
		p.running.Go(func() { p.download(pullCtx, key, pl, ref, creds) })
	}
	pl.waiters++
	p.mu.Unlock()
	progress := time.NewTimer(progressFirst)
	defer progress.Stop()
	for told := ""; ; {
		select {
		case <-pl.done:
			return pl.got, pl.err
		case <-progress.C:
			if said := *pl.said.Load(); said != told && said != "" {
				tell(said)
				told = said
			}
			progress.Reset(progressEvery)
		case <-ctx.Done():
			p.leave(key, pl)
			return pulledImage{}, ctx.Err()
		}
	}
}

// leave a pull that is not wanted any more.
func (p *Puller) leave(key string, pl *pull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pl.waiters--; pl.waiters == 0 {
		pl.cancel()
		if p.pulls[key] == pl {
			delete(p.pulls, key)
		}
	}
}

func shareKey(ref string, creds Credentials) string {
	var b strings.Builder
	b.WriteString(ref)
	for _, c := range creds {
		fmt.Fprintf(&b, "\x00%s\x00%s\x00%s", c.auth.Username, c.auth.Password, c.auth.IdentityToken)
	}
	return b.String()
}

// download waits for a slot and pulls.
func (p *Puller) download(ctx context.Context, key string, pl *pull, ref string, creds Credentials) {
	defer pl.cancel()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.pulls[key] == pl {
			delete(p.pulls, key)
		}
		close(pl.done)
	}()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		pl.err = ctx.Err()
		return
	}
	pl.say("")
	start := time.Now()
	pl.got.image, pl.got.used, pl.err = p.try(ctx, ref, creds, pl.say)
	pl.got.took = time.Since(start)
	if pl.err != nil {
		p.cfg.Log.Info("image could not be pulled", "image", ref, "err", pl.err)
	}
}

// try each credential until one is good for the image; used is which. Registries that hide what one may not see answer
// "no such image" too, so only other failures end the search.
func (p *Puller) try(ctx context.Context, ref string, creds Credentials, say func(string)) (image runtime.Image, used int, err error) {
	if len(creds) == 0 {
		image, err = p.cfg.Images.Pull(ctx, ref, nil, say)
		return image, -1, err
	}
	var errs []error
	for i := range creds {
		image, err = p.cfg.Images.Pull(ctx, ref, &creds[i].auth, say)
		if err == nil {
			return image, i, nil
		}
		errs = append(errs, err)
		if !errors.Is(err, runtime.ErrImageDenied) && !errors.Is(err, runtime.ErrImageMissing) {
			break
		}
	}
	return runtime.Image{}, -1, utilerrors.NewAggregate(errs) // says each thing once
}
