package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/distribution/reference"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	recordsFile = "pulled.json"
	// pruneEvery is how often, when something is pulled, records of images that are gone are dropped.
	pruneEvery = time.Hour
	// secretsMax bounds what one record learns of Secrets that hold the same password.
	secretsMax = 100
)

// records say which images this agent has pulled and with whose rights, so that an image that came with one pod's
// secret is not given to a pod that has none (KEP-2535). The policy is the kubelet's default, NeverVerifyPreloadedImages:
// an image without a record came by another way, and all pods may use it. They outlive the agent.
type records struct {
	file string // empty: memory only
	log  *slog.Logger

	mu     sync.Mutex
	pulled map[string]*record // by image ID
	// pulling counts pulls under way, by reference. An image that appears meanwhile is not preloaded.
	pulling map[string]int
	// broken are pulls under which an earlier agent died: nobody knows whether the image came by them.
	broken map[string]bool
	pruned time.Time
}

// record of one image.
type record struct {
	Updated time.Time `json:"updated"`
	// Rights by repository: the image may have several names, and the right to one is not the right to another.
	Rights map[string]*rights `json:"rights,omitempty"`
}

// rights to an image under one name. Without either nobody has proved any yet.
type rights struct {
	// Anyone: it was pulled without a password, or with the node's own.
	Anyone  bool     `json:"anyone,omitempty"`
	Secrets []Source `json:"secrets,omitempty"`
}

// recordsJSON is what is on the disk.
type recordsJSON struct {
	Pulled  map[string]*record `json:"pulled"`
	Pulling []string           `json:"pulling,omitempty"`
}

func openRecords(dir string, log *slog.Logger) *records {
	r := &records{log: log, pulled: map[string]*record{}, pulling: map[string]int{}, broken: map[string]bool{}}
	if dir == "" {
		return r
	}
	r.file = filepath.Join(dir, recordsFile)
	data, err := os.ReadFile(r.file)
	if errors.Is(err, os.ErrNotExist) {
		return r
	}
	var saved recordsJSON
	if err == nil {
		err = json.Unmarshal(data, &saved)
	}
	if err != nil {
		log.Error("the record of pulled images cannot be read; those that are there count as preloaded", "file", r.file, "err", err)
		return r
	}
	for id, rec := range saved.Pulled {
		if rec != nil {
			r.pulled[id] = rec
		}
	}
	for _, ref := range saved.Pulling {
		r.broken[ref] = true
	}
	return r
}

// save writes the file; the caller holds mu. It happens once or twice a pull.
func (r *records) save() {
	if r.file == "" {
		return
	}
	all := recordsJSON{Pulled: r.pulled, Pulling: slices.Sorted(maps.Keys(r.pulling))}
	for ref := range r.broken {
		if r.pulling[ref] == 0 {
			all.Pulling = append(all.Pulling, ref)
		}
	}
	if err := replaceFile(r.file, all); err != nil {
		r.log.Error("the record of pulled images cannot be written", "file", r.file, "err", err)
	}
}

// replaceFile writes v so that after a crash either the old or the new text is there.
func replaceFile(file string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone by then, if all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

// begin notes that a pull is about to start; end, that it is over.
func (r *records) begin(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling[ref]++; r.pulling[ref] == 1 {
		r.save()
	}
}

func (r *records) end(ref string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pulling[ref]--; r.pulling[ref] <= 0 {
		delete(r.pulling, ref)
		r.save()
	}
}

// add what a pull has proved: from is the Secret that was good for it, nil when none was needed. It is written down by
// the end that follows, or at once when no pull is under way.
func (r *records) add(ref, id string, from *Source) {
	repo, err := repository(ref)
	if err != nil || id == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.pulled[id]
	if rec == nil {
		rec = &record{}
		r.pulled[id] = rec
	}
	rec.Updated = time.Now()
	delete(r.broken, ref)
	have := rec.Rights[repo]
	if have == nil {
		have = &rights{}
		if rec.Rights == nil {
			rec.Rights = map[string]*rights{}
		}
		rec.Rights[repo] = have
	}
	have.learn(from)
	if r.pulling[ref] == 0 {
		r.save()
	}
}

// learn adds one right; it tells whether that was news.
func (h *rights) learn(from *Source) bool {
	switch {
	case h.Anyone:
		return false
	case from == nil:
		h.Anyone, h.Secrets = true, nil
		return true
	case slices.Contains(h.Secrets, *from):
		return false
	}
	h.Secrets = slices.DeleteFunc(h.Secrets, from.sameSecret) // it has other content now
	if len(h.Secrets) < secretsMax {
		h.Secrets = append(h.Secrets, *from)
	}
	return true
}

// allows tells whether a pod with these credentials may use an image that is there without asking the registry.
func (r *records) allows(ref, id string, own Credentials) bool {
	repo, err := repository(ref)
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.pulled[id]
	if rec == nil {
		if r.broken[ref] {
			r.pulled[id] = &record{Updated: time.Now()}
			delete(r.broken, ref)
			r.save()
			return false
		}
		return r.pulling[ref] == 0
	}
	have := rec.Rights[repo]
	if have == nil {
		return false
	}
	if have.Anyone {
		return true
	}
	for _, c := range own {
		if c.from == nil {
			continue
		}
		for _, s := range have.Secrets {
			if s.Hash == c.from.Hash || s.sameSecret(*c.from) {
				if have.learn(c.from) {
					r.save()
				}
				return true
			}
		}
	}
	return false
}

// preload notes that an administrator brought an image: whoever may do that gives it to all.
func (r *records) preload(ref, id string) {
	repo, err := repository(ref)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.broken, ref)
	rec := r.pulled[id]
	if rec == nil {
		return // as good as one that allows all
	}
	if rec.Rights == nil {
		rec.Rights = map[string]*rights{}
	}
	rec.Rights[repo] = &rights{Anyone: true}
	r.save()
}

// prune drops records of images that are gone, now and then.
func (r *records) prune(ctx context.Context, images runtime.Images) {
	now := time.Now()
	r.mu.Lock()
	due := now.Sub(r.pruned) >= pruneEvery
	if due {
		r.pruned = now
	}
	r.mu.Unlock()
	if !due {
		return
	}
	list, err := images.Images(ctx)
	if err != nil {
		r.log.Debug("records of pulled images are not pruned", "err", err)
		return
	}
	there := make(map[string]bool, len(list))
	for _, i := range list {
		there[i.ID] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.pulled)
	maps.DeleteFunc(r.pulled, func(id string, rec *record) bool { return !there[id] && rec.Updated.Before(now) })
	if len(r.pulled) != before {
		r.save()
	}
}

// repository of a reference, without tag and digest.
func repository(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("invalid image name %q: %w", ref, err)
	}
	return named.Name(), nil
}
