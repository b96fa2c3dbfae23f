package podautoscaler

import (
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What clients of the two APIs of metrics that nobody serves here say.
const noCustomMetrics = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"

func noExternalMetrics(metric string) string {
	return fmt.Sprintf("unable to fetch metrics from external metrics API: the server could not find the requested resource (get %s.external.metrics.k8s.io)", metric)
}

// metricError says why one metric could not be had.
type metricError struct {
	// reason and cause are what the condition and the event say; what is the metric, for the event about all of them.
	reason, what string
	cause        error
}

func (e *metricError) Error() string {
	if e.what == "" {
		return e.cause.Error()
	}
	return fmt.Sprintf("failed to get %s: %v", e.what, e.cause)
}

// measured is what one metric says.
type measured struct {
	replicas int32
	name     string
	status   autoscalingv2.MetricStatus
}

func (d *decision) replicasForMetric(spec *autoscalingv2.MetricSpec) (measured, *metricError) {
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		m, err := d.replicasForResource(spec.Resource.Name, "", &spec.Resource.Target)
		if err != nil {
			return m, &metricError{"FailedGetResourceMetric", string(spec.Resource.Name) + " resource metric value", err}
		}
		m.status = autoscalingv2.MetricStatus{Type: spec.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: spec.Resource.Name, Current: m.status.Resource.Current}}
		return m, nil
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		c := spec.ContainerResource
		m, err := d.replicasForResource(c.Name, c.Container, &c.Target)
		if err != nil {
			return m, &metricError{"FailedGetContainerResourceMetric", c.Container + " container metric value", err}
		}
		m.status = autoscalingv2.MetricStatus{Type: spec.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{
			Name: c.Name, Container: c.Container, Current: m.status.Resource.Current,
		}}
		return m, nil
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		_, err := metav1.LabelSelectorAsSelector(spec.Pods.Metric.Selector)
		if err == nil {
			err = fmt.Errorf("unable to get metric %s: %s", spec.Pods.Metric.Name, noCustomMetrics)
		}
		return measured{}, &metricError{"FailedGetPodsMetric", "pods metric value", err}
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		return measured{}, d.objectMetric(spec.Object)
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		return measured{}, d.externalMetric(spec.External)
	}
	return measured{}, &metricError{"InvalidMetricSourceType", "", fmt.Errorf("unknown metric source type %q", spec.Type)}
}

func (d *decision) objectMetric(o *autoscalingv2.ObjectMetricSource) *metricError {
	_, err := metav1.LabelSelectorAsSelector(o.Metric.Selector)
	if err == nil {
		err = fmt.Errorf("unable to get metric %s: %s on %s %s/%s", o.Metric.Name, noCustomMetrics, o.DescribedObject.Kind, d.hpa.Namespace, o.DescribedObject.Name)
	}
	return &metricError{"FailedGetObjectMetric", "object metric value", err}
}

func (d *decision) externalMetric(e *autoscalingv2.ExternalMetricSource) *metricError {
	_, err := metav1.LabelSelectorAsSelector(e.Metric.Selector)
	if err == nil {
		err = fmt.Errorf("unable to get external metric %s/%s/%+v: %s", d.hpa.Namespace, e.Metric.Name, e.Metric.Selector, noExternalMetrics(e.Metric.Name))
	}
	return &metricError{"FailedGetExternalMetric", e.Metric.Name + " external metric value", err}
}

// replicasForResource of all containers, or of one. What the status says is in status.Resource.
func (d *decision) replicasForResource(resource corev1.ResourceName, container string, target *autoscalingv2.MetricTarget) (measured, error) {
	c := d.calculator(resource, container)
	m := measured{status: autoscalingv2.MetricStatus{Resource: &autoscalingv2.ResourceMetricStatus{}}}
	now := &m.status.Resource.Current
	if target.AverageValue != nil {
		r, err := c.raw(target.AverageValue.MilliValue())
		if err != nil {
			return m, fmt.Errorf("failed to get %s usage: %w", resource, err)
		}
		m.replicas, m.name, now.AverageValue = r.replicas, string(resource)+" resource", quantity(resource, r.average)
		return m, nil
	}
	if target.AverageUtilization == nil {
		return m, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	r, err := c.utilization(*target.AverageUtilization)
	if err != nil {
		return m, fmt.Errorf("failed to get %s utilization: %w", resource, err)
	}
	m.replicas, m.name = r.replicas, string(resource)+" resource utilization (percentage of request)"
	if container != "" {
		m.name = string(resource) + " container resource utilization (percentage of request)"
	}
	now.AverageValue, now.AverageUtilization = quantity(resource, r.average), &r.percent
	return m, nil
}

// quantity of thousandths, written as people write that resource.
func quantity(resource corev1.ResourceName, milli int64) *apiresource.Quantity {
	if resource == corev1.ResourceMemory {
		return apiresource.NewMilliQuantity(milli, apiresource.BinarySI)
	}
	return apiresource.NewMilliQuantity(milli, apiresource.DecimalSI)
}
