package job

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// noIndex is the completion index of a pod that has none.
const noIndex = -1

// interval is the indexes from first to last, both included.
type interval struct{ first, last int }

// indexes is a set of completion indexes: intervals in order that neither overlap nor touch. Jobs of 100,000 indexes are
// kept in a few of them.
type indexes []interval

// parseIndexes reads a set as in status.completedIndexes ("0-2,5"), up to completions. What cannot be read is left out.
func parseIndexes(text string, completions int) indexes {
	var all []interval
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		last := first
		if err == nil && ranged {
			last, err = strconv.Atoi(to)
		}
		if last = min(last, completions-1); err == nil && first >= 0 && first <= last {
			all = append(all, interval{first, last})
		}
	}
	return normal(all)
}

// normal sorts and joins intervals.
func normal(all []interval) indexes {
	slices.SortFunc(all, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	var out indexes
	for _, iv := range all {
		if n := len(out); n > 0 && iv.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, iv.last)
		} else {
			out = append(out, iv)
		}
	}
	return out
}

// with is the set and more indexes.
func (s indexes) with(more ...int) indexes {
	if len(more) == 0 {
		return s
	}
	all := slices.Clone(s)
	for _, i := range more {
		all = append(all, interval{i, i})
	}
	return normal(all)
}

// union of two sets.
func (s indexes) union(o indexes) indexes { return normal(slices.Concat(s, o)) }

func (s indexes) has(i int) bool {
	_, found := slices.BinarySearchFunc(s, i, func(iv interval, i int) int {
		switch {
		case iv.last < i:
			return -1
		case iv.first > i:
			return 1
		}
		return 0
	})
	return found
}

func (s indexes) total() (n int) {
	for _, iv := range s {
		n += iv.last - iv.first + 1
	}
	return n
}

// common is how many indexes two sets share.
func (s indexes) common(o indexes) (n int) {
	for i, j := 0, 0; i < len(s) && j < len(o); {
		n += max(0, min(s[i].last, o[j].last)-max(s[i].first, o[j].first)+1)
		if s[i].last < o[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

// missing are the first n indexes below completions that the set does not have.
func (s indexes) missing(n, completions int) []int {
	var out []int
	next := 0
	for _, iv := range append(slices.Clip(s), interval{completions, math.MaxInt - 1}) {
		for ; next < min(iv.first, completions) && len(out) < n; next++ {
			out = append(out, next)
		}
		next = max(next, iv.last+1)
	}
	return out
}

// String is the form of the status: two indexes in a row are written "1,2", three "1-3".
func (s indexes) String() string {
	var out []byte
	for i, iv := range s {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(iv.first), 10)
		if iv.last > iv.first {
			sep := byte('-')
			if iv.last == iv.first+1 {
				sep = ','
			}
			out = strconv.AppendInt(append(out, sep), int64(iv.last), 10)
		}
	}
	return string(out)
}

// indexOf is a pod's completion index, or noIndex.
func indexOf(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return noIndex
	}
	return i
}

// failures of an index before this pod: those that count against backoffLimitPerIndex, and those that do not. Anybody can
// write annotations; what is no count is 0.
func failuresBefore(pod *corev1.Pod) (counted, ignored int32) {
	read := func(key string) int32 {
		n, err := strconv.ParseInt(pod.Annotations[key], 10, 32)
		if err != nil || n < 0 {
			return 0
		}
		return int32(n)
	}
	return read(batchv1.JobIndexFailureCountAnnotation), read(batchv1.JobIndexIgnoredFailureCountAnnotation)
}
