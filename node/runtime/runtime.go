// Package runtime is the border between the agent and a container engine: sandboxes (the namespaces of a pod), the
// containers in them, and images. It speaks of pods by UID and knows nothing of probes, volumes or restart rules.
//
// runtimetest holds the contract; docker and fake pass it.
package runtime

import (
	"context"
	"errors"
	"io"
	"time"
)

// Errors by which callers decide; implementations wrap them. Everything else is transient: try again.
var (
	// ErrNotFound: no such sandbox, container or image.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a container or sandbox of this name and attempt exists already.
	ErrConflict = errors.New("already exists")
	// ErrInvalid: the engine will never accept this (bad command, bad mount); trying again is useless.
	ErrInvalid = errors.New("invalid")
	// ErrImageMissing: the registry has no such image, or the reference does not parse.
	ErrImageMissing = errors.New("image not found")
	// ErrImageDenied: the registry asks for rights that were not given.
	ErrImageDenied = errors.New("access to image denied")
	// ErrRegistryUnavailable: the registry cannot be reached or has troubles of its own.
	ErrRegistryUnavailable = errors.New("registry unavailable")
	// ErrNoHandler: the engine has no runtime of this name (SandboxSpec.RuntimeHandler).
	ErrNoHandler = errors.New("runtime handler not configured")
	// ErrUnavailable: the engine does not answer.
	ErrUnavailable = errors.New("container engine unavailable")
)

// PodRef names a pod on this node.
type PodRef struct {
	Namespace, Name, UID string
}

// Sandbox is the pause container that holds a pod's namespaces.
type Sandbox struct {
	ID      string
	Pod     PodRef
	Attempt int
	// PID of the pause process in the host's PID namespace; 0 unless running.
	PID       int
	Running   bool
	CreatedAt time.Time
	// Labels given at creation.
	Labels map[string]string
}

// SandboxSpec asks for a sandbox.
type SandboxSpec struct {
	Pod     PodRef
	Attempt int
	// Hostname inside the pod (UTS namespace).
	Hostname string
	// HostNetwork, HostPID and HostIPC put the pod into the node's own namespaces.
	HostNetwork, HostPID, HostIPC bool
	// Sysctls of the pod's namespaces, as in net.ipv4.tcp_syncookies.
	Sysctls map[string]string
	// CgroupParent as the engine wants it; empty for the engine's default.
	CgroupParent string
	// ShmSize of /dev/shm in bytes; 0 for the engine's default.
	ShmSize int64
	// RuntimeHandler is the engine's runtime (RuntimeClass handler) for the sandbox and what joins it; empty for its default.
	RuntimeHandler string
	// Labels are kept and given back by Pods.
	Labels map[string]string
}

// State of a container.
type State string

// The states of a container.
const (
	StateCreated State = "created"
	StateRunning State = "running"
	StateExited  State = "exited"
)

// Container is one attempt of a pod's container.
type Container struct {
	ID      string
	Pod     PodRef
	Name    string
	Attempt int
	// Image as asked for, ImageID as the engine names what it runs (docker-pullable://… or sha256:…).
	Image, ImageID string
	State          State
	// PID in the host's PID namespace; 0 unless running.
	PID                              int
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int
	OOMKilled                        bool
	// Error in the engine's words when it could not be started.
	Error string
	// Labels given at creation.
	Labels map[string]string
}

// Mount of a host path into a container.
type Mount struct {
	HostPath, ContainerPath string
	ReadOnly                bool
	// Below says whether ReadOnly holds for what is mounted below the path too.
	Below RecursiveReadOnly
	// Propagation: "", "rslave" or "rshared".
	Propagation string
}

// RecursiveReadOnly is what a read-only mount asks for what is mounted below it.
type RecursiveReadOnly int

// As in corev1.RecursiveReadOnlyMode.
const (
	RecursiveNever RecursiveReadOnly = iota
	RecursiveIfPossible
	// RecursiveAlways is refused with ErrInvalid by an engine that cannot.
	RecursiveAlways
)

// Device of the node given to a container.
type Device struct {
	HostPath, ContainerPath, Permissions string
}

// Resources of a container; zero values mean unlimited or default.
type Resources struct {
	MemoryBytes         int64
	CPUShares           int64
	CPUQuota, CPUPeriod int64
	PidsLimit           int64
	OOMScoreAdj         int
}

// ContainerSpec asks for a container in a sandbox.
type ContainerSpec struct {
	SandboxID string
	Pod       PodRef
	Name      string
	Attempt   int
	Image     string
	// Command and Args as in the pod; empty means the image's own ENTRYPOINT and CMD (Args alone replaces CMD).
	Command, Args []string
	// Env as NAME=value, in order.
	Env        []string
	WorkingDir string
	Mounts     []Mount
	Devices    []Device
	// Tmpfs by container path, value in mount options.
	Tmpfs map[string]string
	// Stdin, StdinOnce and TTY as in the pod.
	Stdin, StdinOnce, TTY bool
	Resources             Resources
	Privileged            bool
	ReadOnlyRootFS        bool
	NoNewPrivileges       bool
	// User is "", "uid" or "uid:gid".
	User                            string
	SupplementalGroups              []int64
	CapAdd, CapDrop                 []string
	MaskedPathsOff                  bool
	SeccompProfile, AppArmorProfile string
	HostNetwork, HostPID, HostIPC   bool
	SharePID                        bool
	// PIDTarget is the ID of a running container whose PID namespace is joined (kubectl debug --target); it wins over SharePID.
	PIDTarget    string
	CgroupParent string
	StopSignal   string
	Labels       map[string]string
	// RuntimeHandler is the engine's runtime (RuntimeClass handler); empty for its default.
	RuntimeHandler string
}

