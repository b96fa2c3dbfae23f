package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/pressure/meter"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

const mib, gib = 1 << 20, 1 << 30

// shop is a node in memory: what there is of everything, and the pods and images that take it up.
type shop struct {
	*testing.T
	engine *fake.Engine
	guard  *guard

	mu       sync.Mutex
	memory   pressure.Observation
	disk     meter.Disk           // of the agent and, unless images is set, of the engine
	images   *meter.Disk          // of the engine
	working  map[string]int64     // by container ID
	trees    map[string]int64     // bytes by path
	layers   map[string]int64     // by container ID
	active   map[string]*lodger   // by UID
	clearing map[string]time.Time // evicted: when it is cleared
	takes    time.Duration        // to clear an evicted pod
	ended    int64                // bytes that ended pods' containers take up
	evicted  []string
	events   []string
	stall    func()
	noStalls bool
	// thresholds are the defaults, if not set before open.
	thresholds []pressure.Threshold
	noLayers   bool
	clock      func() (time.Time, time.Duration)
	looks      int
	measured   int
}

// lodger is a pod and what goes with it.
type lodger struct {
	pods.Active
	memory, disk int64
}

func newShop(t *testing.T) *shop {
	s := &shop{
		T: t, engine: fake.New("n1"), thresholds: pressure.Defaults(gib), memory: pressure.Observation{Available: 500 * mib, Capacity: 1 * gib},
		disk: meter.Disk{
			Device: 1, Space: pressure.Observation{Available: 50 * gib, Capacity: 100 * gib}, Inodes: pressure.Observation{Available: 900, Capacity: 1000},
		},
		working: map[string]int64{}, trees: map[string]int64{}, layers: map[string]int64{}, active: map[string]*lodger{}, clearing: map[string]time.Time{},
	}
	return s
}

// open a guard on it.
func (s *shop) open() {
	s.guard = newGuard(guardConfig{
		Node: "n1", DataDir: "/data", Thresholds: s.thresholds, Images: pressure.DefaultImagePolicy(), Gauges: s, Engine: sold{s.engine, s}, Clock: s.clock,
		Event: func(_, reason, message string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, reason+": "+message)
		},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	s.guard.found("/engine")
	s.guard.watch(s)
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.guard.run(ctx)
	}()
	s.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
}

// lodge a pod that uses that much memory and disk.
func (s *shop) lodge(p *corev1.Pod, memory, disk int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := "id-" + p.Name
	s.active[string(p.UID)] = &lodger{memory: memory, disk: disk, Active: pods.Active{
		Pod: p, SandboxPID: 1, SandboxID: "sandbox-" + p.Name, Running: []pods.Process{{Name: "c", ID: id}}, EmptyDirs: map[string]string{},
	}}
	for _, v := range p.Spec.Volumes {
		s.active[string(p.UID)].EmptyDirs[v.Name] = "/pods/" + p.Name + "/" + v.Name
	}
	s.working[id], s.layers[id] = memory, disk
}

func lodgerPod(name string, priority int32) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{{Name: "c", Image: "app"}}},
	}
}

// set what there is, under the lock.
func (s *shop) set(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

// Memory implements gauges.
func (s *shop) Memory() (pressure.Observation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return s.memory, nil
}

func (s *shop) PIDs() (pressure.Observation, error) {
	return pressure.Observation{}, errors.New("unused")
}

func (s *shop) Disk(path string) (meter.Disk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if path == "/engine" && s.images != nil {
		return *s.images, nil
	}
	return s.disk, nil
}

func (s *shop) WorkingSet(c meter.Container) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.working[c.ID]
	if !ok {
		return 0, errors.New("no such container")
	}
	return n, nil
}

func (s *shop) Processes(meter.Container) (int64, error) { return 1, nil }

func (s *shop) Tree(_ context.Context, dir string) (pressure.Size, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.measured++
	return pressure.Size{Bytes: s.trees[dir], Inodes: 1}, nil
}

func (s *shop) Layer(_ context.Context, c meter.Container) (pressure.Size, error) {
	s.mu.Lock()
	n := s.layers[c.ID]
	s.mu.Unlock()
	if s.noLayers {
		return pressure.Size{}, meter.ErrNoLayer
	}
	return pressure.Size{Bytes: n, Inodes: 1}, nil
}

func (s *shop) Logs(context.Context, string, string) (pressure.Size, error) {
	return pressure.Size{}, nil
}

func (s *shop) Keep(map[string]bool) {}

func (s *shop) Stalls(ctx context.Context, fn func()) error {
	s.mu.Lock()
	s.stall = fn
	none := s.noStalls
	s.mu.Unlock()
	if none {
		return errors.New("no such file")
	}
	<-ctx.Done()
	return nil
}

// Active implements guarded.
func (s *shop) Active() (out []pods.Active) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, uid := range slices.Sorted(maps.Keys(s.active)) {
		if _, going := s.clearing[uid]; !going {
			out = append(out, s.active[uid].Active)
		}
	}
	return out
}

func (s *shop) Evict(uid string, e pods.Eviction) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active[uid] == nil {
		return false
	}
	s.clearing[uid] = time.Now().Add(s.takes)
	s.evicted = append(s.evicted, fmt.Sprintf("%s %v %v %s", uid, e.Grace, e.Disruption, e.Message))
	return true
}

func (s *shop) Cleared(uid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.clearing[uid]) {
		return false
	}
	if l := s.active[uid]; l != nil {
		s.memory.Available += l.memory
		s.disk.Space.Available += l.disk
		s.disk.Inodes.Available = 900
		delete(s.active, uid)
		delete(s.clearing, uid)
	}
	return true
}

func (s *shop) RemoveEnded(context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disk.Space.Available += s.ended
	s.ended = 0
}

func (s *shop) ForgetImages([]string) {}

// sold makes the room that a removed image took up.
type sold struct {
	*fake.Engine
	s *shop
}

func (e sold) RemoveImage(ctx context.Context, id string) error {
	i, err := e.Image(ctx, id)
	if err == nil {
		err = e.Engine.RemoveImage(ctx, id)
	}
	if err == nil {
		e.s.set(func() { e.s.disk.Space.Available += i.SizeBytes })
	}
	return err
}

func (s *shop) took(list *[]string) string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(*list, "\n")
	*list = nil
	return out
}

func (s *shop) want(what string, list *[]string, want ...string) {
	s.Helper()
	if got := s.took(list); got != strings.Join(want, "\n") {
		s.Errorf("%s:\n%s\nwant\n%s", what, got, strings.Join(want, "\n"))
	}
}

func (s *shop) conditions() (out []string) {
	for _, c := range s.guard.tell(time.Now()) {
		if c.Status == corev1.ConditionTrue {
			out = append(out, string(c.Type))
		}
	}
	return out
}

func (s *shop) image(id string, bytes int64) {
	s.engine.PutImage(runtime.Image{ID: id, Tags: []string{id + ":latest"}, Digests: []string{id + "@sha256:" + id}, SizeBytes: bytes})
}

// imagesLeft on the engine.
func (s *shop) imagesLeft() string {
	list, err := s.engine.Images(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}
