package pressure

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something of which there may be too little.
type Signal string

// The signals, in the order in which they are dealt with: a machine without memory dies first.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Resources that are no resources of the API, in the kubelet's words.
const (
	inodes corev1.ResourceName = "inodes"
	pids   corev1.ResourceName = "pids"
)

type meaning struct {
	resource  corev1.ResourceName
	condition corev1.NodeConditionType
}

var signals = []Signal{MemoryAvailable, NodeFsAvailable, NodeFsInodesFree, ImageFsAvailable, ImageFsInodesFree, PIDAvailable}

var meanings = map[Signal]meaning{
	MemoryAvailable:   {corev1.ResourceMemory, corev1.NodeMemoryPressure},
	NodeFsAvailable:   {corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	NodeFsInodesFree:  {inodes, corev1.NodeDiskPressure},
	ImageFsAvailable:  {corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	ImageFsInodesFree: {inodes, corev1.NodeDiskPressure},
	PIDAvailable:      {pids, corev1.NodePIDPressure},
}

// Resource that is short when the signal is met.
func (s Signal) Resource() corev1.ResourceName { return meanings[s].resource }

// Disk tells whether the signal is about a file system.
func (s Signal) Disk() bool { return meanings[s].condition == corev1.NodeDiskPressure }

// Observation of a signal.
type Observation struct{ Available, Capacity int64 }

// Observations by signal; what could not be measured is missing.
type Observations map[Signal]Observation

// Threshold below which a signal is met.
type Threshold struct {
	Signal Signal
	// Quantity, or if nil Fraction of the capacity.
	Quantity *resource.Quantity
	Fraction float64
}

// Of a capacity.
func (t Threshold) Of(capacity int64) resource.Quantity {
	if t.Quantity != nil {
		return t.Quantity.DeepCopy()
	}
	return *resource.NewQuantity(int64(float64(capacity)*t.Fraction), resource.BinarySI)
}

// Met are the thresholds that the observations fall below, the most urgent first.
func Met(thresholds []Threshold, o Observations) []Threshold {
	var met []Threshold
	for _, t := range thresholds {
		seen, ok := o[t.Signal]
		if q := t.Of(seen.Capacity); ok && q.Value() > seen.Available {
			met = append(met, t)
		}
	}
	slices.SortStableFunc(met, func(a, b Threshold) int { return slices.Index(signals, a.Signal) - slices.Index(signals, b.Signal) })
	return met
}

const (
	defaultMemory = 100 << 20
	// smallMemory: of a machine with less, the kubelet's 100Mi would be more than a tenth. A server of 512 MB would then
	// evict pods that it has room for.
	smallMemory = 10 * defaultMemory
)

// Defaults are the kubelet's, for a machine with that many bytes of memory; see smallMemory for the exception.
func Defaults(memory int64) []Threshold {
	least := resource.NewQuantity(defaultMemory, resource.BinarySI)
	if memory > 0 && memory < smallMemory {
		least = resource.NewQuantity(memory/10>>20<<20, resource.BinarySI)
	}
	return []Threshold{
		{Signal: MemoryAvailable, Quantity: least},
		{Signal: NodeFsAvailable, Fraction: 0.10},
		{Signal: NodeFsInodesFree, Fraction: 0.05},
		{Signal: ImageFsAvailable, Fraction: 0.15},
		{Signal: ImageFsInodesFree, Fraction: 0.05},
	}
}

// ParseThresholds reads what --eviction-hard says, as in memory.available<200Mi,nodefs.available<5%. What it does not speak of
// stays as in the defaults; 0% turns one off. (The kubelet turns off what its flag does not speak of, which leaves many a
// node without protection of its disk.)
func ParseThresholds(text string, defaults []Threshold) ([]Threshold, error) {
	out := slices.Clone(defaults)
	said := map[Signal]bool{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "<")
		signal := Signal(strings.TrimSpace(name))
		if !ok {
			return nil, fmt.Errorf("invalid eviction threshold %q, expected <signal><<value>, as in memory.available<200Mi", part)
		}
		if _, known := meanings[signal]; !known {
			return nil, fmt.Errorf("unsupported eviction signal %v", signal)
		}
		if said[signal] {
			return nil, fmt.Errorf("eviction threshold %v is given twice", signal)
		}
		said[signal] = true
		t, err := parseThreshold(signal, strings.TrimSpace(value))
		if err != nil {
			return nil, err
		}
		out = slices.DeleteFunc(out, func(t Threshold) bool { return t.Signal == signal })
		if t != nil {
			out = append(out, *t)
		}
	}
	slices.SortStableFunc(out, func(a, b Threshold) int { return slices.Index(signals, a.Signal) - slices.Index(signals, b.Signal) })
	return out, nil
}

// parseThreshold returns nil for one that is turned off.
func parseThreshold(signal Signal, value string) (*Threshold, error) {
	if number, ok := strings.CutSuffix(value, "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		switch {
		case err != nil:
			return nil, fmt.Errorf("eviction threshold %v: %q is not a percentage", signal, value)
		case !(percent >= 0): // not a number, too
			return nil, fmt.Errorf("eviction percentage threshold %v must be >= 0%%: %s", signal, value)
		case percent > 100:
			return nil, fmt.Errorf("eviction percentage threshold %v must be <= 100%%: %s", signal, value)
		case percent == 0, percent == 100:
			return nil, nil
		}
		return &Threshold{Signal: signal, Fraction: percent / 100}, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return nil, fmt.Errorf("eviction threshold %v: %q: %w", signal, value, err)
	}
	if q.Sign() <= 0 {
		return nil, fmt.Errorf("eviction threshold %v must be positive: %s", signal, value)
	}
	return &Threshold{Signal: signal, Quantity: &q}, nil
}
