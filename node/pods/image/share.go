package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// pull is one download that several may wait for.
type pull struct {
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	image   runtime.Image
	took    time.Duration
	err     error
}

// share joins the pull of the same image with the same credentials, or starts it. When the last who waits gives up, the
// pull ends. Pulls with different credentials are not shared: one pod's rights are not another's.
func (p *Puller) share(ctx context.Context, ref string, auths []runtime.Auth) (runtime.Image, time.Duration, error) {
	key := shareKey(ref, auths)
	p.mu.Lock()
	pl := p.pulls[key]
	if pl == nil {
		// The pull must outlive the pod that asked first, if another waits for it too.
		pullCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullTimeout)
		pl = &pull{cancel: cancel, done: make(chan struct{})}
		p.pulls[key] = pl
		go p.download(pullCtx, key, pl, ref, auths)
	}
	pl.waiters++
	p.mu.Unlock()
	select {
	case <-pl.done:
		return pl.image, pl.took, pl.err
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		if pl.waiters--; pl.waiters == 0 {
			pl.cancel()
			if p.pulls[key] == pl {
				delete(p.pulls, key)
			}
		}
		return runtime.Image{}, 0, ctx.Err()
	}
}

func shareKey(ref string, auths []runtime.Auth) string {
	var b strings.Builder
	b.WriteString(ref)
	for _, a := range auths {
		fmt.Fprintf(&b, "\x00%s\x00%s\x00%s", a.Username, a.Password, a.IdentityToken)
	}
	return b.String()
}

// download waits for a slot and tries each credential.
func (p *Puller) download(ctx context.Context, key string, pl *pull, ref string, auths []runtime.Auth) {
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
	start := time.Now()
	if len(auths) == 0 {
		pl.image, pl.err = p.cfg.Images.Pull(ctx, ref, nil, nil)
	}
	var errs []error
	for i := range auths {
		image, err := p.cfg.Images.Pull(ctx, ref, &auths[i], nil)
		if err == nil {
			pl.image, errs = image, nil
			break
		}
		errs = append(errs, err)
		if !errors.Is(err, runtime.ErrImageDenied) {
			break // another password will not make an absent image present
		}
	}
	if len(errs) > 0 {
		pl.err = errs[len(errs)-1]
	}
	pl.took = time.Since(start)
	if pl.err != nil {
		p.cfg.Log.Info("image could not be pulled", "image", ref, "err", pl.err)
	}
}
