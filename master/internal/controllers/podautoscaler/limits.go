package podautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

const (
	// defaultStabilization: nothing is scaled below what was wanted within this time.
	defaultStabilization = 5 * time.Minute
	// longestStabilization and longestPeriod that the API accepts.
	longestStabilization, longestPeriod = time.Hour, 30 * time.Minute
	// Without a behavior, at most this many times as many replicas at once, or as many as the minimum of it.
	upFactor, upMinimum = 2, 4
)

// recommendation is what the metrics asked for at some time.
type recommendation struct {
	at       time.Time
	replicas int32
}

// change of the number of replicas, as far as rates are limited.
type change struct {
	at time.Time
	by int32
}

// memory of what was wanted and done for one autoscaler lately. Like in Kubernetes, a start begins without.
type memory struct {
	uid types.UID
	// told that containers without a request count as asking for something.
	told            bool
	recommendations []recommendation
	ups, downs      []change
}

// begin with what is there, so that a new autoscaler does not scale down before it has looked for a while.
func (m *memory) begin(now time.Time, current int32) {
	if m.recommendations == nil {
		m.recommendations = []recommendation{{now, current}}
	}
}

func (m *memory) recommend(now time.Time, n int32) {
	m.recommendations = slices.DeleteFunc(m.recommendations, func(r recommendation) bool { return now.Sub(r.at) > longestStabilization })
	m.recommendations = append(m.recommendations, recommendation{now, n})
}

// changed notes a change that was made.
func (m *memory) changed(now time.Time, from, to int32) {
	list, by := &m.ups, to-from
	if by < 0 {
		list, by = &m.downs, -by
	}
	*list = slices.DeleteFunc(*list, func(c change) bool { return now.Sub(c.at) > longestPeriod })
	*list = append(*list, change{now, by})
}

