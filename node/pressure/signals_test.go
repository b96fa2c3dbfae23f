package pressure

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const gib = 1 << 30

func describe(list []Threshold) string {
	var out []string
	for _, t := range list {
		q := t.Of(100)
		out = append(out, fmt.Sprintf("%s<%s", t.Signal, q.String()))
	}
	return strings.Join(out, " ")
}

func TestParseThresholds(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{"", "memory.available<100Mi nodefs.available<10 nodefs.inodesFree<5 imagefs.available<15 imagefs.inodesFree<5", ""},
		{"memory.available<1Gi, imagefs.available<7%", "memory.available<1Gi nodefs.available<10 nodefs.inodesFree<5 imagefs.available<7 imagefs.inodesFree<5", ""},
		{"nodefs.available<0%,nodefs.inodesFree<0%,imagefs.available<100%,imagefs.inodesFree<0%,memory.available<0%,pid.available<10", "pid.available<10", ""},
		{"memory.available", "", `invalid eviction threshold "memory.available", expected`},
		{"memory.free<1Mi", "", "unsupported eviction signal memory.free"},
		{"memory.available<1Mi,memory.available<2Mi", "", "twice"},
		{"memory.available<-1Mi", "", "eviction threshold memory.available must be positive: -1Mi"},
		{"memory.available<0", "", "must be positive"},
		{"memory.available<101%", "", "eviction percentage threshold memory.available must be <= 100%: 101%"},
		{"memory.available<-1%", "", "must be >= 0%"},
		{"memory.available<NaN%", "", "must be >= 0%"},
		{"memory.available<x%", "", "not a percentage"},
		{"memory.available<lots", "", "quantities must match"},
	} {
		got, err := ParseThresholds(tt.text, Defaults(4*gib))
		if tt.err == "" && (err != nil || describe(got) != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: %s %v", tt.text, describe(got), err)
		}
	}
}

func FuzzParseThresholds(f *testing.F) {
	f.Add("memory.available<200Mi,nodefs.available<5%")
	f.Add("pid.available<1e3")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseThresholds(text, Defaults(gib))
		if err != nil {
			return
		}
		for _, l := range list {
			if q := l.Of(gib); q.Sign() < 0 {
				t.Errorf("%q: %v below zero", text, l)
			}
		}
	})
}

// On a machine of 512 MB the kubelet's 100Mi would be a fifth of it.
func TestDefaultsOfSmallMachines(t *testing.T) {
	for memory, want := range map[int64]string{4 * gib: "100Mi", gib: "100Mi", 480 << 20: "48Mi", 0: "100Mi"} {
		if q := Defaults(memory)[0].Of(memory); q.String() != want {
			t.Errorf("%d: %s, want %s", memory, q.String(), want)
		}
	}
}

