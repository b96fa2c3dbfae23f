package pods

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods/admit"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
)

// HostPort of a pod on the node.
type HostPort struct {
	HostIP        string
	HostPort      int32
	ContainerPort int32
	Protocol      corev1.Protocol
}

// Network connects pods. Both methods are idempotent.
type Network interface {
	// Attach connects the network namespace of the sandbox process and returns the pod's address; want, if not empty, is
	// the address it had before. Attached already: it repairs what is missing and returns the same address.
	Attach(ctx context.Context, pod runtime.PodRef, sandboxPID int, want string, ports []HostPort) (ip string, err error)
	// Detach takes the pod off the network and frees its address.
	Detach(ctx context.Context, uid string) error
}

// Reporter takes statuses on their way to the master. Its methods must not block, and are called concurrently.
type Reporter interface {
	// Status is called when it changed, and once for every pod when the agent has started.
	Status(pod types.NamespacedName, uid string, status corev1.PodStatus)
	// Gone says that nothing of a deleted pod is left on this node, so that its object may go if it is still there. It may
	// come repeatedly.
	Gone(pod types.NamespacedName, uid string)
}

// Recorder takes events. It must not block, and is called concurrently. fieldPath names the container, as in spec.containers{web}; empty for the pod.
type Recorder interface {
	Event(pod *corev1.Pod, eventType, reason, message, fieldPath string)
}

// Config of a Manager.
type Config struct {
	NodeName string
	// DataDir is the agent's directory; this package uses DataDir/pods, status, images and image-volumes.
	DataDir string
	// LocalDir has the cluster's own local volumes, which outlive pods and agents; empty: this node keeps none.
	LocalDir string
	Desired  *desired.State
	Engine   runtime.Engine
	Network  Network
	Report   Reporter
	Record   Recorder
	// Tokens for serviceAccountToken volumes; nil: such volumes fail.
	Tokens volume.TokenSource
	// Mounter for tmpfs and subPath; nil: the kernel.
	Mounter volume.Mounter
	// Cluster's domain and DNS address. It may be empty until the first session.
	Cluster func() netfiles.Cluster
	// HostIPs of the node, the main one first.
	HostIPs func() []string
	// ResolvConf and HostsFile of the node; empty: /etc/resolv.conf and /etc/hosts. Where the former names only the stub of
	// systemd-resolved, its own file is read.
	ResolvConf, HostsFile string
	// Allocatable of the node: what a container without limits finds as its limits, and what a pod must fit into that comes
	// before the master has told of this node.
	Allocatable func() corev1.ResourceList
	// Refuse tells why a pod may not come now although it fits; nil: every pod may.
	Refuse func(pod *corev1.Pod) *admit.Refusal
	// NodeMemory in bytes, for OOM scores.
	NodeMemory int64
	// ParallelPulls and ParallelStarts bound what the engine does at a time; 0 is 3 and 4.
	ParallelPulls, ParallelStarts int
	// RegistryConfigs are Docker config.json files with the node's own registry passwords.
	RegistryConfigs []string
	// Alive tells whether there is a process with that PID, for the time when the engine cannot be asked; nil: the kernel.
	Alive func(pid int) bool
	// Resync is how often everything is looked at again although nothing was heard; 0 is 5 min.
	Resync time.Duration
	Log    *slog.Logger
}

func (c *Config) fill() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ParallelStarts <= 0 {
		c.ParallelStarts = 4
	}
	if c.Resync <= 0 {
		c.Resync = 5 * time.Minute
	}
	if c.Cluster == nil {
		c.Cluster = func() netfiles.Cluster { return netfiles.Cluster{Domain: "cluster.local"} }
	}
	if c.Allocatable == nil {
		c.Allocatable = func() corev1.ResourceList { return nil }
	}
	if c.Refuse == nil {
		c.Refuse = func(*corev1.Pod) *admit.Refusal { return nil }
	}
	if c.Alive == nil {
		c.Alive = func(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
	}
	if c.HostIPs == nil {
		c.HostIPs = func() []string { return nil }
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.HostsFile == "" {
		c.HostsFile = "/etc/hosts"
	}
}
