package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	keep = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	drop = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
)

func withClaims(scaled, deleted appsv1.PersistentVolumeClaimRetentionPolicyType) func(*appsv1.StatefulSet) {
	return func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
			ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"tier": "disk"}},
			Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
		}}
		s.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "scratch"}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenScaled: scaled, WhenDeleted: deleted}
	}
}

// owners of a claim, as in "StatefulSet/db".
func owners(e *ct.Env, claim string) string {
	var out []string
	for _, ref := range ct.Get[*corev1.PersistentVolumeClaim](e, "default", claim).OwnerReferences {
		out = append(out, ref.Kind+"/"+ref.Name)
	}
	return strings.Join(out, " ")
}

// dropClaim deletes a claim, and what protects it while a pod uses it.
func dropClaim(e *ct.Env, name string) {
	ct.Delete[*corev1.PersistentVolumeClaim](e, "default", name, registry.DeleteOptions{})
	if claim, err := ct.Find[*corev1.PersistentVolumeClaim](e, "default", name); err == nil && claim.DeletionTimestamp != nil {
		ct.Change(e, "default", name, func(c *corev1.PersistentVolumeClaim) { c.Finalizers = nil })
	}
}

func TestClaimsOfEachOrdinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(1, withClaims(keep, keep)))
		settle()
		claim := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data-db-0")
		if claim.Labels["app"] != "db" || claim.Labels["tier"] != "disk" || len(claim.Spec.AccessModes) != 1 || len(claim.OwnerReferences) != 0 {
			t.Errorf("claim %+v", claim)
		}
		volumes := ct.Get[*corev1.Pod](e, "default", "db-0").Spec.Volumes
		if volumes[0].Name != "data" || volumes[0].PersistentVolumeClaim.ClaimName != "data-db-0" || volumes[1].Name != "scratch" {
			t.Errorf("volumes %+v", volumes)
		}
		if got := ct.Events(e, "db"); !slices.Contains(got, "SuccessfulCreate: Create Claim data-db-0 Pod db-0 in StatefulSet db success") {
			t.Errorf("events %q", got)
		}
		// It is made again for a pod that waits for it, and outlives the pod.
		dropClaim(e, "data-db-0")
		synctest.Wait()
		uid := ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data-db-0").UID
		if uid == claim.UID {
			t.Error("the claim was not deleted")
		}
		scale(e, 0)
		settle()
		scale(e, 1)
		settle()
		if ct.Get[*corev1.PersistentVolumeClaim](e, "default", "data-db-0").UID != uid || state(e) != "db-0-" {
			t.Error("the claim was not used again")
		}
	})
}

func TestRetentionPolicies(t *testing.T) {
	for _, test := range []struct {
		scaled, deleted    appsv1.PersistentVolumeClaimRetentionPolicyType
		within, scaledDown string
	}{
		{keep, keep, "", ""},
		{keep, drop, "StatefulSet/db", "StatefulSet/db"},
		{drop, keep, "", "Pod/db-1"},
		{drop, drop, "StatefulSet/db", "Pod/db-1"},
	} {
		t.Run(fmt.Sprintf("scaled %s, deleted %s", test.scaled, test.deleted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := start(t)
				ct.Create(e, manifest(2, parallel, withClaims(test.scaled, test.deleted)))
				settle()
				serve(e, "db-0")
				serve(e, "db-1")
				if got := owners(e, "data-db-1"); got != test.within {
					t.Errorf("owners %q, want %q", got, test.within)
				}
				scale(e, 1)
				settle()
				if got := owners(e, "data-db-1"); got != test.scaledDown {
					t.Errorf("owners after scaling down %q, want %q", got, test.scaledDown)
				}
				if got := owners(e, "data-db-0"); got != test.within {
					t.Errorf("owners of the other %q, want %q", got, test.within)
				}
				// Wanted again before it is gone: its claim goes with it, so the next pod waits for a new one.
				scale(e, 2)
				settle()
				finish(e, "db-1")
				if test.scaled == drop && state(e) != "db-0*" {
					t.Errorf("%s: db-1 was made while its claim is to be deleted", state(e))
				}
				if test.scaled == keep && state(e) != "db-0* db-1-" {
					t.Errorf("pods %s", state(e))
				}
				dropClaim(e, "data-db-1") // the garbage collector
				expect(e, "db-0* db-1-")
				if got := owners(e, "data-db-1"); got != test.within {
					t.Errorf("owners of the new claim %q, want %q", got, test.within)
				}
				// A policy that changes is followed.
				ct.Change(e, "default", "db", func(s *appsv1.StatefulSet) {
					s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted = drop
				})
				settle()
				if got := owners(e, "data-db-0"); got != "StatefulSet/db" {
					t.Errorf("owners after the change %q", got)
				}
			})
		})
	}
}

func TestClaimThatIsLeavingKeepsThePodWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data-db-0", Finalizers: []string{"example.com/wait"}}})
		ct.Delete[*corev1.PersistentVolumeClaim](e, "default", "data-db-0", registry.DeleteOptions{})
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Create(e, manifest(1, withClaims(keep, keep)))
		expect(e, "")
		got := ct.Events(e, "db")
		if len(got) != 1 || !strings.HasPrefix(got[0], "FailedCreate: Create Pod db-0 in StatefulSet db failed error: pvc data-db-0 is being deleted") {
			t.Errorf("events %q", got)
		}
		ct.Change(e, "default", "data-db-0", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = nil })
		synctest.Wait()
		expect(e, "db-0-")
	})
}

func TestClaimOfAnotherController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		yes := true
		ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data-db-0", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "boss", UID: "boss", Controller: &yes}}}})
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Create(e, manifest(1, withClaims(drop, drop)))
		expect(e, "db-0-")
		if got := owners(e, "data-db-0"); got != "ConfigMap/boss" {
			t.Errorf("owners %q", got)
		}
		if got := ct.Events(e, "db"); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "ConflictingController: ") }) {
			t.Errorf("events %q", got)
		}
	})
}

func TestAdoptedPodWithoutItsVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		ct.Create(e, ct.Pod("db-0", map[string]string{"app": "db"}))
		serve(e, "db-0")
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Create(e, manifest(2, withClaims(keep, keep)))
		expect(e, "db-0*") // and no db-1
		if got := ct.Events(e, "db"); len(got) != 1 || !strings.HasPrefix(got[0], "FailedUpdate: Update Pod db-0 in StatefulSet db failed error: its volumes") {
			t.Errorf("events %q", got)
		}
	})
}