func TestMet(t *testing.T) {
	thresholds := append([]Threshold{{Signal: PIDAvailable, Fraction: 0.1}}, Defaults(gib)...)
	for _, tt := range []struct {
		name string
		seen Observations
		want string
	}{
		{"all well", Observations{MemoryAvailable: {500 << 20, gib}, NodeFsAvailable: {20, 100}, NodeFsInodesFree: {20, 100}, ImageFsAvailable: {20, 100}, PIDAvailable: {20, 100}}, ""},
		{"at the threshold", Observations{MemoryAvailable: {100 << 20, gib}, NodeFsAvailable: {10, 100}, ImageFsAvailable: {15, 100}}, ""},
		{"one disk", Observations{NodeFsAvailable: {12, 100}, ImageFsAvailable: {12, 100}}, "imagefs.available<15"},
		{"the worst first", Observations{PIDAvailable: {0, 100}, NodeFsInodesFree: {0, 100}, ImageFsAvailable: {0, 100}, MemoryAvailable: {0, gib}}, "memory.available<100Mi nodefs.inodesFree<5 imagefs.available<15 pid.available<10"},
		{"no inodes to count", Observations{NodeFsInodesFree: {0, 0}}, ""},
		{"nothing measured", nil, ""},
	} {
		if got := describe(Met(thresholds, tt.seen)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestConditions(t *testing.T) {
	start := time.Now()
	disk, memory := Threshold{Signal: ImageFsAvailable}, Threshold{Signal: MemoryAvailable}
	var c Conditions
	for _, step := range []struct {
		at     time.Duration
		met    []Threshold
		events string
		active string
	}{
		{0, nil, "[]", "[]"},
		{10 * time.Second, []Threshold{disk}, "[NodeHasDiskPressure]", "[DiskPressure]"},
		{20 * time.Second, []Threshold{memory, disk}, "[NodeHasInsufficientMemory]", "[MemoryPressure DiskPressure]"},
		{30 * time.Second, []Threshold{memory}, "[]", "[MemoryPressure DiskPressure]"},
		{5*time.Minute + 19*time.Second, nil, "[]", "[MemoryPressure DiskPressure]"},
		{5*time.Minute + 20*time.Second, nil, "[NodeHasNoDiskPressure]", "[MemoryPressure]"},
		{5*time.Minute + 30*time.Second, nil, "[NodeHasSufficientMemory]", "[]"},
		{6 * time.Minute, []Threshold{{Signal: PIDAvailable}}, "[NodeHasInsufficientPID]", "[PIDPressure]"},
	} {
		events := c.Observe(start.Add(step.at), step.met, TransitionPeriod)
		if got := fmt.Sprint(events); got != step.events {
			t.Errorf("%v: events %s, want %s", step.at, got, step.events)
		}
		if got := fmt.Sprint(c.Active()); got != step.active {
			t.Errorf("%v: %s, want %s", step.at, got, step.active)
		}
	}
	want := []string{
		"MemoryPressure False KubeletHasSufficientMemory kubelet has sufficient memory available",
		"DiskPressure False KubeletHasNoDiskPressure kubelet has no disk pressure",
		"PIDPressure True KubeletHasInsufficientPID kubelet has insufficient PID available",
	}
	for i, n := range c.Node(start) {
		if got := fmt.Sprint(n.Type, " ", n.Status, " ", n.Reason, " ", n.Message); got != want[i] {
			t.Errorf("%s, want %s", got, want[i])
		}
	}
}

func TestRefuse(t *testing.T) {
	best, burst, critical, tolerant, static := &corev1.Pod{}, &corev1.Pod{}, &corev1.Pod{}, &corev1.Pod{}, &corev1.Pod{}
	best.Spec.Containers = []corev1.Container{{Name: "a"}}
	burst.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"memory": resource.MustParse("1Mi")}}}}
	p := int32(systemCritical)
	critical.Spec.Priority = &p
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	static.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	memory, both := []corev1.NodeConditionType{corev1.NodeMemoryPressure}, []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure}
	for _, tt := range []struct {
		name   string
		pod    *corev1.Pod
		active []corev1.NodeConditionType
		want   string
	}{
		{"all well", best, nil, ""},
		{"best effort", best, memory, "The node had condition: [MemoryPressure]. "},
		{"burstable", burst, memory, ""},
		{"tolerant", tolerant, memory, ""},
		{"disk too", burst, both, "The node had condition: [MemoryPressure DiskPressure]. "},
		{"tolerant, disk too", tolerant, both, "The node had condition: [MemoryPressure DiskPressure]. "},
		{"critical", critical, both, ""},
		{"static", static, both, ""},
	} {
		reason, got := Refuse(tt.pod, tt.active)
		if got != tt.want || (reason == "Evicted") != (tt.want != "") {
			t.Errorf("%s: %s %q", tt.name, reason, got)
		}
	}
}

