package scheduler

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const inUse = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"

// exclusives has two nodes and bound claims in two namespaces: "one" is ReadWriteOncePod in the first, "many" is not.
func exclusives() *Snapshot {
	s := snapshotOf(testNode("n1", "4", "4Gi"), testNode("n2", "4", "4Gi"))
	s.SetVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}})
	claim := func(namespace, name string, mode corev1.PersistentVolumeAccessMode) {
		s.SetClaim(&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{annBindCompleted: "yes"}},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "disk", AccessModes: []corev1.PersistentVolumeAccessMode{mode}},
		})
	}
	claim("default", "one", corev1.ReadWriteOncePod)
	claim("default", "many", corev1.ReadWriteOnce)
	claim("other", "one", corev1.ReadWriteOnce)
	return s
}

func uses(claims ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Volumes = claiming(claims...).Spec.Volumes }
}

func elsewhere(p *corev1.Pod) { p.Namespace = "other" }

func TestReadWriteOncePod(t *testing.T) {
	user := func(change ...func(*corev1.Pod)) *corev1.Pod {
		return testPod("1", "", append([]func(*corev1.Pod){named("user"), uses("many", "one")}, change...)...)
	}
	for name, test := range map[string]struct {
		running, nominated *corev1.Pod // on n1
		pod                *corev1.Pod
		fits               bool
		victims            string
		message            string
	}{
		"nobody":                 {pod: user(), fits: true},
		"another":                {running: user(), pod: user(), message: "0/2 nodes are available: 2 " + inUse + ". preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		"on another node":        {running: user(prio(2)), pod: user(only("n2")), message: "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 " + inUse + "."},
		"one that has ended":     {running: user(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }), pod: user(), fits: true},
		"one that is ending":     {running: user(leaving), pod: user(), message: inUse},
		"of other modes":         {running: user(), pod: testPod("1", "", uses("many")), fits: true},
		"of another namespace":   {running: user(), pod: testPod("1", "", uses("one"), elsewhere), fits: true},
		"who is less important":  {running: user(prio(1)), pod: user(prio(9)), victims: "user"},
		"who is on its way":      {nominated: user(), pod: user(), message: inUse},
		"who has to wait itself": {nominated: user(), pod: user(prio(9)), fits: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := exclusives()
			if test.running != nil {
				s.SetPod(bound(test.running, "n1"))
			}
			if test.nominated != nil {
				s.Nominate(test.nominated, "n1")
			}
			for range 2 { // looking changes nothing
				d := Schedule(s, test.pod)
				if (d.Node != "") != test.fits || names(d.Victims) != test.victims || !strings.Contains(d.Message, test.message) {
					t.Fatalf("on %q for %q: %s", d.Node, names(d.Victims), d.Message)
				}
			}
			if test.nominated != nil {
				return
			}
			others := slices.Values([]*corev1.Pod{bound(test.pod, "n1"), user(), testPod("", "")})
			if test.running != nil {
				others = slices.Values([]*corev1.Pod{bound(test.running, "n1")})
			}
			if got, want := s.InUse(test.pod, others), !test.fits; got != want {
				t.Errorf("in use: %v", got)
			}
		})
	}
}

// A claim that is made anew may have other modes.
func TestReadWriteOncePodIsForgotten(t *testing.T) {
	s := exclusives()
	s.SetPod(bound(testPod("1", "", uses("one")), "n1"))
	claim := s.volumes.claims["default/one"].DeepCopy()
	s.RemoveClaim("default", "one")
	if s.volumes.exclusive != 0 {
		t.Error("remembered:", s.volumes.exclusive)
	}
	claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	s.SetClaim(claim)
	if d := Schedule(s, testPod("1", "", uses("one"))); d.Node == "" {
		t.Error(d.Message)
	}
}

func TestWhatWakesForReadWriteOncePod(t *testing.T) {
	s := exclusives()
	user, bystander := bound(testPod("1", "", uses("one")), "n1"), bound(testPod("1", "", uses("many")), "n1")
	s.SetPod(user)
	s.SetPod(bystander)
	p := testPod("1", "", uses("one"))
	d := Schedule(s, p)
	w := NewWaiting(p, &d)
	ending := user.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{}
	for i, step := range []struct {
		news  News
		wakes bool
	}{
		{s.RemovePod(bystander.UID), false},
		{s.SetPod(ending), false},
		{s.RemovePod(user.UID), true},
		{s.Nominate(user, "n1"), false},
		{s.Denominate(user.UID), true},
		{s.SetClaim(s.volumes.claims["default/many"]), false},
		{s.SetClaim(s.volumes.claims["default/one"]), true},
	} {
		if got := s.Concerns(&step.news, w); got != step.wakes {
			t.Errorf("%d: %v", i, got)
		}
	}
}
