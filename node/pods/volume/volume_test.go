package volume

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/runtime"
)

// mounts is a Mounter that only writes down, so that the tests need no root.
type mounts struct {
	at    []string
	binds map[string]string
	stuck bool
}

func (m *mounts) Tmpfs(dir string, size int64) error {
	m.at = append(m.at, dir)
	return nil
}

func (m *mounts) Bind(f *os.File, target string) error {
	m.at = append(m.at, target)
	if m.binds == nil {
		m.binds = map[string]string{}
	}
	m.binds[target] = f.Name()
	return nil
}

func (m *mounts) Unmount(dir string) error {
	if m.stuck {
		return errors.New("busy")
	}
	m.at = slices.DeleteFunc(m.at, func(s string) bool { return s == dir })
	return nil
}

func (m *mounts) Below(dir string) ([]string, error) {
	var out []string
	for _, p := range m.at {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}

type source struct {
	maps    map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
}

func (s source) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	c, ok := s.maps[name]
	return c, ok
}
func (s source) Secret(_, name string) (*corev1.Secret, bool) { c, ok := s.secrets[name]; return c, ok }
func (s source) Claim(_, name string) (*corev1.PersistentVolumeClaim, bool) {
	c, ok := s.claims[name]
	return c, ok
}
func (s source) Volume(name string) (*corev1.PersistentVolume, bool) {
	v, ok := s.volumes[name]
	return v, ok
}

func ref[T any](v T) *T { return &v }

func pod(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-1", Labels: map[string]string{"app": "x"}}, Spec: corev1.PodSpec{Volumes: volumes}}
}

func vol(s corev1.VolumeSource) corev1.Volume { return corev1.Volume{Name: "v", VolumeSource: s} }

func manager(t *testing.T, src source) (*Manager, *mounts) {
	t.Helper()
	mt := &mounts{}
	return New(Config{Dir: filepath.Join(t.TempDir(), "pods"), Source: src, Mounter: mt}), mt
}

// tree lists names, modes and contents as a container sees them (links followed, ..names left out).
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	var walk func(string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			name := filepath.Join(rel, e.Name())
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(name)
				continue
			}
			data, _ := os.ReadFile(filepath.Join(dir, name))
			out = append(out, fmt.Sprintf("%s %o %s", name, info.Mode().Perm(), data))
		}
	}
	walk("")
	return strings.Join(out, ", ")
}

func TestConfigMapIsUpdatedAtomically(t *testing.T) {
	cm := &corev1.ConfigMap{Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {'3'}}}
	m, _ := manager(t, source{maps: map[string]*corev1.ConfigMap{"cm": cm}})
	p := pod(vol(corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}))
	r := m.Prepare(t.Context(), p, env.Facts{})
	if len(r.Failures) > 0 || !r.Changed || !r.Volumes["v"].ReadOnly {
		t.Fatal(r)
	}
	dir := r.Volumes["v"].Path
	if got := tree(t, dir); got != "a 644 1, b 644 2, c 644 3" {
		t.Fatal(got)
	}
	first, _ := os.Readlink(filepath.Join(dir, "..data"))
	if r := m.Prepare(t.Context(), p, env.Facts{}); r.Changed {
		t.Fatal("written again though nothing changed")
	}
	// An open file keeps the old content; the name shows the new.
	f, _ := os.Open(filepath.Join(dir, "a"))
	defer func() { _ = f.Close() }()
	cm.Data = map[string]string{"a": "new", "d": "4"}
	if r := m.Prepare(t.Context(), p, env.Facts{}); !r.Changed || len(r.Failures) > 0 {
		t.Fatal(r)
	}
	if got := tree(t, dir); got != "a 644 new, c 644 3, d 644 4" {
		t.Fatal(got)
	}
	if second, _ := os.Readlink(filepath.Join(dir, "..data")); second == first {
		t.Fatal("..data was not swapped")
	}
	if old := make([]byte, 1); true {
		if _, err := f.Read(old); err != nil || string(old) != "1" {
			t.Fatal(string(old), err)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 5 { // ..data, its directory, a, c, d
		t.Fatal(entries)
	}
}

func TestItemsModesAndGroups(t *testing.T) {
	sec := &corev1.Secret{Data: map[string][]byte{"k": []byte("v"), "other": []byte("x")}}
	m, _ := manager(t, source{secrets: map[string]*corev1.Secret{"s": sec}})
	s := &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ref(int32(0o400)), Items: []corev1.KeyToPath{{Key: "k", Path: "deep/dir/k", Mode: ref(int32(0o640))}, {Key: "other", Path: "deep/o"}}}
	p := pod(vol(corev1.VolumeSource{Secret: s}))
	r := m.Prepare(t.Context(), p, env.Facts{})
	if len(r.Failures) > 0 {
		t.Fatal(r.Failures)
	}
	if got := tree(t, r.Volumes["v"].Path); got != "deep/dir/k 640 v, deep/o 400 x" {
		t.Fatal(got)
	}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ref(int64(os.Getgid()))}
	if got := tree(t, m.Prepare(t.Context(), p, env.Facts{}).Volumes["v"].Path); got != "deep/dir/k 640 v, deep/o 440 x" {
		t.Fatal(got)
	}
	s.Items = append(s.Items, corev1.KeyToPath{Key: "none", Path: "n"})
	if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) != 1 || r.Failures[0].Message() != `MountVolume.SetUp failed for volume "v" : references non-existent secret key: none` {
		t.Fatal(r.Failures)
	}
	s.Optional = ref(true)
	if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) != 0 {
		t.Fatal(r.Failures)
	}
	s.Items[0].Path = "../escape"
	if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) != 1 {
		t.Fatal("escaped")
	}
}

