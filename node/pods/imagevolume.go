package pods

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/image"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
)

// volumeJob is the key of an image volume's pull; no container can be called so.
func volumeJob(name string) string { return "volume/" + name }

// unpack of an image for a volume, under way or over.
type unpack struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	done   bool
	err    error
}

func (u *unpack) result() (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.done, u.err
}

// imageVolumes makes the image volumes that a container mounts be there; false while they are not. As in the kubelet (KEP-4639)
// it is the container that waits and says why, in the words that it has for its own image. Volumes that no container
// mounts are not pulled.
func (w *worker) imageVolumes(ctx context.Context, c *corev1.Container) bool {
	ok := true
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		if v.Image == nil || !mounts(c, v.Name) {
			continue
		}
		if mounted, there := w.m.volumes.MountedImage(w.pod, v.Name); there {
			w.volumes.Volumes[v.Name] = mounted
			delete(w.unpacks, v.Name)
			continue
		}
		w.imageVolume(ctx, c, v) // and the next at the same time
		ok = false
	}
	return ok
}

func mounts(c *corev1.Container, volume string) bool {
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].Name == volume {
			return true
		}
	}
	return false
}

// imageVolume brings one forward by a step: its image is pulled, noted, unpacked.
func (w *worker) imageVolume(ctx context.Context, c *corev1.Container, v *corev1.Volume) {
	known, ok := w.m.volumes.Image(w.pod, v.Name)
	if !ok {
		img, ok := w.volumeImage(ctx, c, v)
		if !ok {
			return
		}
		known = volume.Image{ID: img.ID, Ref: imageID(img)}
		if err := w.m.volumes.SetImage(w.pod, v.Name, known); err != nil {
			w.imageVolumeFailed(c, err)
			return
		}
		w.forgetJob(volumeJob(v.Name))
	}
	u := w.unpacks[v.Name]
	if u == nil {
		w.fetching = true
		w.startUnpack(ctx, v.Name, known.ID)
		return
	}
	done, err := u.result()
	if !done {
		w.fetching = true
		return
	}
	delete(w.unpacks, v.Name)
	switch {
	case gone(err): // the image was removed behind our back
		w.m.pulls.Forget(v.Image.Reference)
		w.m.volumes.DropImage(w.pod, v.Name)
		w.again = true
	case err != nil:
		w.imageVolumeFailed(c, err)
	default: // between its end and this turn somebody took it away
		w.again = true
	}
}

// volumeImage gets the image of a volume. Its events are about the pod; only that a container failed for it is about that.
func (w *worker) volumeImage(ctx context.Context, c *corev1.Container, v *corev1.Volume) (runtime.Image, bool) {
	pod, name := w.pod, c.Name
	return w.pulled(ctx, volumeJob(v.Name), c, image.Request{
		PodUID: w.uid, Ref: v.Image.Reference, Policy: v.Image.PullPolicy,
		Event: func(eventType, reason, message string) {
			path := ""
			if strings.HasPrefix(message, "Error: ") {
				path = fieldPath(pod, name)
			}
			w.m.cfg.Record.Event(pod, eventType, reason, message, path)
		},
	})
}

func (w *worker) startUnpack(ctx context.Context, name, id string) {
	ctx, cancel := context.WithCancel(ctx)
	u := &unpack{cancel: cancel}
	w.unpacks[name] = u
	w.m.wg.Go(func() {
		defer cancel()
		err := w.m.volumes.UnpackImage(ctx, id)
		if ctx.Err() != nil { // the pod may be gone, and have cleaned up before this
			if err := w.m.volumes.CollectImages(); err != nil {
				w.log.Warn("files of images that no volume needs could not be removed", "err", err)
			}
		}
		u.mu.Lock()
		u.done, u.err = true, err
		u.mu.Unlock()
		w.poke()
	})
}

func (w *worker) imageVolumeFailed(c *corev1.Container, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	if !errors.Is(err, volume.ErrImageMount) {
		err = fmt.Errorf("%w: %w", volume.ErrImageMount, err)
	}
	w.refuse(c, errCreate, err)
	w.wakeAt(w.retryOf(c).failed(createFirst, createMost))
}

// stopUnpacking when the pod does not need it any more.
func (w *worker) stopUnpacking() {
	for name, u := range w.unpacks {
		u.cancel()
		delete(w.unpacks, name)
	}
}

// imageRefs are the images of the pod's image volumes that are there, by volume.
func (w *worker) imageRefs() map[string]string {
	var out map[string]string
	for name, m := range w.volumes.Volumes {
		if m.Image == nil {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = m.Image.Ref
	}
	return out
}
