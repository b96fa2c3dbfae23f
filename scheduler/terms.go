package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// podTerm is a term of pod affinity, ready to be matched.
type podTerm struct {
	topology   string
	selector   labels.Selector
	namespaces []string
	// anywhere is the namespaceSelector; nil for none.
	anywhere labels.Selector
	weight   int64
}

// newPodTerm reads a term of a pod in namespace. A selector that cannot be read matches nothing; validation refuses such
// pods at the door.
func newPodTerm(t *corev1.PodAffinityTerm, pod *corev1.Pod, weight int32) podTerm {
	term := podTerm{topology: t.TopologyKey, selector: selectorOf(t.LabelSelector), namespaces: t.Namespaces, weight: int64(weight)}
	term.selector = withKeys(term.selector, pod, t.MatchLabelKeys, selection.In)
	term.selector = withKeys(term.selector, pod, t.MismatchLabelKeys, selection.NotIn)
	if t.NamespaceSelector != nil {
		term.anywhere = selectorOf(t.NamespaceSelector)
	} else if len(t.Namespaces) == 0 {
		term.namespaces = []string{pod.Namespace}
	}
	return term
}

func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// withKeys narrows a selector to pods that have (or have not) the pod's own values of some labels.
func withKeys(selector labels.Selector, pod *corev1.Pod, keys []string, op selection.Operator) labels.Selector {
	for _, key := range keys {
		value, has := pod.Labels[key]
		if !has {
			continue
		}
		if r, err := labels.NewRequirement(key, op, []string{value}); err == nil {
			selector = selector.Add(*r)
		}
	}
	return selector
}

func (s *Snapshot) termMatches(t *podTerm, pod *corev1.Pod) bool {
	if !t.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	return slices.Contains(t.namespaces, pod.Namespace) || t.anywhere != nil && t.anywhere.Matches(labels.Set(s.namespaces[pod.Namespace]))
}

func podTerms(pod *corev1.Pod, list []corev1.PodAffinityTerm) []podTerm {
	terms := make([]podTerm, 0, len(list))
	for i := range list {
		terms = append(terms, newPodTerm(&list[i], pod, 0))
	}
	return terms
}

func requiredPodAffinity(pod *corev1.Pod) []podTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		return podTerms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	return nil
}

func requiredPodAntiAffinity(pod *corev1.Pod) []podTerm {
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		return podTerms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	return nil
}

// preferredPodTerms are the wishes for company (positive weights) and for solitude (negative).
func preferredPodTerms(pod *corev1.Pod) (terms []podTerm) {
	a := pod.Spec.Affinity
	if a == nil {
		return nil
	}
	if a.PodAffinity != nil {
		for i := range a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
			terms = append(terms, newPodTerm(&w.PodAffinityTerm, pod, w.Weight))
		}
	}
	if a.PodAntiAffinity != nil {
		for i := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[i]
			terms = append(terms, newPodTerm(&w.PodAffinityTerm, pod, -w.Weight))
		}
	}
	return terms
}

// domain is a value of a topology label: one zone, one host.
type domain struct{ key, value string }

func domainOf(n *Node, key string) (domain, bool) {
	if n.obj == nil {
		return domain{}, false
	}
	value, ok := n.obj.Labels[key]
	return domain{key, value}, ok
}
