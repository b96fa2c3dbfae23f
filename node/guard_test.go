package node

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/pressure/meter"
	"github.com/whalepod/whalepod/node/runtime"
)

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

// The disk fills: unused images go at 85 %, least recently used first and not more than needed.
func TestGuardImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		for _, id := range []string{"app", "recent", "old", "older"} {
			s.image(id, 3*gib)
		}
		s.lodge(lodgerPod("p", 0), 0, 0)
		s.open()
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

// The admin wants more free than image garbage collection aims at: images go all the same before pods.
func TestGuardThresholdAboveCollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.lodge(lodgerPod("p", 0), 0, 30*gib)
		s.image("unused", 4*gib)
		s.image("other", 4*gib)
		s.disk.Space.Available = 29 * gib
		s.thresholds = []pressure.Threshold{{Signal: pressure.NodeFsAvailable, Fraction: 0.3}}
		s.open()
		time.Sleep(20 * time.Second)
		s.want("evicted", &s.evicted)
		if got := s.imagesLeft(); got != "other" && got != "unused" {
			t.Error("left:", got)
		}
	})
}

// Nothing can be done about memory; the disk is looked after all the same.
func TestGuardTwoShortages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.lodge(lodgerPod("critical", 2_000_001_000), 900*mib, 0)
		s.image("unused", 10*gib)
		s.memory.Available, s.disk.Space.Available = 1*mib, 8*gib
		s.open()
		time.Sleep(20 * time.Second)
		s.want("evicted", &s.evicted)
		if got := s.imagesLeft(); got != "" {
			t.Error("left:", got)
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
		time.Sleep(65 * time.Second) // between two looks
		if got := s.conditions(); got != nil {
			t.Error(got)
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
