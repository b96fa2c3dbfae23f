package fake

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// img is an image that the engine has.
type img struct {
	runtime.Image
}

// Published is an image in the registry: what a pull of it does.
type Published struct {
	// Takes is how long a pull lasts.
	Takes time.Duration
	// Err is what it ends with, such as one that wraps runtime.ErrImageDenied; nil means that the image arrives.
	Err error
	// Auth, if set, is what the registry asks for.
	Auth *runtime.Auth
	// Image's User, Entrypoint, Cmd and SizeBytes are taken over.
	Image runtime.Image
}

// defaultSize of an image, in bytes.
const defaultSize = 10 << 20

// normal adds the tag that is meant when none is given.
func normal(ref string) string {
	last := ref[strings.LastIndex(ref, "/")+1:]
	if strings.ContainsAny(last, ":@") {
		return ref
	}
	return ref + ":latest"
}

func sum(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// AddImage puts images into the engine, as if they had been pulled.
func (w *world) AddImage(refs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ref := range refs {
		w.have(ref, runtime.Image{}, true)
	}
}

// Publish puts an image into the registry.
func (w *world) Publish(ref string, p Published) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.registry[normal(ref)] = p
}

// have adds an image of this name; pulled ones have a digest.
func (w *world) have(ref string, like runtime.Image, pulled bool) *img {
	ref = normal(ref)
	i := &img{like}
	i.ID, i.Tags = sum(ref), []string{ref}
	if i.SizeBytes == 0 {
		i.SizeBytes = defaultSize
	}
	if pulled {
		name, _, digested := strings.Cut(ref, "@")
		if digested {
			i.Tags, i.Digests = nil, []string{ref}
		} else {
			name = name[:strings.LastIndex(name, ":")]
			i.Digests = []string{name + "@" + sum("manifest of "+ref)}
		}
	}
	w.images[i.ID] = i
	return i
}

// image finds one by name, digest or ID.
func (w *world) image(ref string) *img {
	if i := w.images[ref]; i != nil {
		return i
	}
	ref = normal(ref)
	for _, i := range w.images {
		if slices.Contains(i.Tags, ref) || slices.Contains(i.Digests, ref) {
			return i
		}
	}
	return nil
}

func (i *img) running() string {
	if len(i.Digests) > 0 {
		return "docker-pullable://" + i.Digests[0]
	}
	return "docker://" + i.ID
}

func (i *img) snapshot() runtime.Image {
	out := i.Image
	out.Tags, out.Digests = slices.Clone(i.Tags), slices.Clone(i.Digests)
	return out
}

// Image implements runtime.Images.
func (w *world) Image(ctx context.Context, ref string) (runtime.Image, error) {
	if err := w.enter(ctx, "Image"); err != nil {
		return runtime.Image{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := w.image(ref); i != nil {
		return i.snapshot(), nil
	}
	return runtime.Image{}, mark(runtime.ErrNotFound, "Error response from daemon: No such image: %s", ref)
}

// Images implements runtime.Images.
func (w *world) Images(ctx context.Context) ([]runtime.Image, error) {
	if err := w.enter(ctx, "Images"); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []runtime.Image
	for _, i := range w.images {
		out = append(out, i.snapshot())
	}
	slices.SortFunc(out, func(a, b runtime.Image) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Pull implements runtime.Images.
func (w *world) Pull(ctx context.Context, ref string, auth *runtime.Auth, progress func(string)) (runtime.Image, error) {
	if err := w.enter(ctx, "Pull"); err != nil {
		return runtime.Image{}, err
	}
	w.mu.Lock()
	p, ok := w.registry[normal(ref)]
	w.mu.Unlock()
	if progress != nil {
		progress("Pulling from " + ref)
	}
	if p.Takes > 0 {
		select {
		case <-time.After(p.Takes):
		case <-ctx.Done():
			return runtime.Image{}, ctx.Err()
		}
	}
	switch {
	case !ok:
		return runtime.Image{}, mark(runtime.ErrImageMissing, "Error response from daemon: manifest for %s not found: manifest unknown: manifest unknown", normal(ref))
	case p.Err != nil:
		return runtime.Image{}, p.Err
	case p.Auth != nil && (auth == nil || auth.Username != p.Auth.Username || auth.Password != p.Auth.Password):
		return runtime.Image{}, mark(runtime.ErrImageDenied, "Error response from daemon: pull access denied for %s, repository does not exist "+
			"or may require 'docker login': denied: requested access to the resource is denied", ref)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.have(ref, p.Image, true).snapshot(), nil
}

// Load implements runtime.Images: it believes the names in manifest.json.
func (w *world) Load(ctx context.Context, archive io.Reader, progress func(string)) ([]string, error) {
	if err := w.enter(ctx, "Load"); err != nil {
		return nil, err
	}
	var names []string
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, mark(runtime.ErrInvalid, "%v", err)
		}
		if h.Name != "manifest.json" {
			continue
		}
		var manifest []struct{ RepoTags []string }
		if err := json.NewDecoder(r).Decode(&manifest); err != nil {
			return nil, mark(runtime.ErrInvalid, "manifest.json: %v", err)
		}
		for _, m := range manifest {
			names = append(names, m.RepoTags...)
		}
	}
	if len(names) == 0 {
		return nil, mark(runtime.ErrInvalid, "the archive holds no image")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range names {
		w.have(n, runtime.Image{}, false)
		if progress != nil {
			progress("Loaded image: " + n)
		}
	}
	return names, nil
}

// RemoveImage implements runtime.Images.
func (w *world) RemoveImage(ctx context.Context, id string) error {
	if err := w.enter(ctx, "RemoveImage"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.image(id)
	if i == nil {
		return nil
	}
	for _, c := range w.containers {
		if !c.sandbox && w.image(c.Image) == i {
			return mark(runtime.ErrConflict, "image %s is being used by container %s", id, c.ID)
		}
	}
	delete(w.images, i.ID)
	return nil
}
