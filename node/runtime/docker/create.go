package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker/pause"
)

// cleanupLimit bounds removing what a failed call left, also when the caller's context has ended.
const cleanupLimit = 15 * time.Second

// RunSandbox implements runtime.Runtime: create, start, and one inspection for the PID.
func (d *Engine) RunSandbox(ctx context.Context, spec runtime.SandboxSpec) (runtime.Sandbox, error) {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	f, err := d.features(ctx)
	if err != nil {
		return runtime.Sandbox{}, err
	}
	cfg, host := sandboxRequest(d.node, spec, f)
	id, err := d.runSandbox(ctx, identity{spec.Pod, sandboxName, spec.Attempt}, cfg, host)
	if err != nil {
		return runtime.Sandbox{}, noHandler(err, spec.RuntimeHandler)
	}
	c, err := d.inspect(ctx, id)
	if err != nil {
		return runtime.Sandbox{}, err
	}
	return runtime.Sandbox{
		ID: id, Pod: spec.Pod, Attempt: spec.Attempt, PID: c.PID, Running: c.State == runtime.StateRunning,
		CreatedAt: c.CreatedAt, Labels: givenLabels(cfg.Labels),
	}, nil
}

// noHandler words the refusal of an unknown runtime as other runtimes do; engines say it in their own way, depending on
// their version, when a container is created or started.
func noHandler(err error, handler string) error {
	text := strings.ToLower(err.Error())
	if handler == "" || !strings.Contains(text, "unknown runtime") && !strings.Contains(text, "unknown or invalid runtime") {
		return err
	}
	return mark(runtime.ErrNoHandler, fmt.Errorf("failed to get sandbox runtime: no runtime for %q is configured", handler))
}

// runSandbox creates and starts; it imports the pause image when the engine has none, and finds out on the way whether
// a negative OOM score is allowed. Without CAP_SYS_RESOURCE it is not, and what runc then says differs between its
// versions (from "oom_score_adj: permission denied" to "can't get final child's PID from pipe: EOF"): so any failure
// is tried again without, and the second try tells.
func (d *Engine) runSandbox(ctx context.Context, i identity, cfg *container.Config, host *container.HostConfig) (string, error) {
	known, allowed := d.knownOOM()
	if known && !allowed {
		host.OomScoreAdj = 0
	}
	id, err := d.createStarted(ctx, i, cfg, host)
	switch {
	case err == nil && !known && host.OomScoreAdj < 0:
		d.learnOOM(true)
	case err != nil && !known && mayBeOOM(err):
		host.OomScoreAdj = 0
		if id, err = d.createStarted(ctx, i, cfg, host); err == nil {
			d.learnOOM(false)
			d.log.Info("the engine may not lower oom_score_adj (no CAP_SYS_RESOURCE); containers run with 0 instead")
		}
	}
	return id, err
}

// createStarted leaves nothing behind when it fails.
func (d *Engine) createStarted(ctx context.Context, i identity, cfg *container.Config, host *container.HostConfig) (string, error) {
	id, err := d.create(ctx, i, cfg, host)
	if errors.Is(err, runtime.ErrNotFound) {
		if err = d.importPause(ctx); err == nil {
			id, err = d.create(ctx, i, cfg, host)
		}
	}
	if err != nil {
		return "", err
	}
	if err := d.cli.Load().ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		d.discard(ctx, id)
		return "", classifyStart(err)
	}
	return id, nil
}

// CreateContainer implements runtime.Runtime.
func (d *Engine) CreateContainer(ctx context.Context, spec runtime.ContainerSpec) (string, error) {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	f, err := d.features(ctx)
	if err != nil {
		return "", err
	}
	cfg, host, err := containerRequest(d.node, spec, f)
	if err != nil {
		return "", err
	}
	if host.OomScoreAdj < 0 && !d.tryOOM(ctx) {
		host.OomScoreAdj = 0
	}
	return d.create(ctx, identity{spec.Pod, spec.Name, spec.Attempt}, cfg, host)
}

// create makes a container. If its name is taken by one of ours that was made and never ran (we died, or our context
// ended, between create and start), that one is removed first.
func (d *Engine) create(ctx context.Context, i identity, cfg *container.Config, host *container.HostConfig) (string, error) {
	name := i.name()
	resp, err := d.cli.Load().ContainerCreate(ctx, cfg, host, nil, nil, name)
	if cerrdefs.IsConflict(err) {
		if !d.removeHalfMade(ctx, i) {
			return "", mark(runtime.ErrConflict, err)
		}
		resp, err = d.cli.Load().ContainerCreate(ctx, cfg, host, nil, nil, name)
	}
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			d.log.Debug("gave up creating a container", "container", name)
		}
		return "", classifyCreate(err)
	}
	return resp.ID, nil
}

// classifyCreate keeps "no such image" apart from hopeless requests.
func classifyCreate(err error) error {
	if cerrdefs.IsNotFound(err) {
		return mark(runtime.ErrNotFound, err)
	}
	return classifyStart(err)
}

func (d *Engine) removeHalfMade(ctx context.Context, i identity) bool {
	c, err := d.inspect(ctx, i.name())
	if errors.Is(err, runtime.ErrNotFound) {
		return !strings.Contains(err.Error(), "is not one of") // gone meanwhile: the name is free
	}
	if err != nil || c.State != runtime.StateCreated || !c.StartedAt.IsZero() || c.Pod != i.pod {
		return false
	}
	return d.RemoveContainer(ctx, c.ID) == nil
}

// discard removes a container that could not be started, also when ctx has ended.
func (d *Engine) discard(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	if err := d.RemoveContainer(ctx, id); err != nil {
		d.log.Warn("cannot remove a sandbox that did not start", "container", id, "err", err)
	}
}

// importPause gives the engine the image of the pause program.
func (d *Engine) importPause(ctx context.Context) error {
	ctx, cancel := bounded(ctx, loadLimit)
	defer cancel()
	info, err := d.Info(ctx)
	if err != nil {
		return err
	}
	archive, err := pause.Archive(goArch(info.Architecture))
	if err != nil {
		return mark(runtime.ErrInvalid, err)
	}
	if _, err = d.Load(ctx, strings.NewReader(string(archive)), nil); err != nil {
		return fmt.Errorf("importing %s: %w", pause.Image, err)
	}
	return nil
}

// goArch translates uname's words, which the engine uses, into Go's.
func goArch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return machine
}

func (d *Engine) knownOOM() (known, allowed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.oom != nil, d.oom != nil && *d.oom
}

func (d *Engine) learnOOM(allowed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.oom = &allowed
}

// tryOOM says whether a container may have a negative OOM score. Starting a sandbox answers that; when all sandboxes
// were found running (the agent was restarted), a pause container is started once to find out.
func (d *Engine) tryOOM(ctx context.Context) bool {
	if known, allowed := d.knownOOM(); known {
		return allowed
	}
	probe := runtime.SandboxSpec{Pod: runtime.PodRef{Namespace: "whalepod", Name: "oom-probe", UID: d.node}}
	cfg, host := sandboxRequest(d.node, probe, features{})
	delete(cfg.Labels, labelNode) // nobody's pod: never listed
	id, err := d.runSandbox(ctx, identity{probe.Pod, sandboxName, 0}, cfg, host)
	if err != nil {
		d.log.Warn("cannot find out whether oom_score_adj may be lowered", "err", err)
		return false
	}
	d.discard(ctx, id)
	_, allowed := d.knownOOM()
	return allowed
}
