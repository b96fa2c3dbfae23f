package nodelife

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFind is the table of the package's documentation.
func TestFind(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const limit = 40 * time.Second
	long, short := now.Add(-limit), now.Add(-10*time.Second)
	for name, test := range map[string]struct {
		w    witness
		want finding
	}{
		"session alive, gossip silent":         {witness{session: true}, finding{}},
		"session alive, gossip alive":          {witness{session: true, known: true, alive: true}, finding{}},
		"session alive, gossip dead":           {witness{session: true, known: true}, finding{lost: true}},
		"session gone, gossip dead":            {witness{known: true, goneSince: now}, finding{lost: true, moved: true}},
		"session gone lately, gossip alive":    {witness{known: true, alive: true, goneSince: short}, finding{undecided: true, again: 30 * time.Second}},
		"session gone for long, gossip alive":  {witness{known: true, alive: true, goneSince: long}, finding{lost: true}},
		"session gone lately, gossip silent":   {witness{goneSince: short}, finding{undecided: true, again: 30 * time.Second}},
		"session gone for long, gossip silent": {witness{goneSince: long}, finding{lost: true, moved: true}},
	} {
		if got := find(now, test.w, limit); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// Pods' tolerationSeconds count from when the node was last heard of, not from when that was noticed.
func TestUnreachableSince(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	ago := func(s int) time.Time { return now.Add(time.Duration(-s) * time.Second) }
	for name, test := range map[string]struct {
		unknown, heard, want time.Time
	}{
		"found dead, then its session falls silent":    {ago(6), ago(8), ago(8)},
		"in doubt for long, but its session was alive": {ago(600), ago(7), ago(7)},
		"no session was there to fall silent":          {ago(3), time.Time{}, ago(3)},
		"clocks were set back":                         {ago(0), now.Add(time.Hour), now},
	} {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(test.unknown)},
		}}}
		list, _ := taints(now, n, true, test.heard)
		for _, taint := range list {
			if taint.Effect == corev1.TaintEffectNoExecute && !taint.TimeAdded.Time.Equal(test.want) {
				t.Errorf("%s: since %s, want %s", name, taint.TimeAdded, test.want)
			}
		}
	}
}

// What a node says of itself over a living session is not forgotten because gossip calls it dead for a moment.
func TestPressureOutlivesDoubt(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue, Reason: "KubeletHasDiskPressure"},
	}}}
	want := func(ready, disk corev1.ConditionStatus) {
		t.Helper()
		if r, d := nodeCondition(n, corev1.NodeReady).Status, nodeCondition(n, corev1.NodeDiskPressure).Status; r != ready || d != disk {
			t.Errorf("Ready %s, DiskPressure %s; want %s, %s", r, d, ready, disk)
		}
	}
	setConditions(now, n, true, true, nil)
	want(corev1.ConditionUnknown, corev1.ConditionTrue)
	setConditions(now, n, false, true, nil)
	want(corev1.ConditionTrue, corev1.ConditionTrue)
	setConditions(now, n, true, false, nil)
	want(corev1.ConditionUnknown, corev1.ConditionUnknown)
}