func TestFailures(t *testing.T) {
	m, _ := manager(t, source{})
	file := filepath.Join(t.TempDir(), "file")
	_ = os.WriteFile(file, nil, 0o600)
	for _, tt := range []struct {
		s    corev1.VolumeSource
		want string
	}{
		{corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "no"}}}, `configmap "no" not found`},
		{corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "no"}}, `secret "no" not found`},
		{corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "x"}}, "gcePersistentDisk is a cloud vendor's own disk"},
		{corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}}, "no volume plugin matched: iscsi volumes"},
		{corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: file, Type: ref(corev1.HostPathDirectory)}}, "hostPath type check failed: " + file + " is not a directory"},
		{corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: file + "x", Type: ref(corev1.HostPathFile)}}, "is not a file"},
		{corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: file, Type: ref(corev1.HostPathSocket)}}, "is not a socket file"},
		{corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: file, Type: ref(corev1.HostPathCharDev)}}, "is not a character device"},
		{corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/dev/null", Type: ref(corev1.HostPathBlockDev)}}, "is not a block device"},
		{corev1.VolumeSource{}, "no volume plugin matched"},
	} {
		r := m.Prepare(t.Context(), pod(vol(tt.s)), env.Facts{})
		if len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Err.Error(), tt.want) {
			t.Errorf("%v, want %s", r.Failures, tt.want)
		}
	}
}

func TestHostPathThatIsMade(t *testing.T) {
	m, _ := manager(t, source{})
	dir := t.TempDir()
	sock := filepath.Join(dir, "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for kind, name := range map[corev1.HostPathType]string{"": "plain/deep", corev1.HostPathDirectoryOrCreate: "d", corev1.HostPathFileOrCreate: "f", corev1.HostPathSocket: "s", corev1.HostPathCharDev: "../../../../../../../dev/null"} {
		r := m.Prepare(t.Context(), pod(vol(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(dir, name), Type: &kind}})), env.Facts{})
		if len(r.Failures) > 0 {
			t.Errorf("%q: %v", kind, r.Failures)
		}
		if _, err := os.Stat(r.Volumes["v"].Path); err != nil {
			t.Error(err)
		}
	}
}

