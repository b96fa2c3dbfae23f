package docker

import (
	"context"
	"math"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// killLimit is how long an engine may take to end a container after its grace is over.
const killLimit = 30 * time.Second

// StartContainer implements runtime.Runtime.
func (d *Engine) StartContainer(ctx context.Context, id string) error {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	err := d.cli.Load().ContainerStart(ctx, id, container.StartOptions{})
	d.states.forget(id)
	return classifyStart(err)
}

// StopContainer implements runtime.Runtime. The engine counts whole seconds; grace is rounded up.
func (d *Engine) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	seconds := max(0, math.Ceil(grace.Seconds()))
	ctx, cancel := bounded(ctx, time.Duration(seconds)*time.Second+killLimit)
	defer cancel()
	timeout := int(seconds)
	err := d.cli.Load().ContainerStop(ctx, id, container.StopOptions{Timeout: &timeout})
	d.states.forget(id)
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	return classify(err)
}

// RemoveContainer implements runtime.Runtime. Anonymous volumes (VOLUME in an image) go with it.
func (d *Engine) RemoveContainer(ctx context.Context, id string) error {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	cli := d.cli.Load()
	err := cli.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	d.states.forget(id)
	switch {
	case cerrdefs.IsNotFound(err):
		return nil
	case cerrdefs.IsConflict(err) && strings.Contains(err.Error(), "already in progress"):
		return d.waitRemoved(ctx, id)
	}
	return classify(err)
}

// waitRemoved waits until somebody else's removal is through (API 1.30; older engines are asked again by the caller).
func (d *Engine) waitRemoved(ctx context.Context, id string) error {
	done, failed := d.cli.Load().ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-done:
		return nil
	case err := <-failed:
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		return classify(err)
	}
}