// Pod is everything the engine holds of one pod, newest attempts first.
type Pod struct {
	Ref        PodRef
	Sandboxes  []Sandbox
	Containers []Container
}

// Event says that something of a pod changed; state is to be read again (level, not edge).
type Event struct {
	PodUID string
	// Container is the ID, when the event was about one.
	Container string
	// Action in the engine's words: start, die, oom, destroy.
	Action string
}

// Image on this node.
type Image struct {
	// ID is content-addressed: sha256:…
	ID string
	// Tags and Digests under which it is known.
	Tags, Digests []string
	SizeBytes     int64
	// Pinned: it must not be removed to make room (the pause image, and images that say so with a label).
	Pinned bool
	// User, Entrypoint and Cmd of the image's configuration.
	User            string
	Entrypoint, Cmd []string
}

// Auth for a registry; nil when none.
type Auth struct {
	Username, Password, IdentityToken, ServerAddress string
}

// Runtime makes and ends the sandboxes and containers of this node. All methods are safe for concurrent use, bounded in
// time by their context, and idempotent where that makes sense: stopping or removing what is gone is no error.
type Runtime interface {
	// Pods lists all pods of this node with their sandboxes and containers, running or not; one call to the engine.
	Pods(ctx context.Context) ([]Pod, error)
	// Pod reads one pod; a Pod without sandboxes and containers when there is nothing of it.
	Pod(ctx context.Context, uid string) (Pod, error)
	// RunSandbox creates and starts a sandbox; ErrNoHandler when its runtime is not there.
	RunSandbox(ctx context.Context, spec SandboxSpec) (Sandbox, error)
	// CreateContainer creates a container that Start will run.
	CreateContainer(ctx context.Context, spec ContainerSpec) (id string, err error)
	// StartContainer runs it; ErrInvalid with the engine's words when the command cannot be executed.
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the stop signal, waits up to grace, then kills; it returns when the container has ended.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	// RemoveContainer removes it, killing it if it runs. Works for sandboxes too.
	RemoveContainer(ctx context.Context, id string) error
	// Inspect reads one container.
	Inspect(ctx context.Context, id string) (Container, error)
	// Events calls fn for each change until ctx ends (then it returns nil) or the connection to the engine breaks (then
	// it returns the error, and the caller lists again). ready is closed once nothing can be missed any more; it may be
	// nil, and stays open when the engine cannot be reached.
	Events(ctx context.Context, ready chan<- struct{}, fn func(Event)) error
}

// Images is what a runtime can do with images.
type Images interface {
	// Image reads one by reference; ErrNotFound.
	Image(ctx context.Context, ref string) (Image, error)
	// Images lists all.
	Images(ctx context.Context) ([]Image, error)
	// Pull fetches from the registry; progress, if not nil, is told now and then.
	Pull(ctx context.Context, ref string, auth *Auth, progress func(string)) (Image, error)
	// Load reads a docker-archive; progress is told what happens. It returns the names loaded.
	Load(ctx context.Context, tar io.Reader, progress func(string)) ([]string, error)
	// RemoveImage forgets one that no container uses.
	RemoveImage(ctx context.Context, id string) error
}

// Size of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// Streams of an exec or attach. TTY means that Stderr is not used. Resize may be nil.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan Size
}

// LogOptions as in `kubectl logs`.
type LogOptions struct {
	Follow, Timestamps bool
	// Since is zero for the beginning. Tail is -1 for all lines.
	Since time.Time
	Tail  int64
	// Stdout and Stderr receive the lines; with a TTY everything is in Stdout.
	Stdout, Stderr io.Writer
}

// Streamer is what a runtime can do with a running container.
type Streamer interface {
	// Exec runs a command in the container and returns its exit code; ErrInvalid with the engine's words when it cannot
	// be executed. A command that is still there when ctx ends is killed. Exec and Attach may return while a read of
	// Stdin still blocks: the caller closes it.
	Exec(ctx context.Context, id string, cmd []string, s Streams) (exitCode int, err error)
	// Attach connects to the main process until it ends or ctx does.
	Attach(ctx context.Context, id string, s Streams) error
	// Logs writes what the container wrote; with Follow until it ends or ctx does. It works on exited containers.
	Logs(ctx context.Context, id string, o LogOptions) error
}

// Info about the engine, for the node's status.
type Info struct {
	// Version as in docker://28.2.2 without the scheme.
	Version, OperatingSystem, KernelVersion, Architecture string
	CgroupVersion                                         int
	CgroupDriver                                          string
	RootDir                                               string
}

// Engine is all of it, what docker and fake implement.
type Engine interface {
	Runtime
	Images
	Streamer
	Resizer
	Exporter
	// Ping asks whether the engine answers at all; ErrUnavailable when it does not. It waits for no container.
	Ping(ctx context.Context) error
	// Info asks the engine about itself; ErrUnavailable when it does not answer. Docker waits for the lock of each container, which
	// takes seconds while it starts and ends some.
	Info(ctx context.Context) (Info, error)
}
