package volume

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/pods/env"
)

// bound gives a claim "data" that is bound to a volume "pv" of the source.
func bound(s corev1.PersistentVolumeSource) source {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "c1"},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec:       corev1.PersistentVolumeSpec{PersistentVolumeSource: s, ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "data", UID: "c1"}},
	}
	return source{claims: map[string]*corev1.PersistentVolumeClaim{"data": claim}, volumes: map[string]*corev1.PersistentVolume{"pv": volume}}
}

func dataPod() *corev1.Pod {
	return pod(vol(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}))
}

func TestClaimedVolume(t *testing.T) {
	host := corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp"}}
	for name, tt := range map[string]struct {
		source corev1.PersistentVolumeSource
		change func(source)
		err    string
	}{
		"hostPath":           {source: host},
		"no claim":           {source: host, change: func(s source) { delete(s.claims, "data") }, err: `persistentvolumeclaim "data" not found`},
		"not bound":          {source: host, change: func(s source) { s.claims["data"].Status.Phase = corev1.ClaimPending }, err: "is not bound to a volume yet"},
		"no volume":          {source: host, change: func(s source) { delete(s.volumes, "pv") }, err: `persistentvolume "pv", to which claim "data" is bound, is not there`},
		"another's volume":   {source: host, change: func(s source) { s.volumes["pv"].Spec.ClaimRef.UID = "c2" }, err: "is bound to another claim"},
		"nfs":                {source: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}}, err: "only hostPath and local volumes"},
		"a disk not mounted": {source: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/nonexistent/disk"}}, err: `path "/nonexistent/disk" does not exist`},
	} {
		t.Run(name, func(t *testing.T) {
			src := bound(tt.source)
			if tt.change != nil {
				tt.change(src)
			}
			m, _ := manager(t, src)
			r := m.Prepare(context.Background(), dataPod(), env.Facts{})
			switch {
			case tt.err == "" && (len(r.Failures) > 0 || r.Volumes["v"].Path != "/tmp"):
				t.Error(r)
			case tt.err != "" && (len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Err.Error(), tt.err)):
				t.Error(r.Failures)
			}
		})
	}
}

// A volume that the cluster makes is there for the first pod, keeps what a pod wrote for the next one, and goes when it is told to.
func TestLocalVolume(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "volumes", "pvc-1_ns_data")
	src := bound(corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: at}})
	m := New(Config{Dir: filepath.Join(dir, "pods"), Source: src, Mounter: &mounts{}, LocalDir: filepath.Join(dir, "volumes")})
	p := dataPod()
	if r := m.Prepare(context.Background(), p, env.Facts{}); len(r.Failures) != 1 {
		t.Fatal("a directory that nobody provisioned was made:", r)
	}
	src.volumes["pv"].Annotations = map[string]string{provisionedBy: localProvisioner}
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ref(int64(os.Getgid()))}
	r := m.Prepare(context.Background(), p, env.Facts{})
	if len(r.Failures) > 0 || r.Volumes["v"].Path != at || r.Volumes["v"].ReadOnly {
		t.Fatal(r)
	}
	info, err := os.Stat(at)
	if err != nil || info.Mode().Perm() != 0o777 || info.Mode()&fs.ModeSetgid == 0 {
		t.Error(info.Mode(), err)
	}
	file := filepath.Join(at, "row")
	if err := os.WriteFile(file, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown("uid-1"); err != nil {
		t.Fatal(err)
	}
	p.UID = "uid-2"
	if r := m.Prepare(context.Background(), p, env.Facts{}); len(r.Failures) > 0 {
		t.Fatal(r.Failures)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o660 {
		t.Error("the next pod's group cannot write what is there:", info, err)
	}
	for _, name := range []string{"", ".", "..", "../pods", "a/b"} {
		if err := m.RemoveLocal(name); err == nil {
			t.Errorf("%q was removed", name)
		}
	}
	for range 2 {
		if err := m.RemoveLocal("pvc-1_ns_data"); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(at); err == nil {
		t.Error("the data stayed")
	}
}
