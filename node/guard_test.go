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
	"k8s.io/apimachinery/pkg/api/resource"
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
	noLayers bool
	clock    func() (time.Time, time.Duration)
	looks    int
	measured int
}

// lodger is a pod and what goes with it.
type lodger struct {
	pods.Active
	memory, disk int64
}

func newShop(t *testing.T) *shop {
	s := &shop{
		T: t, engine: fake.New("n1"), memory: pressure.Observation{Available: 500 * mib, Capacity: 1 * gib},
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
		Node: "n1", DataDir: "/data", Thresholds: pressure.Defaults(gib), Images: pressure.DefaultImagePolicy(), Gauges: s, Engine: s.engine, Clock: s.clock,
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

// Memory gets short between two looks: the kernel tells, one pod goes, then another only as it is still short.
func TestGuardMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.takes = 3 * time.Second
		s.lodge(lodgerPod("greedy", 0), 300*mib, 0)
		s.lodge(lodgerPod("modest", 0), 50*mib, 0)
		s.lodge(lodgerPod("important", 1000), 400*mib, 0)
		s.lodge(lodgerPod("critical", 2_000_001_000), 900*mib, 0)
		s.open()
		time.Sleep(time.Minute)
		s.want("evicted for nothing", &s.evicted)
		s.set(func() { s.memory.Available = 20 * mib })
		s.stall()
		synctest.Wait()
		s.want("events", &s.events, "NodeHasInsufficientMemory: Node n1 status is now: NodeHasInsufficientMemory", "EvictionThresholdMet: Attempting to reclaim memory")
		select {
		case <-s.guard.changed:
		default:
			t.Error("nobody was told")
		}
		time.Sleep(10 * time.Second)
		message := "uid-greedy 1s true The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi. Container c was using 300Mi, request is 0, has larger consumption of memory. "
		s.want("evicted", &s.evicted, message)
		if got := fmt.Sprint(s.conditions()); got != "[MemoryPressure]" {
			t.Error(got)
		}
		if r := s.guard.refuse(lodgerPod("new", 0)); r == nil || r.Reason != "Evicted" || r.Message != "The node had condition: [MemoryPressure]. " {
			t.Errorf("%+v", r)
		}
		s.set(func() { s.memory.Available = 0 })
		time.Sleep(20 * time.Second)
		if got := s.took(&s.evicted); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "uid-modest") || !strings.Contains(got, "\nuid-important") {
			t.Error(got)
		}
		s.took(&s.events)
		time.Sleep(4 * time.Minute)
		if got := fmt.Sprint(s.conditions()); got != "[MemoryPressure]" {
			t.Error("too soon:", got)
		}
		time.Sleep(time.Minute)
		s.want("events", &s.events, "NodeHasSufficientMemory: Node n1 status is now: NodeHasSufficientMemory")
		s.set(func() { s.memory.Available = 0 })
		time.Sleep(time.Hour)
		s.want("the critical pod must stay", &s.evicted)
	})
}

// A look is cheap, and still there should not be more of them than needed.
func TestGuardLooks(t *testing.T) {
	for _, tt := range []struct {
		name      string
		available int64
		noStalls  bool
		low, high int
	}{
		{"plenty", 500 * mib, false, 6, 7}, {"nearly short", 150 * mib, false, 60, 61}, {"a kernel that cannot tell", 500 * mib, true, 59, 62},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newShop(t)
			s.noStalls, s.memory.Available = tt.noStalls, tt.available
			s.open()
			time.Sleep(time.Minute)
			s.set(func() {
				if s.looks < tt.low || s.looks > tt.high || s.measured > 0 {
					t.Errorf("%s: %d looks in a minute, %d trees measured", tt.name, s.looks, s.measured)
				}
			})
		})
	}
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

