package pressure

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/whalepod/whalepod/node/runtime"
)

const mi = 1 << 20

func memory(n int64) *Usage { return &Usage{Memory: n * mi} }

func disk(volumes, layer, logs int64) *Usage {
	return &Usage{
		Volumes:    []VolumeUsage{{"v", Size{volumes * mi, volumes}}},
		Containers: []ContainerUsage{{Name: "c", Rootfs: Size{layer * mi, layer}, Logs: Size{logs * mi, logs}}},
	}
}

func TestRank(t *testing.T) {
	c := func(name string, priority int32, request string, u *Usage) Candidate {
		return Candidate{pod(name, priority, map[string]string{"c": request}), u}
	}
	for _, tt := range []struct {
		name   string
		signal Signal
		split  bool
		pods   []Candidate
		want   string
	}{
		{"memory: exceeding, then priority, then most beyond the request", MemoryAvailable, false, []Candidate{
			c("within-low", -5, "memory=100Mi", memory(90)), c("within", 0, "memory=100Mi", memory(10)), c("over-high", 9, "", memory(900)),
			c("over-little", 0, "memory=100Mi", memory(120)), c("over-much", 0, "memory=10Mi", memory(100)), c("unknown", 9, "", nil),
		}, "unknown over-much over-little over-high within-low within"},
		{"memory: among equals who asked for least of what it uses", MemoryAvailable, false, []Candidate{
			c("a", 0, "memory=100Mi", memory(50)), c("b", 0, "memory=100Mi", memory(99)), c("c", 0, "memory=1Gi", memory(100)),
		}, "b a c"},
		{"one disk: all counts", NodeFsAvailable, false, []Candidate{
			c("volume", 0, "", disk(30, 0, 0)), c("layer", 0, "", disk(0, 40, 0)), c("log", 0, "", disk(0, 0, 35)), c("asked", 0, "ephemeral-storage=1Gi", disk(300, 300, 300)),
		}, "layer log volume asked"},
		{"two disks, the volumes'", NodeFsAvailable, true, []Candidate{
			c("layer", 0, "", disk(0, 40, 0)), c("volume", 0, "", disk(30, 0, 0)),
		}, "volume layer"},
		{"two disks, the containers'", ImageFsAvailable, true, []Candidate{
			c("volume", 0, "", disk(300, 0, 0)), c("layer", 0, "", disk(0, 40, 0)), c("log", 0, "", disk(0, 0, 50)),
		}, "log layer volume"},
		{"inodes: a request for bytes does not help", ImageFsInodesFree, false, []Candidate{
			c("few", 0, "", disk(1, 1, 1)), c("many", 0, "ephemeral-storage=1Gi", disk(9, 9, 9)),
		}, "many few"},
		{"processes: priority first", PIDAvailable, false, []Candidate{
			c("bomb", 1, "", &Usage{Processes: 9000}), c("small", 0, "", &Usage{Processes: 3}), c("larger", 0, "", &Usage{Processes: 30}),
		}, "larger small bomb"},
	} {
		Rank(tt.signal, tt.split, tt.pods)
		var names []string
		for _, p := range tt.pods {
			names = append(names, p.Pod.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%s:\n%s, want\n%s", tt.name, got, tt.want)
		}
	}
}

func TestMessage(t *testing.T) {
	p := pod("p", 0, map[string]string{"web": "memory=10Mi ephemeral-storage=1Mi"})
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "side"}, corev1.Container{Name: "idle"})
	u := &Usage{Memory: 200 * mi, Processes: 7, Containers: []ContainerUsage{
		{Name: "web", Memory: 20 * mi, Rootfs: Size{mi, 1}, Logs: Size{mi, 1}}, {Name: "side", Memory: 4096}, {Name: "idle"}, {Name: "debugger", Memory: mi},
	}}
	seen := Observations{MemoryAvailable: {80 * mi, gib}, ImageFsAvailable: {gib, 10 * gib}, NodeFsInodesFree: {123, 65536}, PIDAvailable: {5, 1000}}
	withPodLevel := p.DeepCopy()
	withPodLevel.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"memory": resource.MustParse("50Mi")}}
	for _, tt := range []struct {
		met  Threshold
		pod  *corev1.Pod
		used *Usage
		want string
	}{
		{Defaults(gib)[0], p, u, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. Container web was using 20Mi, request is 10Mi, has larger consumption of memory. Container side was using 4Ki, request is 0, has larger consumption of memory. "},
		{Defaults(gib)[0], withPodLevel, &Usage{Memory: 60 * mi}, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. Pod p was using 60Mi, request is 50Mi, has larger consumption of memory. "},
		{Threshold{Signal: ImageFsAvailable, Fraction: 0.15}, p, u, "The node was low on resource: ephemeral-storage. Threshold quantity: 1536Mi, available: 1Gi. Container web was using 2Mi, request is 1Mi, has larger consumption of ephemeral-storage. "},
		{Threshold{Signal: NodeFsInodesFree, Fraction: 0.05}, p, u, "The node was low on resource: inodes. Threshold quantity: 3276, available: 123. "},
		{Threshold{Signal: PIDAvailable, Fraction: 0.1}, p, u, "The node was low on resource: pids. Threshold quantity: 100, available: 5. "},
		{Defaults(gib)[0], p, nil, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. "},
	} {
		if got := Message(tt.met, seen, Candidate{tt.pod, tt.used}); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.met.Signal, got, tt.want)
		}
	}
}

