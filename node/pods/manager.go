package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods/image"
	"github.com/whalepod/whalepod/node/pods/probe"
	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
)

// Manager runs the pods of a node.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	pulls   *image.Puller
	volumes *volume.Manager
	prober  *probe.Prober
	// starts bounds how many workers make the engine start things.
	starts chan struct{}
	// read is closed when the engine has been read once.
	read chan struct{}

	// admit serialises admission, so that two pods do not both take the last place. asks are the resizes that wait, by UID.
	// Nothing is decided on them before whole: all pods that have a place here must be known.
	admit sync.Mutex
	asks  map[string]*ask
	whole bool

	mu      sync.Mutex
	workers map[string]*worker // by UID
	// withdrawn are closed when no node sends new connections to the pod of that UID any more.
	withdrawn map[string]chan struct{}
	listed    bool  // the engine has been read once
	engine    error // why it is not there; nil while its events come in
	wg        sync.WaitGroup
}

// VolumesDir is where the pods' volumes are, below the agent's directory.
func VolumesDir(dataDir string) string { return filepath.Join(dataDir, "pods") }

// imagesDir is where it is remembered whose secrets were good for which image.
func imagesDir(dataDir string) string { return filepath.Join(dataDir, "images") }

// imageVolumesDir has the files of images that are mounted as volumes, one directory for each image, whoever mounts it.
func imageVolumesDir(dataDir string) string { return filepath.Join(dataDir, "image-volumes") }

// New makes a Manager; nothing happens before Run.
func New(cfg Config) *Manager {
	cfg.fill()
	log := cfg.Log.With("component", "pods")
	m := &Manager{
		cfg: cfg, log: log,
		pulls: image.New(image.Config{Images: cfg.Engine, Parallel: cfg.ParallelPulls, NodeConfigs: cfg.RegistryConfigs, Dir: imagesDir(cfg.DataDir), Log: log}),
		volumes: volume.New(volume.Config{
			Dir: VolumesDir(cfg.DataDir), Source: cfg.Desired, Tokens: cfg.Tokens, Mounter: cfg.Mounter, Images: cfg.Engine, ImagesDir: imageVolumesDir(cfg.DataDir),
			LocalDir: cfg.LocalDir, Log: cfg.Log,
		}),
		prober:  probe.New(cfg.Engine),
		starts:  make(chan struct{}, cfg.ParallelStarts),
		read:    make(chan struct{}),
		workers: map[string]*worker{}, withdrawn: map[string]chan struct{}{},
		asks:   map[string]*ask{},
		engine: errNotRead,
	}
	return m
}

var errNotRead = errors.New("container engine has not been read yet")

// RemoveLocalVolume deletes the data of a local volume, by the name of its directory.
func (m *Manager) RemoveLocalVolume(name string) error { return m.volumes.RemoveLocal(name) }

// Ready is closed when the engine has been read for the first time, so that pods can be worked on.
func (m *Manager) Ready() <-chan struct{} { return m.read }

// EngineError tells why nothing can be done with containers at the moment; nil when all is well. It belongs into the
// node's Ready condition.
func (m *Manager) EngineError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.engine
}

func (m *Manager) setEngine(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.engine = err
}

// Run works until ctx ends. Containers go on without it.
func (m *Manager) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer m.pulls.Wait()
	defer m.wg.Wait()
	defer cancel()
	sub := m.cfg.Desired.Subscribe(desired.Pods, desired.ConfigMaps, desired.Secrets, desired.Claims, desired.Volumes)
	defer sub.Close()
	lists := make(chan listing)
	m.wg.Go(func() { m.watchEngine(ctx, lists) })
	resync := time.NewTicker(m.cfg.Resync)
	defer resync.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-lists:
			m.takeListing(ctx, l)
			m.reconcile(ctx)
			m.sweep()
		case <-sub.C():
			refs := sub.Take()
			if m.ready() {
				m.reconcile(ctx)
				m.pokeReferrers(refs)
			}
		case <-resync.C:
			if m.ready() {
				m.wg.Go(func() { m.relist(ctx, lists) })
				m.retryResizes()
			}
		}
	}
}

func (m *Manager) ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.listed
}

func (m *Manager) all() []*worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		out = append(out, w)
	}
	return out
}

func (m *Manager) worker(uid string) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid]
}

