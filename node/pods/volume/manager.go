package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/runtime"
)

// Source gives the objects that volumes are made of. desired.State is one.
type Source interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	Volume(name string) (*corev1.PersistentVolume, bool)
}

// Config of a Manager.
type Config struct {
	// Dir holds one directory for each pod, by UID.
	Dir     string
	Source  Source
	Tokens  TokenSource
	Mounter Mounter
	// Images gives the files of images, which are kept in ImagesDir for all pods together; nil: image volumes fail.
	Images    runtime.Exporter
	ImagesDir string
	// LocalDir is where the cluster's own local volumes are, a directory each; empty: there are none on this node.
	LocalDir string
	Log      *slog.Logger
}

// Manager keeps the volumes of all pods. Safe for concurrent use; calls for one pod must not overlap.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	mu     sync.Mutex
	tokens map[TokenRequest]token
	// unpacking has the images whose files somebody makes or removes; the channel is closed when that is over.
	unpacking map[string]chan struct{}
	// records is held while a pod's image volume is noted, and while it is decided that nobody needs an image.
	records sync.Mutex
}

// New makes a Manager; the directory is made by the first pod.
func New(cfg Config) *Manager {
	if cfg.Mounter == nil {
		cfg.Mounter = Kernel{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, log: cfg.Log.With("component", "volumes"), tokens: map[TokenRequest]token{}, unpacking: map[string]chan struct{}{}}
}

// Mounted is a volume that is there.
type Mounted struct {
	Path string
	// ReadOnly for all: it is the API's content, not the pod's.
	ReadOnly bool
	// Image, if it is the content of one: nothing can be made in it.
	Image *Image
}

// Failure of one volume.
type Failure struct {
	Volume string
	Err    error
}

// Message is the kubelet's for a FailedMount event.
func (f Failure) Message() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", f.Volume, f.Err)
}

// Result of Prepare.
type Result struct {
	Volumes  map[string]Mounted
	Failures []Failure
	// Renew is when Prepare is to be called again for tokens; zero for never.
	Renew time.Time
	// Changed tells that content which was there before is different now.
	Changed bool
}

// PodDir is where everything of a pod is.
func (m *Manager) PodDir(uid string) string { return filepath.Join(m.cfg.Dir, uid) }

// Prepare makes every volume of the pod, but those of images, be there with the content it should have now. It is idempotent, and it is the
// way to bring changed ConfigMaps, Secrets, tokens, labels and annotations to running containers.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod, facts env.Facts) Result {
	r := Result{Volumes: make(map[string]Mounted, len(pod.Spec.Volumes))}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image != nil { // pulled and unpacked when the first container needs it, which this does not wait for
			if mounted, ok := m.MountedImage(pod, v.Name); ok {
				r.Volumes[v.Name] = mounted
			}
			continue
		}
		mounted, err := m.prepare(ctx, pod, v, facts, &r)
		if err != nil {
			r.Failures = append(r.Failures, Failure{v.Name, err})
			continue
		}
		r.Volumes[v.Name] = mounted
	}
	return r
}

func (m *Manager) prepare(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, facts env.Facts, r *Result) (Mounted, error) {
	if err := checkName(v.Name); err != nil {
		return Mounted{}, err
	}
	switch {
	case v.EmptyDir != nil:
		dir := m.volumeDir(pod, "empty-dir", v.Name)
		return Mounted{Path: dir}, m.emptyDir(dir, v.EmptyDir, fsGroup(pod))
	case v.HostPath != nil:
		return Mounted{Path: filepath.Clean(v.HostPath.Path)}, hostPath(v.HostPath)
	}
	if claim := ClaimName(pod, v); claim != "" {
		return m.claimed(pod, v, claim)
	}
	p, kind, renew, err := m.payload(ctx, pod, v, facts)
	if err != nil {
		return Mounted{}, err
	}
	dir := m.volumeDir(pod, kind, v.Name)
	if err := makeDir(dir, 0o755); err != nil {
		return Mounted{}, err
	}
	changed, err := writeAtomic(dir, p, fsGroup(pod))
	if err != nil {
		return Mounted{}, err
	}
	r.Changed = r.Changed || changed
	if !renew.IsZero() && (r.Renew.IsZero() || renew.Before(r.Renew)) {
		r.Renew = renew
	}
	return Mounted{Path: dir, ReadOnly: true}, nil
}

