package scheduler

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// fieldName is the one field of nodes that matchFields may name.
const fieldName = "metadata.name"

// matches evaluates a term: all its expressions and fields, ANDed. An empty term matches nothing. (component-helpers'
// matcher builds a map for every node it looks at, which made it four fifths of a decision on 1,000 nodes.)
func matches(term *corev1.NodeSelectorTerm, node *corev1.Node) bool {
	if len(term.MatchExpressions) == 0 && len(term.MatchFields) == 0 {
		return false
	}
	for i := range term.MatchExpressions {
		value, has := node.Labels[term.MatchExpressions[i].Key]
		if !meets(&term.MatchExpressions[i], value, has) {
			return false
		}
	}
	for i := range term.MatchFields {
		if term.MatchFields[i].Key != fieldName || !meets(&term.MatchFields[i], node.Name, true) {
			return false
		}
	}
	return true
}

func meets(r *corev1.NodeSelectorRequirement, value string, has bool) bool {
	switch r.Operator {
	case corev1.NodeSelectorOpIn:
		return has && slices.Contains(r.Values, value)
	case corev1.NodeSelectorOpNotIn:
		return !has || !slices.Contains(r.Values, value)
	case corev1.NodeSelectorOpExists:
		return has
	case corev1.NodeSelectorOpDoesNotExist:
		return !has
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if !has || len(r.Values) != 1 {
			return false
		}
		have, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return false
		}
		bound, err := strconv.ParseInt(r.Values[0], 10, 64)
		if err != nil {
			return false
		}
		return r.Operator == corev1.NodeSelectorOpGt && have > bound || r.Operator == corev1.NodeSelectorOpLt && have < bound
	}
	return false
}

// affinityFilter is nodeSelector and the required part of nodeAffinity.
type affinityFilter struct {
	selector map[string]string
	required *corev1.NodeSelector // its terms are ORed
}

func requiredTerms(pod *corev1.Pod) *corev1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

func preferredTerms(pod *corev1.Pod) []corev1.PreferredSchedulingTerm {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// MatchesNode says whether the pod's nodeSelector and required node affinity accept the node.
func MatchesNode(pod *corev1.Pod, node *corev1.Node) bool {
	return affinityFilter{pod.Spec.NodeSelector, requiredTerms(pod)}.matches(node)
}

func (f affinityFilter) fits(n *Node) bool { return f.matches(n.obj) }

func (f affinityFilter) matches(node *corev1.Node) bool {
	for k, v := range f.selector {
		if have, ok := node.Labels[k]; !ok || have != v {
			return false
		}
	}
	if f.required == nil {
		return true
	}
	for i := range f.required.NodeSelectorTerms {
		if matches(&f.required.NodeSelectorTerms[i], node) {
			return true
		}
	}
	return false
}

func (affinityFilter) blocks() Blocks { return byNode }

func (affinityFilter) explain(*Node) refusal {
	return refuse("node(s) didn't match Pod's node affinity/selector")
}

// fieldFilter keeps to nodes named by matchFields, as the pods of a DaemonSet do. kube-scheduler decides this before it
// looks at any node, which is why it has words of its own.
type fieldFilter struct{ names map[string]bool }

func (f fieldFilter) fits(n *Node) bool { return f.names[n.name] }

func (fieldFilter) blocks() Blocks { return byNode }

func (fieldFilter) explain(*Node) refusal {
	return refuse("node(s) didn't satisfy plugin(s) [NodeAffinity]")
}

// requiredNodeNames are the nodes to which every required term restricts the pod by name; nil means no restriction.
func requiredNodeNames(pod *corev1.Pod) map[string]bool {
	required := requiredTerms(pod)
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		return nil
	}
	names := map[string]bool{}
	for i := range required.NodeSelectorTerms {
		named := false
		for _, r := range required.NodeSelectorTerms[i].MatchFields {
			if r.Key == fieldName && r.Operator == corev1.NodeSelectorOpIn {
				named = true
				for _, v := range r.Values {
					names[v] = true
				}
			}
		}
		if !named {
			return nil
		}
	}
	return names
}
