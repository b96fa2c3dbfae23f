package scheduler

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// budget is a PodDisruptionBudget, as preemption reads it.
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32
	// disrupted are pods whose eviction is counted in allowed already.
	disrupted map[string]metav1.Time
}

// SetBudget takes over the state of a disruption budget. Preemption keeps to budgets where it can.
func (s *Snapshot) SetBudget(b *policyv1.PodDisruptionBudget) {
	s.budgets[b.Namespace+"/"+b.Name] = &budget{b.Namespace, selectorOf(b.Spec.Selector), b.Status.DisruptionsAllowed, b.Status.DisruptedPods}
}

// RemoveBudget forgets a budget.
func (s *Snapshot) RemoveBudget(namespace, name string) { delete(s.budgets, namespace+"/"+name) }

// byBudgets parts pods into those whose eviction would break a budget, if all those before them went too, and the others.
// The order stays.
func (s *Snapshot) byBudgets(pods []*podInfo) (protected, others []*podInfo) {
	if len(s.budgets) == 0 {
		return nil, pods
	}
	left := make(map[*budget]int32, len(s.budgets))
	for _, b := range s.budgets {
		left[b] = b.allowed
	}
	for _, p := range pods {
		broken := false
		for b := range left {
			if b.namespace != p.pod.Namespace || len(p.pod.Labels) == 0 || b.selector.Empty() || !b.selector.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if _, counted := b.disrupted[p.pod.Name]; counted {
				continue
			}
			left[b]--
			broken = broken || left[b] < 0
		}
		if broken {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}