func TestEmptyDirAndTeardown(t *testing.T) {
	m, mt := manager(t, source{})
	p := pod(vol(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), corev1.Volume{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory", SizeLimit: ref(resource.MustParse("1Mi"))}}})
	for range 2 { // idempotent
		if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) > 0 {
			t.Fatal(r.Failures)
		}
	}
	if len(mt.at) != 1 {
		t.Fatal(mt.at)
	}
	dir := m.volumeDir(p, "empty-dir", "v")
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o777 {
		t.Fatal(info.Mode())
	}
	_ = os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600)
	outside := t.TempDir()
	_ = os.WriteFile(filepath.Join(outside, "keep"), nil, 0o600)
	_ = os.Symlink(outside, filepath.Join(dir, "link"))
	mt.stuck = true
	if err := m.Teardown("uid-1"); err == nil {
		t.Fatal("files under a mount would have been removed")
	}
	if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	mt.stuck = false
	if err := m.Teardown("uid-1"); err != nil {
		t.Fatal(err)
	}
	if uids, _ := m.Pods(); len(uids) != 0 || len(mt.at) != 0 {
		t.Fatal(uids, mt.at)
	}
	if _, err := os.Stat(filepath.Join(outside, "keep")); err != nil {
		t.Fatal("followed a symlink out of the volume")
	}
	if m.Teardown("../x") == nil || m.Teardown("") == nil {
		t.Fatal("bad uid taken")
	}
}

func TestSubPath(t *testing.T) {
	m, mt := manager(t, source{})
	p := pod(vol(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	v := m.Prepare(t.Context(), p, env.Facts{}).Volumes["v"]
	path, err := m.SubPath("uid-1", "v", v, "a/b", "c", 0)
	if err != nil || mt.binds[path] != filepath.Join(v.Path, "a/b") {
		t.Fatal(path, err, mt.binds)
	}
	if info, err := os.Stat(filepath.Join(v.Path, "a/b")); err != nil || !info.IsDir() {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(v.Path, "f"), nil, 0o600)
	for range 2 {
		path, err = m.SubPath("uid-1", "v", v, "f", "c", 1)
		if info, _ := os.Stat(path); err != nil || info.IsDir() || len(mt.at) != 2 {
			t.Fatal(err, mt.at)
		}
	}
	_ = os.Symlink("/etc", filepath.Join(v.Path, "evil"))
	_ = os.Symlink("a", filepath.Join(v.Path, "good"))
	for sub, want := range map[string]string{"evil/passwd": `failed to`, "evil": "failed to", "../x": "must not contain '..'", "/etc": "must not be an absolute path", "good/b": ""} {
		_, err := m.SubPath("uid-1", "v", v, sub, "c", 2)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", sub, err)
		}
	}
	if err := m.Teardown("uid-1"); err != nil {
		t.Fatal(err)
	}
}

type tokens struct {
	n   int
	err error
}

func (s *tokens) Token(_ context.Context, r TokenRequest) (string, time.Time, error) {
	s.n++
	return fmt.Sprintf("token-%d", s.n), time.Now().Add(time.Duration(r.ExpirationSeconds) * time.Second), s.err
}

func TestProjectedTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &tokens{}
		m, _ := manager(t, source{maps: map[string]*corev1.ConfigMap{"kube-root-ca.crt": {Data: map[string]string{"ca.crt": "CA"}}}})
		m.cfg.Tokens = src
		p := pod(vol(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ref(int64(1000))}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		}}}))
		r := m.Prepare(t.Context(), p, env.Facts{})
		if len(r.Failures) > 0 || time.Until(r.Renew) != 800*time.Second {
			t.Fatal(r.Failures, time.Until(r.Renew))
		}
		dir := r.Volumes["v"].Path
		if got := tree(t, dir); got != "ca.crt 644 CA, namespace 644 ns, token 644 token-1" {
			t.Fatal(got)
		}
		time.Sleep(time.Until(r.Renew))
		src.err = errors.New("master away")
		r = m.Prepare(t.Context(), p, env.Facts{})
		if len(r.Failures) > 0 || r.Changed || time.Until(r.Renew) != tokenRetry {
			t.Fatal("a good token must stay", r.Failures)
		}
		src.err = nil
		time.Sleep(tokenRetry)
		if r = m.Prepare(t.Context(), p, env.Facts{}); !r.Changed || !strings.Contains(tree(t, dir), "token-3") {
			t.Fatal(tree(t, dir))
		}
	})
}

func TestParseMountinfo(t *testing.T) {
	data := []byte("1 2 0:1 / / rw - ext4 /dev/x rw\n3 1 0:2 / /d/pods/u/volumes/a\\040b rw - tmpfs tmpfs rw\n4 3 0:2 / /d/pods/u/volumes/a\\040b/c rw - tmpfs tmpfs rw\n5 1 0:2 / /d/pods/u2 rw - tmpfs tmpfs rw\nbroken\n")
	if got := fmt.Sprintf("%q", parseMountinfo(data, "/d/pods/u")); got != `["/d/pods/u/volumes/a b/c" "/d/pods/u/volumes/a b"]` {
		t.Error(got)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte("3 1 0:2 / /d/a\\040b rw - tmpfs tmpfs rw\n"))
	f.Fuzz(func(t *testing.T, data []byte) { parseMountinfo(data, "/d") })
}

