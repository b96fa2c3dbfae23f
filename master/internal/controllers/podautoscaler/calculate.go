package podautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

const (
	// defaultTolerance: a usage that is off the target by no more than this part of it is right.
	defaultTolerance = 0.1
	// While a pod is younger than cpuInitialization, its processor counts only when it is ready and a whole window of its
	// figures lies behind that; a pod that was never ready within initialReadiness is still starting, whatever its age.
	// (kube-controller-manager's defaults.)
	cpuInitialization, initialReadiness = 5 * time.Minute, 30 * time.Second
	// defaultCPURequest, in thousandths, is what a container counts as asking for that asks for no processor. Kubernetes
	// gives up there ("missing request for cpu"); on Google's clusters, where many posts come from, a LimitRange
	// gives such containers this much. Here it counts for autoscalers only: as a request it would keep the eleventh
	// container away from a server with one processor.
	defaultCPURequest = 100
)

// Usage is what a pod used, as its node measured it.
type Usage struct {
	// Time of the measurement, and the window before it.
	Time       time.Time
	Window     time.Duration
	Containers []ContainerUsage
}

// ContainerUsage of one container: CPU in billionths of a processor, memory in bytes.
type ContainerUsage struct {
	Name        string
	CPU, Memory int64
}

// figure of one pod in thousandths, and when it was taken.
type figure struct {
	value  int64
	time   time.Time
	window time.Duration
}

// calculator works out how many replicas one resource asks for.
type calculator struct {
	*decision
	resource  corev1.ResourceName
	container string // or all
	tolerance tolerance
	figures   map[string]figure // by name of the pod
}

func (d *decision) calculator(name corev1.ResourceName, container string) *calculator {
	c := &calculator{decision: d, resource: name, container: container, tolerance: toleranceOf(d.hpa.Spec.Behavior), figures: map[string]figure{}}
	for _, p := range d.pods {
		if u, ok := d.usage(p); ok {
			if value, ok := c.valueOf(&u); ok {
				c.figures[p.Name] = figure{value, u.Time, u.Window}
			}
		}
	}
	return c
}

// valueOf what is asked for; false when the figures do not have it.
func (c *calculator) valueOf(u *Usage) (sum int64, ok bool) {
	for i := range u.Containers {
		one := &u.Containers[i]
		if c.container != "" && one.Name != c.container {
			continue
		}
		switch c.resource {
		case corev1.ResourceCPU:
			sum += (one.CPU + 1e6 - 1) / 1e6
		case corev1.ResourceMemory:
			sum += one.Memory * 1000
		default:
			return 0, false
		}
		ok = true
	}
	return sum, ok
}

// tolerance to both sides.
type tolerance struct{ down, up float64 }

func toleranceOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerance {
	t := tolerance{defaultTolerance, defaultTolerance}
	if b != nil && b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b != nil && b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	return t
}

