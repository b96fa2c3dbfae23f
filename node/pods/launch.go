package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/pods/image"
	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
)

// Reasons of a container that could not be started.
const (
	errConfig = "CreateContainerConfigError"
	errCreate = "CreateContainerError"
	errRun    = "RunContainerError"
)

const (
	createFirst = 2 * time.Second
	createMost  = time.Minute
)

// launch an attempt: image, configuration, create, start.
func (w *worker) launch(ctx context.Context, sb *runtime.Sandbox, c *corev1.Container, attempt int) outcome {
	if w.holdBack(c) {
		return outcome{}
	}
	there := w.imageVolumes(ctx, c)
	img, ok := w.image(ctx, c)
	if !ok || !there || w.mustWait(c, sb) {
		return outcome{}
	}
	s, err := w.containerSpec(c, sb, attempt, img)
	if errors.Is(err, volume.ErrImageMount) {
		w.imageVolumeFailed(c, err)
		return outcome{}
	}
	if err != nil {
		w.refuse(c, errConfig, err) // tried again when what it lacks appears
		return outcome{}
	}
	release, err := w.m.acquire(ctx)
	if err != nil {
		return outcome{}
	}
	defer release()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.seq.Add(1)
	id, err := w.m.cfg.Engine.CreateContainer(call, s)
	w.seq.Add(1)
	if err != nil {
		w.createFailed(ctx, c, err)
		return outcome{}
	}
	w.normal(c.Name, "Created", "Container created")
	w.observed.Containers = append([]runtime.Container{{
		ID: id, Pod: w.ref, Name: c.Name, Attempt: attempt, Image: c.Image, ImageID: imageID(img), State: runtime.StateCreated,
		CreatedAt: time.Now(), Labels: s.Labels,
	}}, w.observed.Containers...)
	w.launched(c, id)
	return w.start(ctx, c, &w.observed.Containers[0])
}

// begin starts a container that was created before.
func (w *worker) begin(ctx context.Context, sb *runtime.Sandbox, c *corev1.Container, cur *runtime.Container) outcome {
	if w.holdBack(c) || w.mustWait(c, sb) {
		return outcome{}
	}
	release, err := w.m.acquire(ctx)
	if err != nil {
		return outcome{}
	}
	defer release()
	return w.start(ctx, c, cur)
}

func (w *worker) start(ctx context.Context, c *corev1.Container, cur *runtime.Container) outcome {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.seq.Add(1)
	err := w.m.cfg.Engine.StartContainer(call, cur.ID)
	w.seq.Add(1)
	if ctx.Err() != nil {
		return outcome{}
	}
	if err != nil {
		w.refuse(c, errRun, err)
		w.stale = true
		w.wakeAt(w.retryOf(c).failed(createFirst, createMost))
		return outcome{}
	}
	delete(w.retries, c.Name)
	w.forgetJob(c.Name)
	delete(w.waiting, c.Name)
	cur.State, cur.StartedAt = runtime.StateRunning, time.Now()
	w.normal(c.Name, "Started", "Container started")
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		w.runPostStart(ctx, c, cur.ID)
	} else {
		w.probing(ctx, c, cur)
	}
	return outcome{phase: running, id: cur.ID}
}

// refuse puts the reason where users see it, and tells it once.
func (w *worker) refuse(c *corev1.Container, reason string, err error) {
	now := status.Reason{Reason: reason, Message: err.Error()}
	if w.waiting[c.Name] != now {
		w.warn(c.Name, "Failed", "Error: "+err.Error())
	}
	w.waiting[c.Name] = now
}

func (w *worker) createFailed(ctx context.Context, c *corev1.Container, err error) {
	if ctx.Err() != nil {
		return
	}
	w.stale = true
	switch {
	case errors.Is(err, runtime.ErrConflict): // it is there, and the next turn sees it
	case gone(err): // the image was removed behind our back, or the sandbox
		w.m.pulls.Forget(c.Image)
		w.forgetJob(c.Name)
	default:
		w.refuse(c, errCreate, err)
	}
	r := w.retryOf(c)
	first := r.delay == 0
	w.wakeAt(r.failed(createFirst, createMost))
	if first && (gone(err) || errors.Is(err, runtime.ErrConflict)) { // looking again is likely to help
		r.at, w.again = time.Time{}, true
	}
}

// holdBack tells whether the engine refused the container a moment ago.
func (w *worker) holdBack(c *corev1.Container) bool {
	r := w.retries[c.Name]
	if r == nil || !time.Now().Before(r.at) {
		return false
	}
	w.wakeAt(r.at)
	return true
}

func (w *worker) retryOf(c *corev1.Container) *retry {
	r := w.retries[c.Name]
	if r == nil {
		r = &retry{}
		w.retries[c.Name] = r
	}
	return r
}

// image gets the container's image; false while it is not there.
func (w *worker) image(ctx context.Context, c *corev1.Container) (runtime.Image, bool) {
	pod := w.pod // events must name the pod as it is now, from another goroutine
	return w.pulled(ctx, c.Name, c, image.Request{
		PodUID: w.uid, Ref: c.Image, Policy: c.ImagePullPolicy,
		Event: func(eventType, reason, message string) {
			w.m.cfg.Record.Event(pod, eventType, reason, message, fieldPath(pod, c.Name))
		},
	})
}

