package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// maxPods is what the kubelet allows by default; a /24 has room for twice as many.
	maxPods = 110
	// localVolumes is the annotation that tells the master where to make local volumes.
	localVolumes = "whalepod.io/local-volumes"
	// Kubernetes tells no more images of a node than this (--node-status-max-images).
	maxImages = 50
)

// machine is what does not change while the agent runs.
type machine struct {
	memory     int64
	cpus       int
	machineID  string
	bootID     string
	systemUUID string
	kernel     string
	osImage    string
}

func inspectMachine() machine {
	return machine{
		memory: memoryTotal(), cpus: goruntime.NumCPU(),
		machineID:  firstLine("/etc/machine-id", "/var/lib/dbus/machine-id"),
		bootID:     firstLine("/proc/sys/kernel/random/boot_id"),
		systemUUID: firstLine("/sys/class/dmi/id/product_uuid", "/etc/machine-id"),
		kernel:     firstLine("/proc/sys/kernel/osrelease"),
		osImage:    osImage(),
	}
}

// firstLine of the first file that can be read; these facts are shown to people, and nothing depends on them.
func firstLine(paths ...string) string {
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil {
			line, _, _ := strings.Cut(string(data), "\n")
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func osImage() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

func memoryTotal() int64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return int64(si.Totalram) * int64(si.Unit)
}

// diskSize of the file system that holds path, in bytes.
func diskSize(path string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil {
		return 0
	}
	return int64(fs.Blocks) * fs.Bsize
}

// node describes this machine as a Node, for the beginning of a session. It asks nobody: an engine that starts and ends
// containers takes seconds to tell of itself (Docker's /info waits for each container's lock), and until the session is
// there the master counts the node as silent.
func (a *Agent) node(context.Context) (*corev1.Node, error) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: a.cfg.Identity.Node,
			Labels: map[string]string{
				corev1.LabelHostname: a.cfg.Identity.Node, corev1.LabelOSStable: "linux", corev1.LabelArchStable: goruntime.GOARCH,
				"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": goruntime.GOARCH,
			},
			Annotations: map[string]string{},
		},
		Spec: corev1.NodeSpec{PodCIDR: a.podCIDR()},
	}
	for k, v := range a.cfg.Labels {
		n.Labels[k] = v
	}
	if a.cfg.LocalVolumes != "" {
		n.Annotations[localVolumes] = a.cfg.LocalVolumes
	}
	// Without it the others go by their own routes alone.
	if place, err := network.PlaceOf(network.Config{NodeIP: a.cfg.NodeIP, MTU: a.cfg.MTU, AlwaysVXLAN: a.cfg.AlwaysVXLAN}); err == nil {
		n.Annotations[network.LinkAnnotation] = place.String()
	} else {
		a.log.Warn("the node's link is not known", "err", err)
	}
	n.Status = *a.nodeStatus()
	return n, nil
}

// nodeStatus is what is known now. What the agent does not know yet it leaves out, and the master keeps what it was told
// before: condition Ready, the engine's version, the size of the engine's disk.
func (a *Agent) nodeStatus() *corev1.NodeStatus {
	engine := a.engineSeen()
	capacity := a.capacity()
	s := &corev1.NodeStatus{
		Capacity: capacity, Allocatable: a.allocatable(),
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: a.cfg.NodeIP.String()},
			{Type: corev1.NodeHostName, Address: a.cfg.Identity.Node},
		},
		NodeInfo: corev1.NodeSystemInfo{
			MachineID: a.machine.machineID, BootID: a.machine.bootID, SystemUUID: a.machine.systemUUID,
			KernelVersion: a.machine.kernel, OSImage: a.machine.osImage,
			KubeletVersion: a.cfg.Version, OperatingSystem: "linux", Architecture: goruntime.GOARCH,
		},
		Conditions: a.conditions(engine, time.Now()),
	}
	if engine.known {
		s.NodeInfo.ContainerRuntimeVersion = "docker://" + engine.info.Version
	} else {
		delete(s.Capacity, corev1.ResourceEphemeralStorage)
		delete(s.Allocatable, corev1.ResourceEphemeralStorage)
	}
	return s
}

func (a *Agent) capacity() corev1.ResourceList {
	disk := diskSize(a.guard.rootDir())
	if disk == 0 {
		disk = diskSize(a.cfg.DataDir) // the engine's directory may be hidden from us
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(a.machine.cpus), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(a.machine.memory/1024*1024, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(disk/1024*1024, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
}

// allocatable keeps something for the system: a 1-GB server whose pods take all of it dies with them.
func (a *Agent) allocatable() corev1.ResourceList {
	return pressure.Allocatable(a.capacity(), a.cfg.Reserved, a.guard.cfg.Thresholds)
}

// conditions in the kubelet's words; without Ready while that is not known.
func (a *Agent) conditions(engine engineSeen, now time.Time) []corev1.NodeCondition {
	at := metav1.NewTime(now)
	known := append(a.guard.tell(now), a.policyCondition(at)...)
	if !engine.asked || a.returning(now) {
		return known
	}
	ready := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
	}
	if reason := a.notReady(engine.err); reason != "" {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", reason
	}
	ready.LastHeartbeatTime, ready.LastTransitionTime = at, at
	return append(known, ready)
}

// returning says that the agent was here before and has not had the time yet to find its network again. A node whose agent
// was restarted is not told of as one that is not ready.
func (a *Agent) returning(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.plane == nil && a.trouble == "" && now.Before(a.setUpBy)
}

func (a *Agent) notReady(engine error) string {
	var reasons []string
	if engine != nil {
		reasons = append(reasons, "container runtime is down: "+engine.Error())
	}
	if !a.networkReady() {
		reasons = append(reasons, "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:the node's bridge is not set up")
	}
	return strings.Join(reasons, ", ")
}

// imageList is what the scheduler wants to know of the images here, largest first.
func imageList(images []runtime.Image) []corev1.ContainerImage {
	slices.SortFunc(images, func(x, y runtime.Image) int { return cmp.Compare(y.SizeBytes, x.SizeBytes) })
	out := []corev1.ContainerImage{}
	for _, img := range images {
		names := append(slices.Clone(img.Digests), img.Tags...)
		if len(names) == 0 {
			continue
		}
		out = append(out, corev1.ContainerImage{Names: names, SizeBytes: img.SizeBytes})
		if len(out) == maxImages {
			break
		}
	}
	return out
}
