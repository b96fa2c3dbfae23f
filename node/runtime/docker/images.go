package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// stallLimit ends a pull that makes no progress at all; unpacking a large layer does report.
	stallLimit = 5 * time.Minute
	// progressEvery is how often progress is told.
	progressEvery = time.Second
	// noName is what engines say for an image without tag or digest.
	noName = "<none>"
)

// Image implements runtime.Images.
func (d *Engine) Image(ctx context.Context, ref string) (runtime.Image, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	i, err := d.cli.Load().ImageInspect(ctx, ref)
	if err != nil {
		return runtime.Image{}, classify(err)
	}
	out := runtime.Image{ID: i.ID, Tags: named(i.RepoTags), Digests: named(i.RepoDigests), SizeBytes: i.Size}
	if i.Config != nil {
		out.User, out.Entrypoint, out.Cmd = i.Config.User, i.Config.Entrypoint, i.Config.Cmd
	}
	return out, nil
}

// Images implements runtime.Images. User, Entrypoint and Cmd are not in a list.
func (d *Engine) Images(ctx context.Context) ([]runtime.Image, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	list, err := d.cli.Load().ImageList(ctx, image.ListOptions{})
	if err != nil {
		return nil, classify(err)
	}
	out := make([]runtime.Image, 0, len(list))
	for _, i := range list {
		out = append(out, runtime.Image{ID: i.ID, Tags: named(i.RepoTags), Digests: named(i.RepoDigests), SizeBytes: i.Size, Pinned: pinned(&i)})
	}
	return out, nil
}

func named(refs []string) []string {
	var out []string
	for _, r := range refs {
		if !strings.Contains(r, noName) {
			out = append(out, r)
		}
	}
	return out
}

// imageID words a container's image as status.imageID has it: docker-pullable://name@sha256:… when it came from a
// registry, else docker://sha256:….
func (d *Engine) imageID(ctx context.Context, id, asked string) (string, error) {
	d.states.mu.Lock()
	digests, ok := d.states.digests[id]
	d.states.mu.Unlock()
	if !ok {
		i, err := d.cli.Load().ImageInspect(ctx, id)
		if err != nil && !cerrdefs.IsNotFound(err) { // an image can be untagged and removed by force under its container
			return "", classify(err)
		}
		digests = named(i.RepoDigests)
		d.states.mu.Lock()
		if len(d.states.digests) >= maxDigests {
			clear(d.states.digests)
		}
		d.states.digests[id] = digests
		d.states.mu.Unlock()
	}
	return formatImageID(id, asked, digests), nil
}

// formatImageID prefers the digest under the name that was asked for.
func formatImageID(id, asked string, digests []string) string {
	if len(digests) == 0 {
		return "docker://" + id
	}
	if named, err := reference.ParseNormalizedNamed(asked); err == nil {
		for _, digest := range digests {
			if name, _, _ := strings.Cut(digest, "@"); name == reference.FamiliarName(named) {
				return "docker-pullable://" + digest
			}
		}
	}
	return "docker-pullable://" + digests[0]
}

// Pull implements runtime.Images.
func (d *Engine) Pull(ctx context.Context, ref string, auth *runtime.Auth, progress func(string)) (runtime.Image, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallLimit, func() {
		cancel(fmt.Errorf("pulling %s: no progress for %s", ref, stallLimit))
	})
	defer stalled.Stop()
	opts := image.PullOptions{}
	if auth != nil {
		encoded, err := registry.EncodeAuthConfig(registry.AuthConfig{
			Username: auth.Username, Password: auth.Password,
			IdentityToken: auth.IdentityToken, ServerAddress: auth.ServerAddress,
		})
		if err != nil {
			return runtime.Image{}, err
		}
		opts.RegistryAuth = encoded
	}
	body, err := d.cli.Load().ImagePull(ctx, ref, opts)
	if err == nil {
		var sum pullProgress
		err = readMessages(body, func(m message) {
			stalled.Reset(stallLimit)
			sum.add(m)
			if progress != nil && sum.due(time.Now()) {
				progress(sum.String())
			}
		}, nil)
		body.Close()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return runtime.Image{}, cause
		}
		return runtime.Image{}, classifyPull(err)
	}
	d.states.forgetDigests()
	return d.Image(ctx, ref)
}