func TestClock(t *testing.T) {
	var c Clock
	wall := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	for _, step := range []struct {
		wall, mono time.Duration
		want       string
		condition  corev1.ConditionStatus
	}{
		{0, 0, "", corev1.ConditionFalse},
		{10 * time.Second, 10 * time.Second, "", corev1.ConditionFalse},
		{80 * time.Second, 20 * time.Second, "", corev1.ConditionFalse}, // a minute off is kept quiet
		{3690 * time.Second, 30 * time.Second, "The machine's clock jumped forward by 1h0m0s, to 2026-01-02T04:05:30Z: it was set, or the machine slept", corev1.ConditionTrue},
		{3700 * time.Second, 40 * time.Second, "", corev1.ConditionTrue},
		{100 * time.Second, 50 * time.Second, "The machine's clock jumped back by 1h0m10s, to 2026-01-02T03:05:40Z: it was set, or the machine slept", corev1.ConditionTrue},
		{100*time.Second + clockShown, 50*time.Second + clockShown, "", corev1.ConditionFalse},
	} {
		if got := c.Look(wall.Add(step.wall), step.mono); got != step.want {
			t.Errorf("%v: %q, want %q", step.wall, got, step.want)
		}
		if n := c.Condition(wall); n.Status != step.condition {
			t.Errorf("%v: %+v", step.wall, n)
		}
	}
}

func TestAllocatable(t *testing.T) {
	have := func(memory, disk string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse(memory), "ephemeral-storage": resource.MustParse(disk), "pods": resource.MustParse("110")}
	}
	for _, tt := range []struct {
		memory, disk, system, kube string
		want                       string
	}{
		{"960Mi", "20Gi", "", "", "cpu 1 memory 624Mi disk 19327352832"},
		{"2Gi", "20Gi", "", "", "cpu 1 memory 1653Mi disk 19327352832"},
		{"24Gi", "100G", "", "", "cpu 1 memory 23964Mi disk 90G"},
		{"256Mi", "20Gi", "", "", "cpu 1 memory 103Mi disk 19327352832"},
		{"2Gi", "20Gi", "memory=100Mi,cpu=100m", "memory=100Mi,cpu=100m,ephemeral-storage=1Gi", "cpu 800m memory 1748Mi disk 18253611008"},
		{"2Gi", "20Gi", "memory=0", "", "cpu 1 memory 1948Mi disk 19327352832"},
		{"2Gi", "20Gi", "memory=3Gi", "cpu=2", "cpu 0 memory 0 disk 19327352832"},
	} {
		system, err := ParseReserved(tt.system)
		if err != nil {
			t.Fatal(err)
		}
		kube, err := ParseReserved(tt.kube)
		if err != nil {
			t.Fatal(err)
		}
		capacity := have(tt.memory, tt.disk)
		got := Allocatable(capacity, Sum(system, kube), Defaults(capacity.Memory().Value()))
		if line := fmt.Sprintf("cpu %v memory %v disk %v", got.Cpu(), got.Memory(), got.StorageEphemeral()); line != tt.want {
			t.Errorf("%+v: %s", tt, line)
		}
		if got.Pods().Value() != 110 || capacity.Cpu().Value() != 1 {
			t.Error("others were changed")
		}
	}
	for text, want := range map[string]string{"memory": "is not resource=quantity", "pods=3": `cannot reserve "pods" resource`, "cpu=x": "quantities", "cpu=-1": "cannot be negative"} {
		if _, err := ParseReserved(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// pod with one container a name, and requests and limits as in "memory=1Mi ephemeral-storage=2Mi/3Mi".
func pod(name string, priority int32, resources map[string]string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Priority = &priority
	for container, text := range resources {
		c := corev1.Container{Name: container}
		c.Resources.Requests, c.Resources.Limits = corev1.ResourceList{}, corev1.ResourceList{}
		for _, part := range strings.Fields(text) {
			key, value, _ := strings.Cut(part, "=")
			request, limit, limited := strings.Cut(value, "/")
			if request != "" {
				c.Resources.Requests[corev1.ResourceName(key)] = resource.MustParse(request)
			}
			if limited {
				c.Resources.Limits[corev1.ResourceName(key)] = resource.MustParse(limit)
			}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}