func TestExceeds(t *testing.T) {
	limited := pod("p", 0, map[string]string{"c": "ephemeral-storage=/10Mi"})
	limit := resource.MustParse("1Mi")
	volumes := &corev1.Pod{}
	volumes.Spec.Volumes = []corev1.Volume{
		{Name: "ram", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}},
		{Name: "any", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}},
	}
	none := volumes.DeepCopy()
	none.Spec.Volumes = none.Spec.Volumes[:2]
	two := pod("p", 0, map[string]string{"c": "ephemeral-storage=/10Mi", "d": "ephemeral-storage=/90Mi"})
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		used *Usage
		want string
	}{
		{"volume within", volumes, disk(1, 9, 9), ""},
		{"volume", volumes, disk(2, 0, 0), `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `},
		{"pod within", limited, disk(4, 4, 2), ""},
		{"pod", limited, disk(4, 4, 3), "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "},
		{"container", two, disk(0, 9, 3), `Container c exceeded its local ephemeral storage limit "10Mi". `},
	} {
		if got := Exceeds(tt.pod, tt.used); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if !Limited(tt.pod) {
			t.Errorf("%s: would not be measured", tt.name)
		}
	}
	if Limited(none) || Limited(pod("p", 0, map[string]string{"c": "ephemeral-storage=1Mi memory=/1Mi"})) {
		t.Error("measured for nothing")
	}
}

func TestImages(t *testing.T) {
	now := time.Now()
	image := func(id string, pinned bool, digests ...string) runtime.Image {
		return runtime.Image{ID: id, Tags: []string{id + ":1"}, Digests: digests, Pinned: pinned, SizeBytes: 10}
	}
	all := []runtime.Image{image("loaded", false), image("pause", true, "d"), image("old", false, "d"), image("older", false, "d"), image("used", false, "d"), {ID: "untagged"}}
	var k, again Images
	again.Note(now, all[1:3], nil)
	if got := again.Removable(now, all, nil, 2*time.Minute); len(got) != 1 || got[0].ID != "old" {
		t.Errorf("after a restart: %+v", got)
	}
	k.Note(now, nil, nil)
	k.Note(now, all[:5], map[string]bool{"older": true, "used": true})
	k.Note(now.Add(time.Minute), all, map[string]bool{"old": true, "used": true})
	order := func(at time.Duration) string {
		var ids []string
		for _, i := range k.Removable(now.Add(at), append(all, image("unknown", false)), map[string]bool{"used": true}, 2*time.Minute) {
			ids = append(ids, i.ID)
		}
		return strings.Join(ids, " ")
	}
	if got := order(119 * time.Second); got != "" {
		t.Error("too young:", got)
	}
	if got, want := order(2*time.Minute), "older old loaded"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := order(3*time.Minute), "untagged older old loaded"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	k.Note(now, slices.DeleteFunc(slices.Clone(all), func(i runtime.Image) bool { return i.ID == "old" }), nil)
	if got, want := order(3*time.Minute), "untagged older loaded"; got != want {
		t.Errorf("an image that went: %s, want %s", got, want)
	}
}

func TestImagePolicy(t *testing.T) {
	p := DefaultImagePolicy()
	for _, tt := range []struct {
		free   int64
		due    bool
		used   int
		excess int64
	}{{30, false, 70, 0}, {16, false, 84, 4}, {15, true, 85, 5}, {0, true, 100, 20}, {120, false, 0, 0}} {
		o := Observation{tt.free * gib, 100 * gib}
		if p.Due(o) != tt.due || Used(o) != tt.used || p.Excess(o) != tt.excess*gib {
			t.Errorf("%d free: %v %d %d", tt.free, p.Due(o), Used(o), p.Excess(o)/gib)
		}
	}
	if p.Due(Observation{}) || (ImagePolicy{High: 100, Low: 80}).Due(Observation{0, 100}) {
		t.Error("due for nothing")
	}
	want := "Insufficient free disk space on the node's image filesystem (95% of 40.0 GiB used). Failed to free sufficient space by deleting unused images (freed 7 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
	if got := Insufficient(Observation{2 * gib, 40 * gib}, 7); got != want {
		t.Error(got)
	}
	for _, tt := range []struct {
		n    int64
		want string
	}{{0, "0 B"}, {1023, "1023 B"}, {1024, "1.0 KiB"}, {1536 * mi, "1.5 GiB"}, {3 << 40, "3.0 TiB"}, {5000 << 40, "5000.0 TiB"}} {
		if got := size(tt.n); got != tt.want {
			t.Errorf("%d: %s, want %s", tt.n, got, tt.want)
		}
	}
	for p, want := range map[ImagePolicy]string{
		{High: 101, Low: 1}: "invalid HighThresholdPercent 101, must be in range [0-100]", {High: 90, Low: -1}: "invalid LowThresholdPercent -1, must be in range [0-100]",
		{High: 70, Low: 80}: "LowThresholdPercent 80 can not be higher than HighThresholdPercent 70", DefaultImagePolicy(): "",
	} {
		if err := p.Validate(); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Error(err)
		}
	}
}