// payload collects the content of a volume that comes from the API.
func (m *Manager) payload(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, facts env.Facts) (p payload, kind string, renew time.Time, err error) {
	p = payload{}
	switch {
	case v.ConfigMap != nil:
		s := v.ConfigMap
		return p, "configmap", renew, p.addConfigMap(m.cfg.Source, pod.Namespace, s.Name, s.Items, modeOf(s.DefaultMode, defaultMode), isTrue(s.Optional))
	case v.Secret != nil:
		s := v.Secret
		return p, "secret", renew, p.addSecret(m.cfg.Source, pod.Namespace, s.SecretName, s.Items, modeOf(s.DefaultMode, defaultMode), isTrue(s.Optional))
	case v.DownwardAPI != nil:
		return p, "downward-api", renew, p.addDownward(pod, v.DownwardAPI.Items, modeOf(v.DownwardAPI.DefaultMode, defaultMode), facts)
	case v.Projected != nil:
		renew, err = m.projected(ctx, p, pod, v, facts)
		return p, "projected", renew, err
	}
	return nil, "", renew, unsupported(v)
}

// Left is a volume with the API's content as a Prepare before left it; false when none did, or when the volume is of
// another kind. What runs since then can go on with it when Prepare fails.
func (m *Manager) Left(pod *corev1.Pod, name string) (Mounted, bool) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		kind := ""
		switch {
		case v.Name != name:
		case v.ConfigMap != nil:
			kind = "configmap"
		case v.Secret != nil:
			kind = "secret"
		case v.DownwardAPI != nil:
			kind = "downward-api"
		case v.Projected != nil:
			kind = "projected"
		}
		if kind == "" {
			continue
		}
		dir := m.volumeDir(pod, kind, name)
		_, err := os.Stat(filepath.Join(dir, dataLink))
		return Mounted{Path: dir, ReadOnly: true}, err == nil
	}
	return Mounted{}, false
}

func (m *Manager) projected(ctx context.Context, p payload, pod *corev1.Pod, v *corev1.Volume, facts env.Facts) (renew time.Time, err error) {
	mode := modeOf(v.Projected.DefaultMode, defaultMode)
	var errs []error
	for _, s := range v.Projected.Sources {
		switch {
		case s.ConfigMap != nil:
			err = p.addConfigMap(m.cfg.Source, pod.Namespace, s.ConfigMap.Name, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional))
		case s.Secret != nil:
			err = p.addSecret(m.cfg.Source, pod.Namespace, s.Secret.Name, s.Secret.Items, mode, isTrue(s.Secret.Optional))
		case s.DownwardAPI != nil:
			err = p.addDownward(pod, s.DownwardAPI.Items, mode, facts)
		case s.ServiceAccountToken != nil:
			var at time.Time
			at, err = m.addToken(ctx, p, pod, m.volumeDir(pod, "projected", v.Name), s.ServiceAccountToken, mode)
			if renew.IsZero() || at.Before(renew) {
				renew = at
			}
		default:
			err = errors.New("this kind of projected source is not supported on this node")
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return renew, errors.Join(errs...)
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// volumeDir is laid out as the kubelet's, so that people who know one find their way.
func (m *Manager) volumeDir(pod *corev1.Pod, kind, name string) string {
	return filepath.Join(m.PodDir(string(pod.UID)), "volumes", "kubernetes.io~"+kind, name)
}

// makeDir makes a directory with that mode whatever the umask is; its parents are for root alone.
func makeDir(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return err
	}
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

func (m *Manager) emptyDir(dir string, s *corev1.EmptyDirVolumeSource, group *int64) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		// Made under another name first: a directory with the final name has its owner and mode.
		if err := makeDir(dir+".new", 0o777); err != nil {
			return err
		}
		if err := ownEmptyDir(dir+".new", group); err != nil {
			return err
		}
		if err := os.Rename(dir+".new", dir); err != nil {
			return err
		}
	}
	switch s.Medium {
	case corev1.StorageMediumDefault:
		return nil
	case corev1.StorageMediumMemory:
		at, err := m.cfg.Mounter.Below(dir)
		if err != nil {
			return err
		}
		if slices.Contains(at, dir) {
			return nil
		}
		var size int64
		if s.SizeLimit != nil {
			size = s.SizeLimit.Value()
		}
		if err := m.cfg.Mounter.Tmpfs(dir, size); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		return ownEmptyDir(dir, group)
	}
	return fmt.Errorf("unknown storage medium %q", s.Medium)
}

func ownEmptyDir(dir string, group *int64) error {
	if group == nil {
		return nil
	}
	if err := os.Chown(dir, -1, int(*group)); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777|fs.ModeSetgid)
}
