package probe

import corev1 "k8s.io/api/core/v1"

// Kind of a probe.
type Kind int

// The kinds of probes.
const (
	Startup Kind = iota
	Liveness
	Readiness
)

// String as it begins the text of an event.
func (k Kind) String() string {
	return [...]string{"Startup", "Liveness", "Readiness"}[k]
}

// Spec of this kind in a container; nil when it has none.
func (k Kind) Spec(c *corev1.Container) *corev1.Probe {
	switch k {
	case Startup:
		return c.StartupProbe
	case Liveness:
		return c.LivenessProbe
	default:
		return c.ReadinessProbe
	}
}

// Counter adds answers up: only as many equal ones in a row as the threshold says change the result.
type Counter struct {
	success, failure int32
	last             bool
	run              int32
}

// NewCounter takes the thresholds of a probe; the API has defaulted them.
func NewCounter(p *corev1.Probe) *Counter {
	return &Counter{success: max(p.SuccessThreshold, 1), failure: max(p.FailureThreshold, 1)}
}

// Add counts one answer and tells whether the result is now decided to be that answer.
func (c *Counter) Add(ok bool) (decided bool) {
	if c.run > 0 && c.last == ok {
		c.run++
	} else {
		c.last, c.run = ok, 1
	}
	if ok {
		return c.run >= c.success
	}
	return c.run >= c.failure
}