// reconcile gives every desired pod a worker and tells workers whose pod is not desired any more. Before the desired
// state is complete nothing counts as not desired.
func (m *Manager) reconcile(ctx context.Context) {
	if !m.cfg.Desired.Usable() {
		return
	}
	complete := m.cfg.Desired.Completed() // asked first: a pod that comes in between must not count as unwanted
	wanted := map[string]bool{}
	for _, pod := range m.cfg.Desired.Pods() {
		if pod.Spec.NodeName != "" && pod.Spec.NodeName != m.cfg.NodeName {
			continue
		}
		uid := string(pod.UID)
		wanted[uid] = true
		w := m.worker(uid)
		if w == nil {
			m.start(ctx, newWorker(m, pod, runtime.Pod{Ref: spec.Ref(pod)}))
			continue
		}
		w.update(pod)
	}
	m.decideFromNow()
	if !complete {
		return
	}
	for _, w := range m.all() {
		if wanted[w.uid] {
			continue
		}
		if w.retired() {
			m.mu.Lock()
			delete(m.workers, w.uid)
			m.mu.Unlock()
			m.dropStatus(w.uid)
			continue
		}
		w.post(func(in *inbox) { in.gone = true })
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid := range m.withdrawn {
		if !wanted[uid] && m.workers[uid] == nil {
			delete(m.withdrawn, uid)
		}
	}
}

// Republish reports every pod's status again, for a master that may have missed some.
func (m *Manager) Republish() {
	for _, w := range m.all() {
		w.post(func(in *inbox) { in.republish = true })
	}
}

func (m *Manager) start(ctx context.Context, w *worker) {
	m.mu.Lock()
	m.workers[w.uid] = w
	m.mu.Unlock()
	m.wg.Go(func() { w.run(ctx) })
}

// takeListing hands out what the engine showed; what no worker knows is adopted by one, which ends it when the desired
// state is complete and does not want it.
func (m *Manager) takeListing(ctx context.Context, l listing) {
	m.mu.Lock()
	first := !m.listed
	m.listed, m.engine = true, nil
	m.mu.Unlock()
	wanted := map[string]*corev1.Pod{}
	if m.cfg.Desired.Usable() {
		for _, pod := range m.cfg.Desired.Pods() {
			wanted[string(pod.UID)] = pod
		}
	}
	seen := map[string]bool{}
	for _, p := range l.pods {
		seen[p.Ref.UID] = true
		if w := m.worker(p.Ref.UID); w != nil {
			w.observe(p, l.seq[p.Ref.UID])
			continue
		}
		if pod := wanted[p.Ref.UID]; pod != nil {
			m.start(ctx, newWorker(m, pod, p))
		} else {
			m.start(ctx, newWorker(m, nil, p))
		}
	}
	for _, w := range m.all() {
		if !seen[w.uid] {
			w.observe(runtime.Pod{Ref: w.ref}, l.seq[w.uid])
		}
	}
	if first {
		close(m.read)
		m.log.Info("container engine read", "pods", len(l.pods))
	}
}

// pokeReferrers wakes the pods that use a config map, secret or claim which changed.
func (m *Manager) pokeReferrers(refs []desired.Ref) {
	changed := map[string]bool{}
	for _, r := range refs {
		switch r.Resource {
		case desired.ConfigMaps:
			changed["configmap/"+r.Key] = true
		case desired.Secrets:
			changed["secret/"+r.Key] = true
		case desired.Claims:
			changed["claim/"+r.Key] = true
		case desired.Volumes:
			if v, ok := m.cfg.Desired.Volume(r.Key); ok && v.Spec.ClaimRef != nil {
				changed["claim/"+desired.Key(v.Spec.ClaimRef.Namespace, v.Spec.ClaimRef.Name)] = true
			}
		}
	}
	if len(changed) == 0 {
		return
	}
	for _, w := range m.all() {
		if w.refersTo(changed) {
			w.post(func(in *inbox) { in.refresh = true })
		}
	}
}

// sweep removes directories of pods that nobody knows any more.
func (m *Manager) sweep() {
	if !m.cfg.Desired.Completed() {
		return
	}
	uids, err := m.volumes.Pods()
	if err != nil {
		m.log.Warn("pod directories could not be listed", "err", err)
		return
	}
	for _, uid := range append(uids, m.savedStatuses()...) {
		if m.worker(uid) != nil {
			continue
		}
		if err := m.volumes.Teardown(uid); err != nil {
			m.log.Warn("left-over pod directory could not be removed", "uid", uid, "err", err)
			continue
		}
		m.dropStatus(uid)
	}
	if err := m.volumes.CollectImages(); err != nil {
		m.log.Warn("files of images that no volume needs could not be removed", "err", err)
	}
}

// admitted lists the pods that take up this node's resources, other than uid.
func (m *Manager) admitted(uid string) []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range m.all() {
		if w.uid == uid {
			continue
		}
		w.mu.Lock()
		if w.holdsPlace && w.placed != nil {
			out = append(out, w.placed)
		}
		w.mu.Unlock()
	}
	return out
}

// node as the master tells of it, with its labels, taints and allocatable resources; nil before it has.
func (m *Manager) node() *corev1.Node {
	n, ok := m.cfg.Desired.Node(m.cfg.NodeName)
	if !ok {
		return nil
	}
	if have := m.cfg.Allocatable(); len(n.Status.Allocatable) == 0 && len(have) > 0 { // an older master's
		n = n.DeepCopy()
		n.Status.Allocatable = have
	}
	return n
}

// acquire waits for the right to make the engine start something.
func (m *Manager) acquire(ctx context.Context) (release func(), err error) {
	select {
	case m.starts <- struct{}{}:
		return func() { <-m.starts }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func fieldPath(pod *corev1.Pod, container string) string {
	for _, c := range pod.Spec.Containers {
		if c.Name == container {
			return fmt.Sprintf("spec.containers{%s}", container)
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.Name == container {
			return fmt.Sprintf("spec.initContainers{%s}", container)
		}
	}
	if container == "" {
		return ""
	}
	return fmt.Sprintf("spec.ephemeralContainers{%s}", container)
}
