package deployment

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	intstr "k8s.io/apimachinery/pkg/util/intstr"
)

// event is told to the user once the plan is committed.
type event struct{ kind, reason, message string }

// world is a Deployment with its ReplicaSets, all copies that a plan changes.
type world struct {
	now time.Time
	d   *appsv1.Deployment
	// sets are the Deployment's, oldest first.
	sets []*appsv1.ReplicaSet
	// current is the one for the present template; nil when there is none (yet). It is in sets.
	current *appsv1.ReplicaSet
	// taken says that another ReplicaSet in the namespace has this name.
	taken func(name string) bool
	// running says that pods of the ReplicaSet still run, those that are ending included.
	running func(*appsv1.ReplicaSet) bool

	created *appsv1.ReplicaSet // also in sets
	remove  []*appsv1.ReplicaSet
	// released are ReplicaSets that the selector does not want any more.
	released []*appsv1.ReplicaSet
	events   []event
	// requeue is when to look again though nothing happens; 0 for never.
	requeue time.Duration
	// surge and unavailable are the bounds in pods.
	surge, unavailable int32
}

func newWorld(now time.Time, d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *world {
	w := &world{now: now, d: d, sets: sets}
	slices.SortStableFunc(w.sets, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		w.surge, w.unavailable = bounds(d)
	}
	for _, rs := range w.sets {
		if sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			w.current = rs
			break
		}
	}
	return w
}

// bounds resolves maxSurge (percents round up) and maxUnavailable (down; 1 when both would be 0, or nothing could move).
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	r := d.Spec.Strategy.RollingUpdate
	if r == nil {
		r = &appsv1.RollingUpdateDeployment{}
	}
	scaled := func(v *intstr.IntOrString, up bool) int32 {
		n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(replicas(d)), up)
		if err != nil {
			return 0 // validation refuses such at the door
		}
		return int32(n)
	}
	surge, unavailable = scaled(r.MaxSurge, true), scaled(r.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, replicas(d))
}

func replicas(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

func size(rs *appsv1.ReplicaSet) int32 {
	if rs == nil || rs.Spec.Replicas == nil {
		return 0
	}
	return *rs.Spec.Replicas
}

// available is how many available pods the ReplicaSet will keep: its status may be from before it was scaled down.
func available(rs *appsv1.ReplicaSet) int32 {
	if rs == nil {
		return 0
	}
	return min(rs.Status.AvailableReplicas, size(rs))
}

func total(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, rs := range sets {
		n += of(rs)
	}
	return n
}

// old are the ReplicaSets of other templates, oldest first.
func (w *world) old() (out []*appsv1.ReplicaSet) {
	for _, rs := range w.sets {
		if rs != w.current {
			out = append(out, rs)
		}
	}
	return out
}

func active(sets []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, rs := range sets {
		if size(rs) > 0 {
			out = append(out, rs)
		}
	}
	return out
}

func (w *world) tell(kind, reason, format string, args ...any) {
	w.events = append(w.events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// setSize scales a ReplicaSet and notes on it what it is a share of, for proportional scaling later.
func (w *world) setSize(rs *appsv1.ReplicaSet, n int32) (scaled bool) {
	noteShare(rs, replicas(w.d), replicas(w.d)+w.surge)
	was := size(rs)
	if was == n {
		return false
	}
	rs.Spec.Replicas = &n
	direction := "up"
	if n < was {
		direction = "down"
	}
	w.tell(corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, rs.Name, was, n)
	return true
}
