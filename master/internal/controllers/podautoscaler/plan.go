package podautoscaler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// scale of what an autoscaler scales.
type scale struct {
	// spec and status are the wanted and the present numbers of replicas.
	spec, status int32
	selector     string
}

// situation is all that a decision is made of.
type situation struct {
	now   time.Time
	hpa   *autoscalingv2.HorizontalPodAutoscaler
	scale scale
	// scaleErr says why there is no scale.
	scaleErr error
	// pods that the selector matches; selectorErr says why nobody can tell.
	pods        []*corev1.Pod
	selectorErr error
	// rivals are all autoscalers whose selectors match some of these pods, as namespace/name.
	rivals []string
	usage  func(*corev1.Pod) (Usage, bool)
	memory *memory
}

// event to be recorded.
type event struct{ kind, reason, message string }

// decision on one autoscaler.
type decision struct {
	situation
	status autoscalingv2.HorizontalPodAutoscalerStatus
	// replicas to scale to, when rescale is set; reason says why.
	replicas int32
	rescale  bool
	reason   string
	events   []event
	// modest are the containers that ask for nothing.
	modest []string
}

// decide what to do. The status is that of the situation in which nothing is scaled; see scaled.
func decide(s situation) *decision {
	d := &decision{situation: s, status: *s.hpa.Status.DeepCopy()}
	if s.scaleErr != nil {
		d.event(corev1.EventTypeWarning, "FailedGetScale", s.scaleErr.Error())
		d.condition(autoscalingv2.AbleToScale, false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: "+s.scaleErr.Error())
		return d
	}
	d.condition(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := s.scale.spec
	s.memory.begin(s.now, current)
	var metrics []autoscalingv2.MetricStatus
	switch {
	case current == 0:
		d.condition(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case current > s.hpa.Spec.MaxReplicas:
		d.reason, d.replicas = "Current number of replicas above Spec.MaxReplicas", s.hpa.Spec.MaxReplicas
	case current < d.minReplicas():
		d.reason, d.replicas = "Current number of replicas below Spec.MinReplicas", d.minReplicas()
	default:
		best, err := d.replicasForMetrics()
		metrics = best.statuses
		if err != nil && best.replicas < 0 {
			d.setStatus(d.status.DesiredReplicas, metrics)
			d.event(corev1.EventTypeWarning, "FailedComputeMetricsReplicas", err.Error())
			return d
		}
		d.replicas = max(best.replicas, 0)
		switch {
		case d.replicas > current:
			d.reason = best.name + " above target"
		case d.replicas < current:
			d.reason = "All metrics below target"
		}
		d.replicas = d.normalize(current, d.replicas)
	}
	if len(d.modest) > 0 && !s.memory.told {
		s.memory.told = true
		d.event(corev1.EventTypeNormal, "DefaultCPURequest", fmt.Sprintf("containers without a cpu request count as asking for %dm: %s", defaultCPURequest, strings.Join(d.modest, ", ")))
	}
	d.rescale = current != 0 && d.replicas != current
	d.setStatus(current, metrics)
	return d
}

// scaled notes that the target has been scaled as decided.
func (d *decision) scaled() {
	d.condition(autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", d.replicas))
	d.event(corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", d.replicas, d.reason))
	d.status.DesiredReplicas = d.replicas
	d.status.LastScaleTime = metaTime(d.now)
}

// refused notes why it has not.
func (d *decision) refused(err error) {
	d.event(corev1.EventTypeWarning, "FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", d.replicas, d.reason, err))
	d.condition(autoscalingv2.AbleToScale, false, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
	d.status.DesiredReplicas = d.hpa.Status.DesiredReplicas
}

func (d *decision) minReplicas() int32 {
	if n := d.hpa.Spec.MinReplicas; n != nil {
		return *n
	}
	return 1
}

// proposal of all metrics together: the highest of theirs, -1 when there is none.
type proposal struct {
	replicas int32
	name     string
	statuses []autoscalingv2.MetricStatus
}

// replicasForMetrics may give a proposal and an error: some metrics work, and what they say is done.
func (d *decision) replicasForMetrics() (proposal, error) {
	specs := d.hpa.Spec.Metrics
	if err := d.checkSelector(); err != nil {
		return proposal{replicas: -1}, err
	}
	best := proposal{statuses: make([]autoscalingv2.MetricStatus, len(specs))}
	var first *metricError
	invalid := 0
	for i := range specs {
		m, err := d.replicasForMetric(&specs[i])
		if err != nil {
			d.event(corev1.EventTypeWarning, err.reason, err.cause.Error())
			if first == nil {
				first = err
			}
			invalid++
			continue
		}
		best.statuses[i] = m.status
		if best.replicas == 0 || m.replicas > best.replicas {
			best.replicas, best.name = m.replicas, m.name
		}
	}
	var err error
	if first != nil {
		err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", invalid, len(specs), first)
	}
	// Without some of the metrics nothing is scaled down: they might say that it must not be.
	if invalid >= len(specs) || invalid > 0 && best.replicas < d.scale.spec {
		if first != nil {
			d.condition(autoscalingv2.ScalingActive, false, first.reason, "the HPA was unable to compute the replica count: "+first.cause.Error())
		}
		best.replicas = -1
		if err == nil {
			err = errors.New("no metrics are configured")
		}
		return best, err
	}
	d.condition(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+best.name)
	return best, err
}

// checkSelector: it must be there, be one, and be only this autoscaler's.
func (d *decision) checkSelector() error {
	refuse := func(reason, message string) error {
		d.event(corev1.EventTypeWarning, reason, message)
		d.condition(autoscalingv2.ScalingActive, false, reason, message)
		return errors.New(message)
	}
	switch {
	case d.scale.selector == "":
		d.event(corev1.EventTypeWarning, "SelectorRequired", "selector is required")
		d.condition(autoscalingv2.ScalingActive, false, "InvalidSelector", "the HPA target's scale is missing a selector")
		return errors.New("selector is required")
	case d.selectorErr != nil:
		return refuse("InvalidSelector", fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", d.selectorErr))
	case len(d.rivals) > 1:
		return refuse("AmbiguousSelector", fmt.Sprintf("pods by selector %s are controlled by multiple HPAs: [%s]", d.scale.selector, strings.Join(d.rivals, " ")))
	}
	return nil
}

// assumed a request for a container that has none.
func (d *decision) assumed(container string) {
	if !slices.Contains(d.modest, container) {
		d.modest = append(d.modest, container)
	}
}

func (d *decision) event(kind, reason, message string) {
	d.events = append(d.events, event{kind, reason, message})
}

func (d *decision) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType, holds bool, reason, message string) {
	status := corev1.ConditionFalse
	if holds {
		status = corev1.ConditionTrue
	}
	i := slices.IndexFunc(d.status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == t })
	if i < 0 {
		i = len(d.status.Conditions)
		d.status.Conditions = append(d.status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{Type: t})
	}
	c := &d.status.Conditions[i]
	if c.Status != status {
		c.LastTransitionTime = *metaTime(d.now)
	}
	c.Status, c.Reason, c.Message = status, reason, message
}

// setStatus makes it anew. Kubernetes sets no observedGeneration either: nothing counts generations of autoscalers.
func (d *decision) setStatus(desired int32, metrics []autoscalingv2.MetricStatus) {
	d.status = autoscalingv2.HorizontalPodAutoscalerStatus{
		CurrentReplicas: d.scale.spec, DesiredReplicas: desired, CurrentMetrics: metrics,
		LastScaleTime: d.status.LastScaleTime, Conditions: d.status.Conditions,
	}
}