func TestWhoOwnsAToken(t *testing.T) {
	one, two := ref(int64(1000)), ref(int64(2000))
	user := func(u *int64) *corev1.SecurityContext { return &corev1.SecurityContext{RunAsUser: u} }
	for name, test := range map[string]struct {
		pod        *int64
		containers []*corev1.SecurityContext
		want       *int64
	}{
		"nothing said":              {nil, []*corev1.SecurityContext{nil, nil}, nil},
		"the pod's":                 {one, []*corev1.SecurityContext{nil, nil}, one},
		"all the same":              {nil, []*corev1.SecurityContext{user(two), user(two)}, two},
		"one differs":               {one, []*corev1.SecurityContext{nil, user(two)}, nil},
		"one says nothing":          {nil, []*corev1.SecurityContext{user(one), nil}, nil},
		"a container overrules all": {one, []*corev1.SecurityContext{user(two)}, two},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: test.pod}}}
		for _, sc := range test.containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{SecurityContext: sc})
		}
		if got := onlyUser(p); (got == nil) != (test.want == nil) || got != nil && *got != *test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// An agent that is started anew takes a token that is in the volume for what it is.
func TestTokenIsRecalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &tokens{err: errors.New("master away")}
		m, _ := manager(t, source{})
		m.cfg.Tokens = src
		p := pod(vol(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ref(int64(1000))}},
		}}}))
		if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) != 1 {
			t.Fatal("a token from nowhere")
		}
		now := time.Now().Unix()
		claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, now, now+1000))
		dir := m.volumeDir(p, "projected", "v")
		if err := makeDir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := writeAtomic(dir, payload{"token": {data: []byte("h." + claims + ".s"), mode: 0o644}}, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) > 0 || r.Changed || time.Until(r.Renew) != 790*time.Second || src.n != 1 {
			t.Error(r.Failures, r.Changed, time.Until(r.Renew), src.n)
		}
		time.Sleep(time.Hour)
		if r := m.Prepare(t.Context(), p, env.Facts{}); len(r.Failures) != 1 {
			t.Error("a token that has expired was kept")
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add("h.e30.s")
	f.Add("a.b")
	f.Fuzz(func(t *testing.T, value string) {
		if tok, ok := parseToken(value); ok && !tok.expires.After(tok.renew) {
			t.Errorf("%q is to be renewed after its end", value)
		}
	})
}

func TestRecursiveReadOnlyIsAskedFor(t *testing.T) {
	mode := func(m corev1.RecursiveReadOnlyMode) *corev1.RecursiveReadOnlyMode { return &m }
	for name, test := range map[string]struct {
		mount corev1.VolumeMount
		want  runtime.RecursiveReadOnly
		err   string
	}{
		"nothing said":  {corev1.VolumeMount{ReadOnly: true}, runtime.RecursiveNever, ""},
		"disabled":      {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: mode(corev1.RecursiveReadOnlyDisabled)}, runtime.RecursiveNever, ""},
		"if possible":   {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: mode(corev1.RecursiveReadOnlyIfPossible)}, runtime.RecursiveIfPossible, ""},
		"enabled":       {corev1.VolumeMount{ReadOnly: true, RecursiveReadOnly: mode(corev1.RecursiveReadOnlyEnabled)}, runtime.RecursiveAlways, ""},
		"not read-only": {corev1.VolumeMount{RecursiveReadOnly: mode(corev1.RecursiveReadOnlyEnabled)}, 0, "it is not read-only"},
		"with propagation": {corev1.VolumeMount{ReadOnly: true, MountPropagation: ref(corev1.MountPropagationHostToContainer), RecursiveReadOnly: mode(corev1.RecursiveReadOnlyEnabled)},
			0, `not compatible with propagation "HostToContainer"`},
	} {
		var got runtime.Mount
		err := recursive(&got, &test.mount)
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) || err == nil && got.Below != test.want {
			t.Errorf("%s: %v, %v", name, got.Below, err)
		}
	}
}
