package probe

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// hookOutput is how much of a hook's output is kept for the message.
const hookOutput = 4 << 10

// Hook runs a postStart or preStop handler until it ends or ctx does. pod describes the pod in messages.
func (p *Prober) Hook(ctx context.Context, h *corev1.LifecycleHandler, t Target, pod string) error {
	name := t.Container.Name
	switch {
	case h.Exec != nil:
		out := &limitedBuffer{max: hookOutput}
		code, err := p.exec.Exec(ctx, t.ContainerID, h.Exec.Command, runtime.Streams{Stdout: out, Stderr: out})
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d", strings.Join(h.Exec.Command, " "), code)
		}
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %w, message: %q", h.Exec.Command, name, pod, err, out.String()) //nolint:staticcheck // the kubelet's words
		}
	case h.HTTPGet != nil:
		if err := p.hookHTTP(ctx, h.HTTPGet, t); err != nil {
			return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %w", h.HTTPGet.Path, name, pod, err)
		}
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			//lint:ignore ST1005 the kubelet's words
			return fmt.Errorf("Sleep lifecycle hook (%d) for Container %q in Pod %q failed - error: container terminated before sleep hook finished", h.Sleep.Seconds, name, pod)
		}
	}
	return nil
}

// hookHTTP: any answer is good enough, only no answer is a failure; plain HTTP is tried when HTTPS meets it.
func (p *Prober) hookHTTP(ctx context.Context, get *corev1.HTTPGetAction, t Target) error {
	req, err := request(get, t.Container, t.PodIP, "lifecycle")
	if err != nil {
		return err
	}
	client := &http.Client{Transport: p.http}
	res, err := client.Do(req.WithContext(ctx))
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		req.URL.Scheme = "http"
		req.Header.Del("Authorization")
		res, err = client.Do(req.WithContext(ctx))
	}
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, res.Body, maxOutput)
	return res.Body.Close()
}
