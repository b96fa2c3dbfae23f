package docker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"github.com/whalepod/whalepod/node/runtime"
)

// states remembers what an inspection said, per container and the state it was in. A list of all containers is one
// call and says the state of each; only a container whose state changed since is inspected, for its PID, times and
// exit code. Events and our own calls forget the entry (a container can go from running to running by a restart
// between two lists).
type states struct {
	mu      sync.Mutex
	known   map[string]known
	digests map[string][]string // repo digests by image ID
}

type known struct {
	// state in Docker's words, as in a list.
	state string
	c     runtime.Container
}

// maxDigests bounds the cache of image digests; a node has far fewer images.
const maxDigests = 512

func (s *states) init() {
	s.known = map[string]known{}
	s.digests = map[string][]string{}
}

func (s *states) get(id, state string) (runtime.Container, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.known[id]
	return k.c, ok && k.state == state
}

func (s *states) put(id, state string, c runtime.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[id] = known{state, c}
}

func (s *states) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
}

// keep forgets all containers that are not in the list.
func (s *states) keep(ids map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.known {
		if !ids[id] {
			delete(s.known, id)
		}
	}
}

func (s *states) forgetDigests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.digests)
}

// Pods implements runtime.Runtime.
func (d *Engine) Pods(ctx context.Context) ([]runtime.Pod, error) { return d.pods(ctx, "") }

// Pod implements runtime.Runtime.
func (d *Engine) Pod(ctx context.Context, uid string) (runtime.Pod, error) {
	if uid == "" {
		return runtime.Pod{}, mark(runtime.ErrInvalid, errors.New("docker: empty pod UID"))
	}
	pods, err := d.pods(ctx, uid)
	if err != nil || len(pods) == 0 {
		return runtime.Pod{Ref: runtime.PodRef{UID: uid}}, err
	}
	return pods[0], nil
}

// row is one of our containers in a list; details are missing for containers that went away meanwhile.
type row struct {
	identity
	summary container.Summary
	details *runtime.Container
}

func (d *Engine) pods(ctx context.Context, uid string) ([]runtime.Pod, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	list, err := d.cli.Load().ContainerList(ctx, container.ListOptions{All: true, Filters: d.mine(uid)})
	if err != nil {
		return nil, classify(err)
	}
	rows := make([]row, 0, len(list))
	ids := make(map[string]bool, len(list))
	for _, s := range list {
		name := ""
		if len(s.Names) > 0 { // empty while a container is being removed
			name = s.Names[0]
		}
		if i, ok := identify(d.node, name, s.Labels); ok {
			rows = append(rows, row{identity: i, summary: s})
			ids[s.ID] = true
		}
	}
	if err := d.fill(ctx, rows); err != nil {
		return nil, err
	}
	if uid == "" {
		d.states.keep(ids)
		d.endOnce(ctx)
	}
	return group(rows), nil
}

// fill adds what a list does not say, from memory or by inspection.
func (d *Engine) fill(ctx context.Context, rows []row) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inspectors)
	for i := range rows {
		r := &rows[i]
		if r.sandbox() && r.summary.State != container.StateRunning {
			r.details = &runtime.Container{CreatedAt: time.Unix(r.summary.Created, 0).UTC()}
			continue
		}
		if c, ok := d.states.get(r.summary.ID, r.summary.State); ok {
			r.details = &c
			continue
		}
		g.Go(func() error {
			c, err := d.inspect(ctx, r.summary.ID)
			if errors.Is(err, runtime.ErrNotFound) {
				return nil
			}
			r.details = &c
			return err
		})
	}
	return g.Wait()
}

// group makes pods of rows, newest attempts first.
func group(rows []row) []runtime.Pod {
	slices.SortFunc(rows, func(a, b row) int {
		if a.attempt != b.attempt {
			return b.attempt - a.attempt
		}
		return strings.Compare(a.container, b.container)
	})
	index := map[string]int{}
	var pods []runtime.Pod
	for _, r := range rows {
		if r.details == nil {
			continue
		}
		at, ok := index[r.pod.UID]
		if !ok {
			at = len(pods)
			index[r.pod.UID] = at
			pods = append(pods, runtime.Pod{Ref: r.pod})
		}
		if r.sandbox() {
			pods[at].Sandboxes = append(pods[at].Sandboxes, runtime.Sandbox{
				ID: r.summary.ID, Pod: r.pod, Attempt: r.attempt, PID: r.details.PID,
				Running: r.details.State == runtime.StateRunning, CreatedAt: r.details.CreatedAt,
				Labels: givenLabels(r.summary.Labels),
			})
			continue
		}
		pods[at].Containers = append(pods[at].Containers, *r.details)
	}
	return pods
}

// Inspect implements runtime.Runtime.
func (d *Engine) Inspect(ctx context.Context, id string) (runtime.Container, error) {
	ctx, cancel := bounded(ctx, readLimit)
	defer cancel()
	return d.inspect(ctx, id)
}

// inspect asks the engine about one container and remembers the answer.
func (d *Engine) inspect(ctx context.Context, id string) (runtime.Container, error) {
	j, err := d.cli.Load().ContainerInspect(ctx, id)
	if err != nil {
		return runtime.Container{}, classify(err)
	}
	if j.ContainerJSONBase == nil || j.State == nil || j.Config == nil {
		return runtime.Container{}, errors.New("docker: incomplete answer about container " + id)
	}
	i, ok := identify(d.node, j.Name, j.Config.Labels)
	if !ok {
		return runtime.Container{}, mark(runtime.ErrNotFound, errors.New("container "+id+" is not one of this node's pods"))
	}
	d.strays.note(j.ExecIDs)
	c := runtime.Container{
		ID: j.ID, Pod: i.pod, Name: i.container, Attempt: i.attempt, Image: j.Config.Image,
		CreatedAt: parseTime(j.Created), Labels: givenLabels(j.Config.Labels),
	}
	setState(&c, j.State)
	if !i.sandbox() {
		if c.ImageID, err = d.imageID(ctx, j.Image, j.Config.Image); err != nil {
			return runtime.Container{}, err
		}
	}
	d.states.put(j.ID, j.State.Status, c)
	return c, nil
}

// setState translates Docker's state.
func setState(c *runtime.Container, s *container.State) {
	c.StartedAt, c.FinishedAt = parseTime(s.StartedAt), parseTime(s.FinishedAt)
	switch s.Status {
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		c.State, c.PID = runtime.StateRunning, s.Pid
		c.FinishedAt = time.Time{} // of an earlier run
	case container.StateCreated:
		c.State = runtime.StateCreated
		if s.Error != "" || s.ExitCode != 0 { // it was tried; the engine leaves such a container "created"
			c.State, c.ExitCode, c.Error = runtime.StateExited, s.ExitCode, s.Error
			c.FinishedAt = c.CreatedAt
		}
	default: // exited, dead, removing
		c.State, c.ExitCode, c.OOMKilled, c.Error = runtime.StateExited, s.ExitCode, s.OOMKilled, s.Error
		if c.FinishedAt.Before(c.StartedAt) { // the engine notes a quick end before it has noted the start
			c.FinishedAt = c.StartedAt
		}
	}
}

// parseTime reads Docker's times; its zero (0001-01-01T00:00:00Z) and nonsense are the zero time.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t.UTC()
}
