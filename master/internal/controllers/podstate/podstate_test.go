package podstate

import (
	"math"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	now  = time.Unix(1_700_000_000, 0)
	kind = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}
)

func readySince(ago time.Duration) *corev1.Pod {
	return &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}}}
}

func TestAvailableIn(t *testing.T) {
	for _, test := range []struct {
		pod      *corev1.Pod
		minReady time.Duration
		want     time.Duration
	}{
		{&corev1.Pod{}, 0, -1},
		{readySince(0), 0, 0},
		{readySince(3 * time.Second), 10 * time.Second, 7 * time.Second},
		{readySince(10 * time.Second), 10 * time.Second, 0},
		{readySince(0), Seconds(math.MaxInt32), Seconds(math.MaxInt32)},
	} {
		if got := AvailableIn(test.pod, test.minReady, now); got != test.want {
			t.Errorf("minReady %v: available in %v, want %v", test.minReady, got, test.want)
		}
	}
}

func TestClaimOf(t *testing.T) {
	mine := metav1.OwnerReference{UID: "me", Controller: new(true)}
	other := metav1.OwnerReference{UID: "other", Controller: new(true)}
	match := map[string]string{"app": "web"}
	gone := &metav1.Time{Time: now}
	for name, test := range map[string]struct {
		owner, obj metav1.ObjectMeta
		want       Claim
	}{
		"kept":                       {metav1.ObjectMeta{UID: "me"}, metav1.ObjectMeta{Labels: match, OwnerReferences: []metav1.OwnerReference{mine}}, Keep},
		"another's":                  {metav1.ObjectMeta{UID: "me"}, metav1.ObjectMeta{Labels: match, OwnerReferences: []metav1.OwnerReference{other}}, Ignore},
		"adopted":                    {metav1.ObjectMeta{UID: "me"}, metav1.ObjectMeta{Labels: match}, Adopt},
		"not wanted":                 {metav1.ObjectMeta{UID: "me"}, metav1.ObjectMeta{}, Ignore},
		"ending, not adopted":        {metav1.ObjectMeta{UID: "me"}, metav1.ObjectMeta{Labels: match, DeletionTimestamp: gone}, Ignore},
		"released":                   {metav1.ObjectMeta{UID: "me"}, metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{mine}}, Release},
		"ending owner takes nothing": {metav1.ObjectMeta{UID: "me", DeletionTimestamp: gone}, metav1.ObjectMeta{Labels: match}, Ignore},
		"ending owner gives nothing": {metav1.ObjectMeta{UID: "me", DeletionTimestamp: gone}, metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{mine}}, Ignore},
	} {
		if got := ClaimOf(&test.owner, &test.obj, labels.SelectorFromSet(match)); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestFromTemplate(t *testing.T) {
	owner := &metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "me"}
	template := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Finalizers: []string{"example.com/f"}}}
	p := FromTemplate(template, owner, kind)
	if p.GenerateName != "web-" || p.Namespace != "default" || p.Labels["a"] != "b" || len(p.Finalizers) != 1 {
		t.Errorf("%+v", p.ObjectMeta)
	}
	if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != "me" || ref.Kind != "ReplicaSet" || !*ref.BlockOwnerDeletion {
		t.Errorf("%+v", ref)
	}
	p.Labels["a"] = "changed"
	if template.Labels["a"] != "b" {
		t.Error("the template is shared with its pods")
	}
	owner.Name = strings.Repeat("x", 253)
	if p := FromTemplate(template, owner, kind); p.GenerateName != owner.Name {
		t.Errorf("prefix %q", p.GenerateName)
	}
}
