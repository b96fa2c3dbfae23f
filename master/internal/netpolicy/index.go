package netpolicy

import "iter"

// index finds the sets of a namespace that may have a pod of certain labels: those which want one of its labels, and the rest.
type index struct {
	byLabel map[[2]string]map[*set]struct{}
	rest    map[*set]struct{}
}

func (x *index) add(s *set) {
	want, ok := wantedLabel(s)
	if !ok {
		x.rest[s] = struct{}{}
		return
	}
	if x.byLabel[want] == nil {
		x.byLabel[want] = map[*set]struct{}{}
	}
	x.byLabel[want][s] = struct{}{}
}

func (x *index) remove(s *set) {
	want, ok := wantedLabel(s)
	if !ok {
		delete(x.rest, s)
		return
	}
	delete(x.byLabel[want], s)
	if len(x.byLabel[want]) == 0 {
		delete(x.byLabel, want)
	}
}

// wantedLabel is one that all members of the set have, if its selector says so.
func wantedLabel(s *set) ([2]string, bool) {
	if s.spec.Pods == nil || len(s.spec.Pods.MatchLabels) == 0 {
		return [2]string{}, false
	}
	var first string // the same each time
	for k := range s.spec.Pods.MatchLabels {
		if first == "" || k < first {
			first = k
		}
	}
	return [2]string{first, s.spec.Pods.MatchLabels[first]}, true
}

// find the sets that may have a pod of these labels.
func (x *index) find(labels map[string]string) iter.Seq[*set] {
	return func(yield func(*set) bool) {
		for s := range x.rest {
			if !yield(s) {
				return
			}
		}
		for k, v := range labels {
			for s := range x.byLabel[[2]string{k, v}] {
				if !yield(s) {
					return
				}
			}
		}
	}
}
