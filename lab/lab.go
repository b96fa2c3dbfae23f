package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Lab is a cluster on this machine. Its methods may be called from several
// goroutines, but not two of them for the same node at a time.
type Lab struct {
	cfg   Config
	nodes []*Node

	mu    sync.Mutex // guards state, and its file
	state state
}

// New returns the lab in cfg.Dir: one that runs already (made by another process),
// or one for Up to make. It starts nothing.
func New(cfg Config) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg}
	if l.state, err = l.readState(); err != nil {
		return nil, err
	}
	// A lab that is there decides itself how many nodes it has.
	if l.state.Nodes > 0 && l.state.Prefix == cfg.Prefix {
		l.cfg.Nodes = l.state.Nodes
		l.cfg.Links = max(l.state.Links, 1)
	}
	l.makeNodes()
	return l, nil
}

func (l *Lab) makeNodes() {
	l.nodes = nil
	for i := 1; i <= l.cfg.Nodes; i++ {
		n := &Node{Name: l.cfg.nodeName(i), lab: l, index: i}
		link := l.cfg.linkOf(i)
		if moved := l.state.Moved[n.Name]; moved != 0 {
			link = moved
		}
		n.Address = nth(l.cfg.network(link), nodeAddress+i-1)
		l.nodes = append(l.nodes, n)
	}
}

// Node returns the i-th node, counted from 1.
func (l *Lab) Node(i int) *Node { return l.nodes[i-1] }

// Nodes returns all of them.
func (l *Lab) Nodes() []*Node { return l.nodes }

// Config returns the configuration with its defaults.
func (l *Lab) Config() Config { return l.cfg }

// Running reports whether the lab came up and its first node is on.
func (l *Lab) Running() bool {
	l.mu.Lock()
	up := l.state.Up
	l.mu.Unlock()
	return up && l.Node(1).Running()
}

