package resource

import (
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

// fillers make values that have one form only: times in whole seconds, quantities in canonical form.
func fillers() []any {
	return []any{
		func(m *metav1.TypeMeta, _ randfill.Continue) { *m = metav1.TypeMeta{} },
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.NewTime(time.Unix(int64(c.Uint32()), 0)) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(int64(c.Uint32()), 0))
		},
		func(q *resource.Quantity, c randfill.Continue) {
			*q = *resource.NewQuantity(int64(c.Uint32()), resource.DecimalSI)
			_ = q.String()
		},
		func(i *intstr.IntOrString, c randfill.Continue) { *i = intstr.FromInt32(int32(c.Uint32() >> 1)) },
		func(r *runtime.RawExtension, _ randfill.Continue) { *r = runtime.RawExtension{} },
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.SetRawBytes([]byte("{}")) },
		func(s *metav1.LabelSelector, c randfill.Continue) {
			s.MatchLabels = map[string]string{c.String(5): c.String(5)}
		},
		fillMetrics, fillMetricStatus,
	}
}

// fillMetrics makes metrics that make sense: the first version keeps only what they need, as annotations.
func fillMetrics(s *autoscalingv2.HorizontalPodAutoscalerSpec, c randfill.Continue) {
	c.FillNoCustom(s)
	var value resource.Quantity
	c.Fill(&value)
	percent := int32(c.Uint32() >> 1)
	s.Metrics = []autoscalingv2.MetricSpec{
		{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "p"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &value},
		}},
		{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
			Name: "memory", Container: "c", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &value},
		}},
		{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
			Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		}},
	}
	s.Behavior = nil
	if c.Bool() {
		window, choice := int32(c.Uint32()>>1), autoscalingv2.MinChangePolicySelect
		rules := autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: &window, SelectPolicy: &choice, Tolerance: &value,
			Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: percent, PeriodSeconds: window}},
		}
		s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &rules, ScaleDown: rules.DeepCopy()}
	}
}

func fillMetricStatus(s *autoscalingv2.HorizontalPodAutoscalerStatus, c randfill.Continue) {
	c.FillNoCustom(s)
	percent := int32(c.Uint32() >> 1)
	var value resource.Quantity
	c.Fill(&value)
	s.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
		Name: "cpu", Current: autoscalingv2.MetricValueStatus{AverageUtilization: &percent, AverageValue: &value},
	}}}
	if len(s.Conditions) == 0 {
		s.Conditions = nil
	}
}