// normalize what the metrics want: not below what was wanted a while ago, not faster than allowed, and within the limits.
func (d *decision) normalize(current, wanted int32) int32 {
	b := d.hpa.Spec.Behavior
	up, down := rulesOf(b)
	stable := d.stabilize(b != nil, up, down, current, wanted)
	switch {
	case stable == wanted:
		d.condition(autoscalingv2.AbleToScale, true, "ReadyForNewScale", "recommended size matches current size")
	case b != nil && wanted >= current:
		d.condition(autoscalingv2.AbleToScale, true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation")
	default:
		d.condition(autoscalingv2.AbleToScale, true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
	}
	n, reason, message := d.limit(b != nil, up, down, current, stable)
	d.condition(autoscalingv2.ScalingLimited, n != stable, reason, message)
	return n
}

// rules of a behavior, with Kubernetes' defaults for what it leaves open.
type rules struct {
	window   time.Duration
	choice   autoscalingv2.ScalingPolicySelect
	policies []autoscalingv2.HPAScalingPolicy
}

func rulesOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) (up, down rules) {
	const most = autoscalingv2.MaxChangePolicySelect
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	four := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	up = rules{choice: most, policies: []autoscalingv2.HPAScalingPolicy{four, double}}
	down = rules{window: defaultStabilization, choice: most, policies: []autoscalingv2.HPAScalingPolicy{double}}
	if b != nil {
		up.take(b.ScaleUp)
		down.take(b.ScaleDown)
	}
	return up, down
}

func (r *rules) take(from *autoscalingv2.HPAScalingRules) {
	if from == nil {
		return
	}
	if from.StabilizationWindowSeconds != nil {
		r.window = podstate.Seconds(*from.StabilizationWindowSeconds)
	}
	if from.SelectPolicy != nil {
		r.choice = *from.SelectPolicy
	}
	if len(from.Policies) > 0 {
		r.policies = from.Policies
	}
}

// stabilize: no more than the least, and no less than the most that was wanted lately, beginning from what is there.
func (d *decision) stabilize(behaves bool, up, down rules, current, wanted int32) int32 {
	least, most := wanted, wanted
	for _, r := range d.memory.recommendations {
		age := d.now.Sub(r.at)
		if age < up.window {
			least = min(least, r.replicas)
		}
		if age < down.window || !behaves && age == down.window {
			most = max(most, r.replicas)
		}
	}
	d.memory.recommend(d.now, wanted)
	if !behaves {
		return most
	}
	return min(max(current, least), most)
}

// limit by minimum, maximum and rates, and why.
func (d *decision) limit(behaves bool, up, down rules, current, wanted int32) (n int32, reason, message string) {
	lowest, highest := d.minReplicas(), d.hpa.Spec.MaxReplicas
	tooFew := func(n int32) (int32, string, string) {
		return n, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	}
	tooMany := func(n int32) (int32, string, string) {
		return n, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	}
	tooFast := func(n int32) (int32, string, string) {
		return n, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
	}
	if !behaves {
		fast := max(upFactor*current, upMinimum)
		switch {
		case wanted < lowest:
			return tooFew(lowest)
		case highest > fast && wanted > fast:
			return tooFast(fast)
		case highest <= fast && wanted > highest:
			return tooMany(highest)
		}
		return wanted, "DesiredWithinRange", "the desired count is within the acceptable range"
	}
	switch {
	case wanted > current:
		fast := max(d.memory.upLimit(d.now, current, up), current)
		if highest > fast && wanted > fast {
			return tooFast(fast)
		}
		if highest <= fast && wanted > highest {
			return tooMany(highest)
		}
	case wanted < current:
		fast := min(d.memory.downLimit(d.now, current, down), current)
		if lowest < fast && wanted < fast {
			return fast, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
		}
		if lowest >= fast && wanted < lowest {
			return tooFew(lowest)
		}
	}
	return wanted, "DesiredWithinRange", "the desired count is within the acceptable range"
}

// upLimit is how many replicas the policies allow now.
func (m *memory) upLimit(now time.Time, current int32, r rules) int32 {
	return r.choose(current, m, now, higher, lower, func(p *autoscalingv2.HPAScalingPolicy, base float64) float64 {
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return base + float64(p.Value)
		}
		return math.Ceil(base * (1 + float64(p.Value)/100)) // rounded up, or a few would never become more
	})
}

// downLimit is how few.
func (m *memory) downLimit(now time.Time, current int32, r rules) int32 {
	return r.choose(current, m, now, lower, higher, func(p *autoscalingv2.HPAScalingPolicy, base float64) float64 {
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return base - float64(p.Value)
		}
		return math.Trunc(base * (1 - float64(p.Value)/100))
	})
}

func higher(a, b int32) int32 { return max(a, b) }
func lower(a, b int32) int32  { return min(a, b) }

// choose among what the policies allow, each counted from what there was at the beginning of its period: the greatest change
// (most), or the least one.
func (r *rules) choose(current int32, m *memory, now time.Time, most, least func(a, b int32) int32, allow func(*autoscalingv2.HPAScalingPolicy, float64) float64) int32 {
	if r.choice == autoscalingv2.DisabledPolicySelect {
		return current
	}
	pick := most
	if r.choice == autoscalingv2.MinChangePolicySelect {
		pick = least
	}
	limit := current
	for i := range r.policies {
		p := &r.policies[i]
		period := podstate.Seconds(p.PeriodSeconds)
		base := float64(current) - float64(within(m.ups, now, period)) + float64(within(m.downs, now, period))
		allowed := int32(min(max(allow(p, base), math.MinInt32), math.MaxInt32))
		if i == 0 {
			limit = allowed
		}
		limit = pick(limit, allowed)
	}
	return limit
}

// within sums the changes of a period.
func within(changes []change, now time.Time, period time.Duration) (sum int64) {
	for _, c := range changes {
		if now.Sub(c.at) < period {
			sum += int64(c.by)
		}
	}
	return sum
}

func metaTime(t time.Time) *metav1.Time {
	out := metav1.NewTime(t.Truncate(time.Second))
	return &out
}