// Load implements runtime.Images. It is bounded by its context and by the sender of the tar.
func (d *Engine) Load(ctx context.Context, tar io.Reader, progress func(string)) ([]string, error) {
	resp, err := d.cli.Load().ImageLoad(ctx, tar)
	if err != nil {
		return nil, classify(err)
	}
	defer resp.Body.Close()
	var names []string
	err = readMessages(resp.Body, func(m message) {
		names = append(names, m.loaded()...)
	}, progress)
	if err != nil {
		return nil, mark(runtime.ErrInvalid, err)
	}
	if len(names) == 0 {
		return nil, mark(runtime.ErrInvalid, errors.New("the archive holds no image (expected the output of `docker save`)"))
	}
	d.states.forgetDigests()
	return names, nil
}

// RemoveImage implements runtime.Images: it takes away every name first, as an engine refuses to remove an image by ID
// while it has several.
func (d *Engine) RemoveImage(ctx context.Context, id string) error {
	ctx, cancel := bounded(ctx, writeLimit)
	defer cancel()
	i, err := d.Image(ctx, id)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, ref := range append(append([]string{}, i.Tags...), append(i.Digests, i.ID)...) {
		_, err := d.cli.Load().ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
		switch {
		case cerrdefs.IsConflict(err):
			return mark(runtime.ErrConflict, err)
		case err != nil && !cerrdefs.IsNotFound(err):
			return classify(err)
		}
	}
	d.states.forgetDigests()
	return nil
}

// message is one line of the engine's progress reports (pkg/jsonmessage of Docker, without its terminal drawing).
type message struct {
	Stream   string `json:"stream"`
	Status   string `json:"status"`
	ID       string `json:"id"`
	Progress string `json:"progress"`
	Detail   struct {
		Current, Total int64
	} `json:"progressDetail"`
	Error       string `json:"error"`
	ErrorDetail *struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
}

func (m message) err() error {
	switch {
	case m.ErrorDetail != nil && m.ErrorDetail.Message != "":
		return errors.New(m.ErrorDetail.Message)
	case m.Error != "":
		return errors.New(m.Error)
	}
	return nil
}

func (m message) text() string {
	text := m.Status
	if text == "" {
		text = strings.TrimSpace(m.Stream)
	}
	if m.ID != "" && text != "" {
		text = m.ID + ": " + text
	}
	if m.Detail.Total > 0 && text != "" {
		text += fmt.Sprintf(" %d%%", min(100, 100*m.Detail.Current/m.Detail.Total))
	}
	return text
}

// loaded returns the names in lines as "Loaded image: busybox:latest" and "Loaded image ID: sha256:…".
func (m message) loaded() []string {
	var out []string
	for line := range strings.Lines(m.Stream) {
		line = strings.TrimSpace(line)
		for _, prefix := range []string{"Loaded image: ", "Loaded image ID: "} {
			if name, ok := strings.CutPrefix(line, prefix); ok {
				out = append(out, name)
			}
		}
	}
	return out
}

// readMessages reads reports until they end or one is an error. Of lines with numbers in them, which come by the
// hundred, progress is told one in progressEvery; of others all.
func readMessages(r io.Reader, each func(message), progress func(string)) error {
	dec := json.NewDecoder(r)
	var told time.Time
	for {
		var m message
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := m.err(); err != nil {
			return err
		}
		each(m)
		if progress == nil {
			continue
		}
		text, moving := m.text(), m.Detail.Total > 0
		if text == "" || moving && time.Since(told) < progressEvery {
			continue
		}
		if moving {
			told = time.Now()
		}
		progress(text)
	}
}
