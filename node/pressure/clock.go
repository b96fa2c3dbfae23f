package pressure

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// clockTolerance: less than that is somebody keeping time.
	clockTolerance = time.Minute
	// ClockJumped is the type of the condition, and the reason of the event, that say that the machine's clock was set, or
	// stood still. Certificates, tokens and the times in statuses go by that clock; the agent's own waiting does not.
	ClockJumped corev1.NodeConditionType = "ClockJumped"
	// clockShown is how long the condition holds.
	clockShown = 10 * time.Minute
)

// Clock compares the wall clock with one that nobody sets. The zero value begins with the first look.
type Clock struct {
	wall time.Time
	mono time.Duration

	jump   string        // the last, in words
	jumped time.Duration // when, by the monotonic clock
}

// Look at both clocks; mono counts from any moment. It returns what to tell when the wall clock jumped since the last look.
func (c *Clock) Look(wall time.Time, mono time.Duration) (message string) {
	wall = wall.Round(0) // strips the monotonic reading, by which Sub would go
	if !c.wall.IsZero() {
		off := wall.Sub(c.wall) - (mono - c.mono)
		if off.Abs() > clockTolerance {
			direction := "forward"
			if off < 0 {
				direction = "back"
			}
			message = fmt.Sprintf("The machine's clock jumped %s by %s, to %s: it was set, or the machine slept", direction, off.Abs().Round(time.Second), wall.UTC().Format(time.RFC3339))
			c.jump, c.jumped = message, mono
		}
	}
	c.wall, c.mono = wall, mono
	return message
}

// Condition of the node. It is told also when all is well, or one that an agent told before it was restarted would stay.
func (c *Clock) Condition(now time.Time) corev1.NodeCondition {
	at := metav1.NewTime(now)
	n := corev1.NodeCondition{Type: ClockJumped, Status: corev1.ConditionFalse, Reason: "ClockSteady", Message: "the machine's clock goes evenly", LastHeartbeatTime: at, LastTransitionTime: at}
	if c.jump != "" && c.mono-c.jumped < clockShown {
		n.Status, n.Reason, n.Message = corev1.ConditionTrue, "WallClockJumped", c.jump
	}
	return n
}