// pulled gets an image that a container needs, under a key of its own; while there is none the container says why.
func (w *worker) pulled(ctx context.Context, key string, c *corev1.Container, r image.Request) (runtime.Image, bool) {
	job := w.jobs[key]
	if job == nil {
		r.Credentials = w.credentials()
		job = w.m.pulls.Start(ctx, r, w.poke)
		w.jobs[key] = job
	}
	img, err, done := job.Result()
	switch {
	case !done:
		w.fetching = true
		return img, false
	case err == nil:
		return img, true
	}
	w.waiting[c.Name] = status.Reason{Reason: err.Reason, Message: err.Message}
	if time.Now().Before(err.RetryAt) {
		w.wakeAt(err.RetryAt)
	} else {
		w.forgetJob(key)
		w.again = true
	}
	return img, false
}

func (w *worker) forgetJob(container string) {
	if j := w.jobs[container]; j != nil {
		j.Cancel()
		delete(w.jobs, container)
	}
}

// credentials of the pod's pull secrets, or of its service account's when it names none.
func (w *worker) credentials() image.Credentials {
	refs := w.pod.Spec.ImagePullSecrets
	if len(refs) == 0 {
		if sa, ok := w.m.cfg.Desired.ServiceAccount(w.pod.Namespace, w.pod.Spec.ServiceAccountName); ok {
			refs = sa.ImagePullSecrets
		}
	}
	var secrets []*corev1.Secret
	var missing []string
	for _, r := range refs {
		if s, ok := w.m.cfg.Desired.Secret(w.pod.Namespace, r.Name); ok {
			secrets = append(secrets, s)
		} else if r.Name != "" {
			missing = append(missing, r.Name)
		}
	}
	if len(missing) > 0 {
		w.warn("", "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets ("+join(missing)+"); attempting to pull the image may not succeed.")
	}
	return image.FromSecrets(secrets)
}

func (w *worker) containerSpec(c *corev1.Container, sb *runtime.Sandbox, attempt int, img runtime.Image) (runtime.ContainerSpec, error) {
	vars, err := env.Variables(w.pod, c, w.m.cfg.Desired, w.facts())
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	mounts, err := w.m.volumes.Mounts(w.pod, c, w.volumes.Volumes, vars)
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	own, err := w.ownMounts(c, attempt)
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	for _, m := range own {
		if !slices.ContainsFunc(mounts, func(have runtime.Mount) bool { return have.ContainerPath == m.ContainerPath }) {
			mounts = append(mounts, m)
		}
	}
	target, err := w.pidTarget(c.Name)
	if err != nil {
		return runtime.ContainerSpec{}, err
	}
	return spec.Container(spec.Input{
		Pod: w.pod, Container: c, SandboxID: sb.ID, RuntimeHandler: sb.Labels[spec.LabelHandler], Attempt: attempt, Image: img, Env: vars, Mounts: mounts, PIDTarget: target, NodeMemory: w.m.cfg.NodeMemory,
	})
}

// pidTarget is the running container whose processes an ephemeral container is to see; empty when it names none.
func (w *worker) pidTarget(name string) (id string, err error) {
	for _, e := range w.pod.Spec.EphemeralContainers {
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		for _, c := range status.Attempts(w.observed, e.TargetContainerName) {
			if c.State == runtime.StateRunning {
				return c.ID, nil
			}
		}
		return "", fmt.Errorf("unable to find target container %s", e.TargetContainerName)
	}
	return "", nil
}

// terminationLog is the file behind terminationMessagePath.
func (w *worker) terminationLog(container string, attempt int) string {
	return filepath.Join(w.m.volumes.PodDir(w.uid), "containers", container, strconv.Itoa(attempt))
}

// ownMounts are the files that every container has beside its volumes.
func (w *worker) ownMounts(c *corev1.Container, attempt int) ([]runtime.Mount, error) {
	out := []runtime.Mount{
		{HostPath: w.hostsFile(), ContainerPath: "/etc/hosts"},
		{HostPath: w.resolvFile(), ContainerPath: "/etc/resolv.conf"},
	}
	if c.TerminationMessagePath == "" {
		return out, nil
	}
	log := w.terminationLog(c.Name, attempt)
	if err := os.MkdirAll(filepath.Dir(log), 0o750); err != nil {
		return nil, err
	}
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		return nil, err
	}
	if err := os.Chmod(log, 0o666); err != nil { // any user of the container may write it, whatever our umask is
		return nil, err
	}
	path := c.TerminationMessagePath
	if !filepath.IsAbs(path) {
		path = "/" + path
	}
	return append(out, runtime.Mount{HostPath: log, ContainerPath: path}), nil
}

// imageID as the engine will show it, until it is asked.
func imageID(img runtime.Image) string {
	if len(img.Digests) > 0 {
		return "docker-pullable://" + img.Digests[0]
	}
	return "docker://" + img.ID
}