// Up brings the lab up, from whatever an earlier one left: images, namespaces,
// registry, engines, master, agents. After an error Down clears what there is.
func (l *Lab) Up(ctx context.Context, nodes int) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	if l.Running() {
		return fmt.Errorf("the lab in %s runs already", l.cfg.Dir)
	}
	if err := l.Prepare(ctx, nodes); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"Images", l.PrepareImages},
		{"Network", l.CreateNetwork},
		{"Registry", l.StartRegistry},
		{"Docker Engines", l.StartEngines},
		{"Master", func(ctx context.Context) (string, error) { return "", l.StartMaster(ctx) }},
		{"Agents", l.StartAgents},
	}
	for _, s := range steps {
		if err := l.Step(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	return l.record(func(s *state) { s.Up = true })
}

// ErrNotRoot is what Up and Down answer to anybody else.
var ErrNotRoot = errors.New("a lab makes network namespaces and starts Docker Engines: run this as root")

// Prepare clears what a former lab left behind and makes the directories.
func (l *Lab) Prepare(ctx context.Context, nodes int) error {
	if err := l.claim(); err != nil {
		return err
	}
	if err := l.down(ctx); err != nil {
		return err
	}
	if nodes > 0 && nodes != l.cfg.Nodes {
		l.cfg.Nodes = nodes
		cfg, err := l.cfg.withDefaults()
		if err != nil {
			return err
		}
		l.cfg = cfg
		l.makeNodes()
	}
	if err := os.RemoveAll(l.path("log")); err != nil {
		return err
	}
	for _, n := range l.nodes {
		if err := os.MkdirAll(n.Dir(), 0o755); err != nil {
			return err
		}
	}
	return l.record(func(s *state) {
		*s = state{Prefix: l.cfg.Prefix, Nodes: l.cfg.Nodes, Links: l.cfg.Links, Processes: map[string]process{}, Joined: map[string]bool{}}
	})
}

// Step runs one named step and tells Config.Log of it.
func (l *Lab) Step(ctx context.Context, name string, do func(context.Context) (string, error)) error {
	start := time.Now()
	l.cfg.Log(Step{Name: name})
	note, err := do(ctx)
	l.cfg.Log(Step{Name: name, Note: note, Done: true, Took: time.Since(start), Err: err})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// note passes on a remark within a step.
func (l *Lab) note(format string, args ...any) { l.cfg.Log(Step{Note: fmt.Sprintf(format, args...)}) }

// CreateNetwork makes the switch and boots the nodes.
func (l *Lab) CreateNetwork(ctx context.Context) (string, error) {
	if err := l.createSwitch(ctx); err != nil {
		return "", err
	}
	if l.cfg.Links > 1 {
		if err := l.AddLink(ctx); err != nil {
			return "", err
		}
	}
	for _, n := range l.nodes {
		if err := n.boot(ctx); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s and %s to %s", l.cfg.labName(), l.nodes[0].Name, l.nodes[len(l.nodes)-1].Name), nil
}

// StartEngines starts all engines at a time, without containers of a former lab.
func (l *Lab) StartEngines(ctx context.Context) (string, error) {
	err := l.eachNode(ctx, func(ctx context.Context, n *Node) error {
		if err := n.startEngine(ctx); err != nil {
			return err
		}
		return n.removeContainers(ctx)
	})
	return fmt.Sprintf("%d, one a node", len(l.nodes)), err
}

func (l *Lab) eachNode(ctx context.Context, do func(context.Context, *Node) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range l.nodes {
		g.Go(func() error { return do(ctx, n) })
	}
	return g.Wait()
}

// Down ends the lab and removes all that belongs to it but its logs and the cache.
// It can be called at any time, also when there is no lab or only half of one.
func (l *Lab) Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	if err := l.claim(); err != nil {
		return err
	}
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	l.endEngines(ctx)
	names, err := l.namespaces()
	if err != nil {
		return err
	}
	l.mu.Lock()
	known := l.state.Processes
	l.mu.Unlock()
	var errs []error
	for _, p := range known {
		errs = append(errs, p.kill(ctx))
	}
	for _, name := range names {
		errs = append(errs, killNamespace(ctx, name), deleteNamespace(ctx, name))
	}
	errs = append(errs, removeCgroups(l.cfg.cgroup()))
	for i := 1; i <= maxNodes; i++ {
		errs = append(errs, os.RemoveAll(l.path(fmt.Sprintf("node%d", i))))
	}
	for _, f := range []string{"kubeconfig", "registry.yml", "private-registry.yml", "private-registry.htpasswd"} {
		errs = append(errs, os.RemoveAll(l.path(f)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// Last: as long as the state is there, a second Down knows what to look for.
	if err := os.RemoveAll(l.path("state.json")); err != nil {
		return err
	}
	l.mu.Lock()
	l.state = state{Processes: map[string]process{}, Joined: map[string]bool{}}
	l.mu.Unlock()
	return nil
}

// endEngines empties the engines that answer and ends them in order, so that
// their data is whole and small when it is used again. What does not answer is
// killed a moment later, and emptied by the next Up.
func (l *Lab) endEngines(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_ = l.eachNode(ctx, func(ctx context.Context, n *Node) error {
		if !n.Running() {
			return nil
		}
		for _, what := range []string{agent, master} { // they would restart what we remove
			if err := l.process(n.daemon(what)).kill(ctx); err != nil {
				return nil
			}
		}
		if n.PID(engine) == 0 {
			return nil
		}
		if err := n.removeContainers(ctx); err != nil {
			l.note("%s: containers stay for now: %v", n.Name, err)
		}
		_ = l.process(n.daemon(engine)).stop(ctx, 15*time.Second)
		return nil
	})
}

// namespaces lists this lab's pinned network namespaces, also those of a former
// lab with more nodes.
func (l *Lab) namespaces() ([]string, error) {
	var found []string
	names := []string{}
	for i := 1; i <= maxNodes; i++ {
		names = append(names, l.cfg.nodeName(i))
	}
	for _, name := range append(names, l.cfg.routerName(), l.cfg.labName()) {
		_, err := os.Stat(netnsPath(name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, name)
	}
	return found, nil
}

// removeCgroups removes the empty control groups that the lab's containers were
// in, in the unified hierarchy (v2) and in each of v1.
func removeCgroups(group string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + group)
	if err != nil {
		return err
	}
	roots = append(roots, "/sys/fs/cgroup"+group)
	var errs []error
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // one that vanishes meanwhile is no loss
		})
		for i := len(dirs) - 1; i >= 0; i-- { // children first
			if err := rmdir(dirs[i]); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// rmdir removes an empty control group. The kernel may need a moment after the
// last process has ended.
func rmdir(dir string) error {
	var err error
	for range 100 {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		time.Sleep(pollEvery)
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}