func (t tolerance) holds(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// result of a calculation: average of one pod in thousandths, and percent of what the pods asked for.
type result struct {
	replicas int32
	average  int64
	percent  int32
}

// utilization keeps the pods' usage at so many percent of what they ask for.
func (c *calculator) utilization(target int32) (result, error) {
	groups, err := c.group()
	if err != nil {
		return result{}, err
	}
	requests := make(map[string]int64, len(c.pods))
	for _, p := range c.pods {
		if requests[p.Name], err = c.request(p); err != nil {
			return result{}, err
		}
	}
	measure := func() (float64, result, error) {
		var used, asked, n int64
		for name, f := range c.figures {
			used, asked, n = used+f.value, asked+requests[name], n+1
		}
		if asked == 0 {
			return 0, result{}, errors.New("no metrics returned matched known pods")
		}
		percent := int32(min(used*100/asked, math.MaxInt32))
		return float64(percent) / float64(target), result{average: used / n, percent: percent}, nil
	}
	// On the way down pods without figures count as using all that they ask for, or the target where that is more.
	return c.replicas(groups, measure, func(pod string) int64 { return requests[pod] * int64(max(100, target)) / 100 })
}

// raw keeps the pods' usage at so many thousandths each.
func (c *calculator) raw(target int64) (result, error) {
	groups, err := c.group()
	if err != nil {
		return result{}, err
	}
	measure := func() (float64, result, error) {
		var used int64
		for _, f := range c.figures {
			used += f.value
		}
		average := used / int64(len(c.figures))
		return float64(average) / float64(target), result{average: average}, nil
	}
	return c.replicas(groups, measure, func(string) int64 { return target })
}

// replicas that the figures ask for. Pods without figures, and those that are not ready on the way up, are put in so that they
// dampen the change; when they turn it around, nothing changes.
func (c *calculator) replicas(g groups, measure func() (float64, result, error), full func(pod string) int64) (result, error) {
	current := c.scale.spec
	ratio, out, err := measure()
	if err != nil {
		return out, err
	}
	out.replicas = current
	upWithUnready := len(g.unready) > 0 && ratio > 1
	if !upWithUnready && len(g.missing) == 0 {
		if !c.tolerance.holds(ratio) {
			out.replicas = ceil(ratio * float64(g.ready))
		}
		return out, nil
	}
	for _, pod := range g.missing {
		switch {
		case ratio < 1:
			c.figures[pod] = figure{value: full(pod)}
		case ratio > 1:
			c.figures[pod] = figure{}
		}
	}
	if upWithUnready {
		for _, pod := range g.unready {
			c.figures[pod] = figure{}
		}
	}
	dampened, _, err := measure()
	if err != nil {
		return out, err
	}
	if c.tolerance.holds(dampened) || ratio < 1 && dampened > 1 || ratio > 1 && dampened < 1 {
		return out, nil
	}
	next := ceil(dampened * float64(len(c.figures)))
	if dampened < 1 && next > current || dampened > 1 && next < current {
		return out, nil
	}
	out.replicas = next
	return out, nil
}

func ceil(n float64) int32 { return int32(min(math.Ceil(n), math.MaxInt32)) }

// groups of pods by what their figures are worth.
type groups struct {
	ready            int
	unready, missing []string
}

// group the pods, and drop the figures of those that do not count.
func (c *calculator) group() (g groups, err error) {
	if len(c.figures) == 0 {
		return g, fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", c.resource)
	}
	for _, p := range c.pods {
		f, known := c.figures[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			delete(c.figures, p.Name)
		case p.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, p.Name)
			delete(c.figures, p.Name)
		case !known:
			g.missing = append(g.missing, p.Name)
		case c.resource == corev1.ResourceCPU && unready(c.now, p, f):
			g.unready = append(g.unready, p.Name)
			delete(c.figures, p.Name)
		default:
			g.ready++
		}
	}
	if len(c.figures) == 0 {
		return g, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return g, nil
}

// unready says whether what a pod uses of the processor may be what it needs to start.
func unready(now time.Time, p *corev1.Pod, f figure) bool {
	ready := podstate.Condition(p, corev1.PodReady)
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	began, changed := p.Status.StartTime.Time, ready.LastTransitionTime.Time
	if began.Add(cpuInitialization).After(now) {
		return ready.Status == corev1.ConditionFalse || f.time.Before(changed.Add(f.window))
	}
	return ready.Status == corev1.ConditionFalse && began.Add(initialReadiness).After(changed)
}

// request of a pod, or of one of its containers, in thousandths. Sidecars count as containers.
func (c *calculator) request(p *corev1.Pod) (int64, error) {
	if c.container == "" && resource.IsPodLevelRequestsSet(p) {
		q, ok := resource.PodRequests(p, resource.PodResourcesOptions{})[c.resource]
		if !ok {
			return 0, fmt.Errorf("missing pod-level request for %s in Pod %s", c.resource, p.Name)
		}
		return q.MilliValue(), nil
	}
	var sum int64
	found := false
	for _, container := range lasting(p) {
		if c.container != "" && container.Name != c.container {
			continue
		}
		found = true
		q, ok := container.Resources.Requests[c.resource]
		switch {
		case ok:
			sum += q.MilliValue()
		case c.resource == corev1.ResourceCPU:
			sum += defaultCPURequest
			c.assumed(container.Name)
		default:
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", c.resource, container.Name, p.Name)
		}
	}
	if c.container != "" && !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", c.container, p.Name)
	}
	return sum, nil
}

// lasting containers of a pod: those that run as long as it does.
func lasting(p *corev1.Pod) []*corev1.Container {
	out := make([]*corev1.Container, 0, len(p.Spec.Containers))
	for i := range p.Spec.Containers {
		out = append(out, &p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}
