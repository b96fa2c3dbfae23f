package scheduler

import (
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func claiming(names ...string) *corev1.Pod {
	return testPod("1m", "", func(p *corev1.Pod) {
		p.Name = "web"
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	})
}

func TestClaims(t *testing.T) {
	late := storagev1.VolumeBindingWaitForFirstConsumer
	claim := func(name, volume, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume, StorageClassName: &class}}
		if volume != "" {
			c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
		}
		for _, f := range change {
			f(c)
		}
		return c
	}
	s := snapshotOf(testNode("n1", "1", "1Gi"), testNode("n2", "1", "1Gi"))
	s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, VolumeBindingMode: &late})
	s.SetVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "anywhere"}})
	s.SetVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{"n2"}}},
		}}}},
	}})
	for _, c := range []*corev1.PersistentVolumeClaim{
		claim("bound", "anywhere", ""), claim("local", "disk", ""), claim("dangling", "gone", ""), claim("unbound", "", "other"),
		claim("late", "", "late"),
		claim("reserved", "disk", "late", func(c *corev1.PersistentVolumeClaim) { c.Annotations = nil }),
		claim("lost", "gone", "", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }),
		claim("leaving", "anywhere", "", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }),
		claim("web-scratch", "anywhere", ""),
	} {
		s.SetClaim(c)
	}
	ephemeral := func(name string) *corev1.Pod {
		p := claiming()
		p.Spec.Volumes = []corev1.Volume{{Name: name, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		return p
	}
	devices := claiming()
	devices.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}}
	never := corev1.PreemptNever
	nowhere := " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string // a node, or else the message
	}{
		"missing":   {claiming("bound", "nosuch"), `0/2 nodes are available: persistentvolumeclaim "nosuch" not found.` + nowhere},
		"unbound":   {claiming("unbound"), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + nowhere},
		"reserved":  {claiming("reserved"), "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims." + nowhere},
		"late":      {claiming("late"), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + nowhere},
		"lost":      {claiming("lost"), `0/2 nodes are available: persistentvolumeclaim "lost" bound to non-existent persistentvolume "gone".` + nowhere},
		"leaving":   {claiming("leaving"), `0/2 nodes are available: persistentvolumeclaim "leaving" is being deleted.` + nowhere},
		"dangling":  {claiming("dangling"), "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)." + nowhere},
		"local":     {claiming("bound", "local"), "n2"},
		"both":      {claiming("local", "late"), "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 2 node(s) didn't find available persistent volumes to bind." + nowhere},
		"to come":   {ephemeral("other"), `0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "web-other".` + nowhere},
		"not ours":  {ephemeral("scratch"), "0/2 nodes are available: PVC default/web-scratch was not created for pod default/web (pod is not owner)." + nowhere},
		"devices":   {devices, "0/2 nodes are available: cannot allocate all claims." + nowhere},
		"no policy": {func() *corev1.Pod { p := claiming("nosuch"); p.Spec.PreemptionPolicy = &never; return p }(), `0/2 nodes are available: persistentvolumeclaim "nosuch" not found. preemption: not eligible due to preemptionPolicy=Never.`},
	} {
		d := Schedule(s, test.pod)
		if d.Node+d.Message != test.want {
			t.Errorf("%s: %s%s\nwant %s", name, d.Node, d.Message, test.want)
		}
	}
	s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, VolumeBindingMode: &late, Provisioner: "whalepod.io/local"})
	if d := Schedule(s, claiming("late", "local")); d.Node != "n2" {
		t.Error("a volume that can be made anywhere, beside one of n2:", d.Node+d.Message)
	}
	s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, VolumeBindingMode: &late, Provisioner: "kubernetes.io/no-provisioner"})
	s.SetVolume(&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "free"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
		Spec: corev1.PersistentVolumeSpec{StorageClassName: "late", NodeAffinity: s.volumes.volumes["disk"].Spec.NodeAffinity},
	})
	if d := Schedule(s, claiming("late")); d.Node != "n2" || len(s.Delayed(claiming("late"))) != 1 {
		t.Error("the only free volume is on n2:", d.Node+d.Message)
	}
	s.RemoveVolume("disk")
	if d := Schedule(s, claiming("local")); d.Node != "" {
		t.Error("a claim whose volume is gone holds nobody up")
	}
	s.RemoveClaim("default", "bound")
	if d := Schedule(s, claiming("bound")); d.Node != "" {
		t.Error("a claim that is gone holds nobody up")
	}
}

// Claims that wait for a node take a volume each: the smallest chooses first, and takes the smallest that will do.
func TestDelayedClaimsShareNoVolume(t *testing.T) {
	late, class := storagev1.VolumeBindingWaitForFirstConsumer, "late"
	size := func(s string) corev1.ResourceList { return corev1.ResourceList{"storage": resource.MustParse(s)} }
	s := snapshotOf(testNode("n1", "1", "1Gi"), testNode("n2", "1", "1Gi"))
	s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, VolumeBindingMode: &late, Provisioner: noProvisioner})
	claim := func(name, request string) {
		s.SetClaim(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: size(request)}}})
	}
	volume := func(name, capacity, node string) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
			Spec: corev1.PersistentVolumeSpec{StorageClassName: class, Capacity: size(capacity),
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: host, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
				}}}}},
		}
		s.SetVolume(v)
		return v
	}
	claim("data", "5Gi")
	claim("wal", "1Gi")
	check := func(what, want string, claims ...string) {
		t.Helper()
		p := claiming(claims...)
		got := ""
		if d := Schedule(s, p); d.Node != "" {
			chosen, ok := s.Choose(s.Delayed(p), maps.Values(s.volumes.volumes), s.Node(d.Node).obj)
			if !ok {
				t.Errorf("%s: fits, and nothing can be chosen", what)
			}
			got = d.Node
			for _, c := range chosen {
				got += " " + c.Claim.Name + "=" + c.Volume.Name
			}
		} else if !strings.HasPrefix(d.Message, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.") {
			t.Errorf("%s: %s", what, d.Message)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	volume("v9", "9Gi", "n1")
	volume("w1", "1Gi", "n2")
	check("one volume for two", "", "data", "wal")
	check("one claim twice", "n1 data=v9", "data", "data")
	volume("w2", "2Gi", "n2")
	check("one of two is too small", "", "data", "wal")
	volume("w5", "5Gi", "n2")
	check("enough", "n2 wal=w1 data=w5", "data", "wal")
	w5 := volume("w5", "5Gi", "n2")
	w5.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "wal"}
	volume("w8", "8Gi", "n2")
	check("promised", "n2 wal=w5 data=w8", "data", "wal")
	volume("v1", "1Gi", "n1")
	check("promised on the other node", "n2 wal=w5", "wal")
	check("each elsewhere", "n2 wal=w5 data=w8", "wal", "data")
	s.SetClass(&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, VolumeBindingMode: &late, Provisioner: "example.com/disk",
		AllowedTopologies: []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: host, Values: []string{"n1"}}}}}})
	s.RemoveVolume("w8")
	check("made on the other node", "n1", "data", "wal")
}
