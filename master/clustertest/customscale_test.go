package clustertest

import (
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestCustomScales: a budget counts the pods of custom controllers by their scale, and an autoscaler writes nothing into it that
// the definition forbids.
func TestCustomScales(t *testing.T) {
	run(t, 0, func(c *cluster) {
		d := c.dynamic()
		c.define(d)
		tabs := d.Resource(crontabs).Namespace("default")
		one, err := tabs.Create(c.ctx, manifest(t, strings.Replace(crontab, "spec: {", "spec: {replicas: 4, ", 1)), metav1.CreateOptions{})
		if err != nil {
			c.Fatal(err)
		}
		labels := map[string]string{"app": "tab"}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "tab-1", Labels: labels, OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "stable.example.com/v1", Kind: "CronTab", Name: "one", UID: one.GetUID(), Controller: new(true),
			}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
		}
		if _, err := c.kube.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		budget := &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: "tab"},
			Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: new(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}},
		}
		if _, err := c.kube.PolicyV1().PodDisruptionBudgets("default").Create(c.ctx, budget, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "the budget knows the scale", func() bool {
			b, err := c.kube.PolicyV1().PodDisruptionBudgets("default").Get(c.ctx, "tab", metav1.GetOptions{})
			return err == nil && b.Status.ExpectedPods == 4 && b.Status.DesiredHealthy == 3
		})

		scaler := &autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "tab"},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "stable.example.com/v1", Kind: "CronTab", Name: "one"},
				MinReplicas:    new(int32(9)), MaxReplicas: 12,
			},
		}
		scalers := c.kube.AutoscalingV2().HorizontalPodAutoscalers("default")
		if _, err := scalers.Create(c.ctx, scaler, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		able := func() (able autoscalingv2.HorizontalPodAutoscalerCondition) {
			s, err := scalers.Get(c.ctx, "tab", metav1.GetOptions{})
			if err != nil {
				c.Fatal(err)
			}
			for _, cond := range s.Status.Conditions {
				if cond.Type == autoscalingv2.AbleToScale {
					able = cond
				}
			}
			return able
		}
		c.eventually(time.Minute, "it is refused", func() bool { return able().Reason == "FailedUpdateScale" })
		if cond := able(); cond.Status != corev1.ConditionFalse || !strings.Contains(cond.Message, "should be less than or equal to 8") {
			c.Errorf("%+v", cond)
		}
		if one, err = tabs.Get(c.ctx, "one", metav1.GetOptions{}); err != nil || at(one, "spec", "replicas") != int64(4) {
			c.Errorf("replicas %v, %v", at(one, "spec", "replicas"), err)
		}
		scaler, err = scalers.Get(c.ctx, "tab", metav1.GetOptions{})
		if err != nil {
			c.Fatal(err)
		}
		scaler.Spec.MinReplicas, scaler.Spec.MaxReplicas = new(int32(6)), 8
		if _, err := scalers.Update(c.ctx, scaler, metav1.UpdateOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "what the definition allows", func() bool {
			one, err := tabs.Get(c.ctx, "one", metav1.GetOptions{})
			return err == nil && at(one, "spec", "replicas") == int64(6)
		})
	})
}