// The disk fills: unused images go at 85 %, least recently used first and not more than needed.
func TestGuardImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		for _, id := range []string{"app", "recent", "old", "older"} {
			s.image(id, 3*gib)
		}
		s.lodge(lodgerPod("p", 0), 0, 0)
		s.open()
		s.guard.cfg.Engine = sold{s.engine, s}
		see := func(used ...string) {
			list, _ := s.engine.Images(t.Context())
			for _, id := range used {
				s.lodge(lodgerPod(id, 0), 0, 0)
				s.active["uid-"+id].Pod.Spec.Containers[0].Image = id
			}
			s.guard.saw(list)
			for _, id := range used {
				s.set(func() { delete(s.active, "uid-"+id) })
			}
			time.Sleep(time.Minute)
		}
		see("older")
		see("old")
		see("recent")
		s.set(func() { s.disk.Space.Available = 16 * gib })
		time.Sleep(time.Minute)
		if got := s.imagesLeft(); got != "app old older recent" {
			t.Error("too early:", got)
		}
		s.set(func() { s.disk.Space.Available = 15 * gib })
		time.Sleep(20 * time.Second)
		if got := s.imagesLeft(); got != "app recent" {
			t.Error(got)
		}
		s.want("events", &s.events)
		if got := s.conditions(); got != nil {
			t.Error(got)
		}
		// There is nothing more to remove: that is told, once in five minutes.
		s.set(func() { s.disk.Space.Available = 15 * gib })
		time.Sleep(5*time.Minute + 20*time.Second)
		const words = "Insufficient free disk space on the node's image filesystem (85% of 100.0 GiB used). Failed to free sufficient space by deleting unused images (freed 3221225472 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
		s.want("events", &s.events, "FreeDiskSpaceFailed: "+words)
		s.set(func() { s.disk.Space.Available = 15 * gib })
		time.Sleep(5*time.Minute + 20*time.Second)
		again := strings.Replace(words, "freed 3221225472", "freed 0", 1)
		s.want("events", &s.events, "FreeDiskSpaceFailed: "+again, "ImageGCFailed: "+again)
		if got := s.imagesLeft(); got != "app" {
			t.Error("an image in use went:", got)
		}
	})
}

// The disk is short: ended pods' containers go first, then images, and pods only when that is not enough.
func TestGuardDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.lodge(lodgerPod("writer", 0), 0, 30*gib)
		s.lodge(lodgerPod("reader", 0), 0, 1*mib)
		s.image("unused", 4*gib)
		s.ended = 4 * gib
		s.open()
		s.guard.cfg.Engine = sold{s.engine, s}
		list, _ := s.engine.Images(t.Context())
		s.guard.saw(list)
		time.Sleep(3 * time.Minute)
		s.set(func() { s.disk.Space.Available = 8 * gib })
		time.Sleep(20 * time.Second)
		s.want("evicted although there was something to remove", &s.evicted)
		s.want("events", &s.events, "NodeHasDiskPressure: Node n1 status is now: NodeHasDiskPressure", "EvictionThresholdMet: Attempting to reclaim ephemeral-storage")
		if got := s.imagesLeft(); got != "" || s.ended != 0 {
			t.Error("left:", got, s.ended)
		}
		s.set(func() { s.disk.Space.Available = 8 * gib })
		time.Sleep(20 * time.Second)
		s.want("evicted", &s.evicted, "uid-writer 1s true The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 8Gi. Container c was using 30Gi, request is 0, has larger consumption of ephemeral-storage. ")
		if got := fmt.Sprint(s.conditions()); got != "[DiskPressure]" {
			t.Error(got)
		}
		if r := s.guard.refuse(lodgerPod("new", 0)); r == nil || r.Message != "The node had condition: [DiskPressure]. " {
			t.Errorf("%+v", r)
		}
	})
}

