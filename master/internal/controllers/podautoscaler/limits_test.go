package podautoscaler

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

func policy(kind autoscalingv2.HPAScalingPolicyType, value, period int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: kind, Value: value, PeriodSeconds: period}
}

func behavior(window int32, choice autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choice, Policies: policies}
}

func TestLimits(t *testing.T) {
	const pods, percent = autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy
	const most, least, never = autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect
	ups := func(changes ...change) memory { return memory{ups: changes} }
	for _, tt := range []struct {
		name            string
		up, down        *autoscalingv2.HPAScalingRules
		behaves         bool
		memory          memory
		current, wanted int32
		want            int32
		able, limited   string
	}{
		{name: "within", current: 3, wanted: 4, want: 4, able: "ReadyForNewScale", limited: "DesiredWithinRange"},
		{name: "four at once", current: 1, wanted: 9, want: 4, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "twice as many", current: 3, wanted: 9, want: 6, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "maximum", current: 8, wanted: 12, want: 10, able: "ReadyForNewScale", limited: "TooManyReplicas"},
		{name: "minimum", current: 3, wanted: 0, want: 2, able: "ReadyForNewScale", limited: "TooFewReplicas"},
		{name: "lately more was wanted", memory: memory{recommendations: []recommendation{{now.Add(-299 * time.Second), 5}}}, current: 6, wanted: 2, want: 5, able: "ScaleDownStabilized", limited: "DesiredWithinRange"},
		{name: "but not long ago", memory: memory{recommendations: []recommendation{{now.Add(-301 * time.Second), 5}}}, current: 6, wanted: 2, want: 2, able: "ReadyForNewScale", limited: "DesiredWithinRange"},
		{name: "default behavior up", behaves: true, current: 1, wanted: 9, want: 5, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "default behavior doubles", behaves: true, current: 5, wanted: 11, want: 10, able: "ReadyForNewScale", limited: "TooManyReplicas"},
		{name: "default behavior down at once but for the window", behaves: true, current: 9, wanted: 3, memory: memory{recommendations: []recommendation{{now.Add(-time.Minute), 9}}}, want: 9, able: "ScaleDownStabilized", limited: "DesiredWithinRange"},
		{name: "one a minute up", behaves: true, up: behavior(0, most, policy(pods, 1, 60)), current: 3, wanted: 9, want: 4, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "one a minute, done", behaves: true, up: behavior(0, most, policy(pods, 1, 60)), memory: ups(change{now.Add(-59 * time.Second), 1}), current: 4, wanted: 9, want: 4, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "one a minute, again", behaves: true, up: behavior(0, most, policy(pods, 1, 60)), memory: ups(change{now.Add(-60 * time.Second), 1}), current: 4, wanted: 9, want: 5, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "a few percent of little are one", behaves: true, up: behavior(0, most, policy(percent, 10, 60)), current: 1, wanted: 9, want: 2, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "the greatest", behaves: true, up: behavior(0, most, policy(percent, 100, 60), policy(pods, 1, 60)), current: 4, wanted: 9, want: 8, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "the least", behaves: true, up: behavior(0, least, policy(percent, 100, 60), policy(pods, 1, 60)), current: 4, wanted: 9, want: 5, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "never up", behaves: true, up: behavior(0, never), current: 4, wanted: 9, want: 4, able: "ReadyForNewScale", limited: "ScaleUpLimit"},
		{name: "up, held back", behaves: true, up: behavior(60, most, policy(pods, 9, 60)), memory: memory{recommendations: []recommendation{{now.Add(-30 * time.Second), 4}}}, current: 4, wanted: 9, want: 4, able: "ScaleUpStabilized", limited: "DesiredWithinRange"},
		{name: "one a minute down", behaves: true, down: behavior(0, most, policy(pods, 1, 60)), current: 9, wanted: 3, want: 8, able: "ReadyForNewScale", limited: "ScaleDownLimit"},
		{name: "the least down", behaves: true, down: behavior(0, least, policy(pods, 1, 60), policy(percent, 50, 60)), current: 9, wanted: 3, want: 8, able: "ReadyForNewScale", limited: "ScaleDownLimit"},
		{name: "the greatest down", behaves: true, down: behavior(0, most, policy(pods, 1, 60), policy(percent, 50, 60)), current: 9, wanted: 3, want: 4, able: "ReadyForNewScale", limited: "ScaleDownLimit"},
		{name: "never down", behaves: true, down: behavior(0, never), current: 9, wanted: 3, want: 9, able: "ReadyForNewScale", limited: "ScaleDownLimit"},
		{name: "down to the minimum", behaves: true, down: behavior(0, most, policy(percent, 100, 15)), current: 9, wanted: 1, want: 2, able: "ReadyForNewScale", limited: "TooFewReplicas"},
		{name: "huge numbers", behaves: true, up: behavior(0, most, policy(pods, 1<<31-1, 60)), current: 9, wanted: 1<<31 - 1, want: 10, able: "ReadyForNewScale", limited: "TooManyReplicas"},
	} {
		s := situationOf("", 0, "")
		least := int32(2)
		s.hpa.Spec.MinReplicas, s.hpa.Spec.MaxReplicas, s.memory = &least, 10, &tt.memory
		if tt.behaves {
			s.hpa.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: tt.up, ScaleDown: tt.down}
		}
		d := &decision{situation: s}
		got := d.normalize(tt.current, tt.wanted)
		c := d.status.Conditions
		if got != tt.want || len(c) != 2 || c[0].Reason != tt.able || c[1].Reason != tt.limited || (c[1].Status == "False") != (tt.limited == "DesiredWithinRange") {
			t.Errorf("%s: %d, want %d: %+v", tt.name, got, tt.want, c)
		}
	}
}

// What is remembered does not grow.
func TestMemoryIsBounded(t *testing.T) {
	m := &memory{}
	for i := range 5000 {
		at := now.Add(time.Duration(i) * 15 * time.Second)
		m.begin(at, 1)
		m.recommend(at, int32(i))
		m.changed(at, int32(i), int32(i+1))
		m.changed(at, int32(i+1), int32(i))
	}
	if len(m.recommendations) > 242 || len(m.ups) > 122 || len(m.downs) > 122 {
		t.Error(len(m.recommendations), len(m.ups), len(m.downs))
	}
}