// Where images have a disk of their own, those of the volumes' disk are not made room for by removing images.
func TestGuardTwoDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.images = &meter.Disk{Device: 2, Space: pressure.Observation{Available: 50 * gib, Capacity: 100 * gib}}
		s.image("unused", 4*gib)
		v := lodgerPod("volume", 0)
		v.Spec.Volumes = []corev1.Volume{{Name: "v"}}
		s.lodge(v, 0, 0)
		s.trees["/pods/volume/v"] = 5 * gib
		s.lodge(lodgerPod("layer", 0), 0, 30*gib)
		s.open()
		time.Sleep(3 * time.Minute)
		s.set(func() { s.disk.Inodes.Available = 10 })
		time.Sleep(time.Minute)
		if got := s.took(&s.evicted); got != "uid-volume 1s true The node was low on resource: inodes. Threshold quantity: 50, available: 10. " {
			t.Error(got)
		}
		if got := s.imagesLeft(); got != "unused" {
			t.Error("images were removed in vain")
		}
	})
}

// Limits of a pod's own: they need no pressure, and only pods that have one are measured.
func TestGuardLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		limit := resource.MustParse("1Mi")
		v := lodgerPod("volume", 0)
		v.Spec.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		s.lodge(v, 0, 0)
		c := lodgerPod("layer", 0)
		c.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"ephemeral-storage": limit}
		s.lodge(c, 0, 0)
		free := lodgerPod("free", 0)
		free.Spec.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		s.lodge(free, 0, 100*gib)
		s.open()
		time.Sleep(time.Minute)
		s.want("evicted within the limits", &s.evicted)
		s.set(func() { s.trees["/pods/volume/x"], s.layers["id-layer"] = 2*mib, 2*mib })
		time.Sleep(10 * time.Second)
		s.want("evicted", &s.evicted,
			`uid-layer 1s false Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. `,
			`uid-volume 1s false Usage of EmptyDir volume "x" exceeds the limit "1Mi". `)
		if got := s.conditions(); got != nil {
			t.Error(got)
		}
	})
}

// A storage driver without directories: the engine is asked. A container that has just ended hides nothing of the others.
func TestGuardAsksTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.open()
		sandbox, err := s.engine.RunSandbox(t.Context(), runtime.SandboxSpec{Pod: runtime.PodRef{Namespace: "default", Name: "p", UID: "uid-p"}})
		if err != nil {
			t.Fatal(err)
		}
		s.engine.AddImage("img")
		id, err := s.engine.CreateContainer(t.Context(), runtime.ContainerSpec{SandboxID: sandbox.ID, Pod: sandbox.Pod, Name: "c", Image: "img"})
		if err != nil {
			t.Fatal(err)
		}
		s.engine.SetLayer("c", 7*mib)
		s.noLayers = true
		a := pods.Active{Pod: lodgerPod("p", 0), Running: []pods.Process{{Name: "gone", ID: "gone", PID: 1}, {Name: "c", ID: id, PID: 1}}}
		if u := s.guard.sizeOf(t.Context(), &a); len(u.Containers) != 2 || u.Containers[0].Rootfs.Bytes != 0 || u.Containers[1].Rootfs.Bytes != 7*mib {
			t.Errorf("%+v", u)
		}
	})
}

// Somebody sets the clock.
func TestGuardClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		began := time.Now()
		var off time.Duration
		s.clock = func() (time.Time, time.Duration) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return time.Now().Add(off), time.Since(began)
		}
		s.open()
		time.Sleep(time.Minute)
		if got := s.guard.tell(time.Now()); len(got) != 3 {
			t.Errorf("%+v", got)
		}
		s.set(func() { off = -2 * time.Hour })
		time.Sleep(10 * time.Second)
		const words = "The machine's clock jumped back by 2h0m0s, to 1999-12-31T22:01:10Z: it was set, or the machine slept"
		s.want("events", &s.events, "ClockJumped: "+words)
		select {
		case <-s.guard.changed:
		default:
			t.Error("nobody was told")
		}
		if got := s.guard.tell(time.Now()); len(got) != 4 || got[3].Type != "ClockJumped" || got[3].Status != corev1.ConditionTrue || got[3].Message != words {
			t.Errorf("%+v", got)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		select {
		case <-s.guard.changed:
		default:
			t.Error("nobody was told that it is over")
		}
		if got := s.conditions(); got != nil {
			t.Error(got)
		}
	})
}
