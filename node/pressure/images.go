package pressure

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// ImagePolicy says when images are removed. The zero value is not valid; see DefaultImagePolicy.
type ImagePolicy struct {
	// High and Low: when that much of the disk is used, in percent, unused images go until no more than Low is. A High of
	// 100 turns it off.
	High, Low int
	// MinAge: an image that came later than that is left alone; a container may be about to use it.
	MinAge time.Duration
}

// DefaultImagePolicy is the kubelet's.
func DefaultImagePolicy() ImagePolicy { return ImagePolicy{High: 85, Low: 80, MinAge: 2 * time.Minute} }

// Validate in the kubelet's words.
func (p ImagePolicy) Validate() error {
	switch {
	case p.High < 0 || p.High > 100:
		return fmt.Errorf("invalid HighThresholdPercent %d, must be in range [0-100]", p.High)
	case p.Low < 0 || p.Low > 100:
		return fmt.Errorf("invalid LowThresholdPercent %d, must be in range [0-100]", p.Low)
	case p.Low > p.High:
		return fmt.Errorf("LowThresholdPercent %d can not be higher than HighThresholdPercent %d", p.Low, p.High)
	}
	return nil
}

// Used is how much of the disk is used, in percent.
func Used(o Observation) int {
	if o.Capacity <= 0 {
		return 0
	}
	return 100 - int(float64(min(o.Available, o.Capacity))*100/float64(o.Capacity))
}

// Due tells whether images are to be removed.
func (p ImagePolicy) Due(o Observation) bool {
	return p.High < 100 && o.Capacity > 0 && Used(o) >= p.High
}

// Excess is how many bytes are to be freed to come down to Low.
func (p ImagePolicy) Excess(o Observation) int64 {
	return max(int64(float64(o.Capacity)*float64(100-p.Low)/100)-o.Available, 0)
}

// Insufficient is what is told when removing images did not help enough.
func Insufficient(o Observation, freed int64) string {
	return fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
		"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
		"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", Used(o), size(o.Capacity), freed)
}

// size for people, as the kubelet writes it.
func size(n int64) string {
	value, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// Images remembers since when each image is here, and when it was used last. The zero value knows none.
type Images struct {
	known map[string]*record // by ID
}

type record struct{ first, used time.Time }

// Note what images there are, and which of them are used. Those that are there at the first time have been there for long: an
// agent that starts on a full disk must not evict pods because it does not know that.
func (k *Images) Note(now time.Time, images []runtime.Image, used map[string]bool) {
	first := now
	if k.known == nil {
		k.known, first = map[string]*record{}, time.Time{}
	}
	here := make(map[string]bool, len(images))
	for i := range images {
		id := images[i].ID
		here[id] = true
		r := k.known[id]
		if r == nil {
			r = &record{first: first}
			k.known[id] = r
		}
		if used[id] {
			r.used = now
		}
	}
	for id := range k.known {
		if !here[id] {
			delete(k.known, id)
		}
	}
}

// Removable lists the images that may go, in the order in which they should: least recently used first. An image that did not
// come from a registry (it was built or loaded here) goes after all others: nobody could pull it again.
func (k *Images) Removable(now time.Time, images []runtime.Image, used map[string]bool, minAge time.Duration) []runtime.Image {
	var out []runtime.Image
	for _, image := range images {
		r := k.known[image.ID]
		if r == nil || used[image.ID] || image.Pinned || now.Sub(r.first) < minAge {
			continue
		}
		out = append(out, image)
	}
	slices.SortFunc(out, func(a, b runtime.Image) int {
		x, y := k.known[a.ID], k.known[b.ID]
		return cmp.Or(-trueFirst(homemade(a), homemade(b)), x.used.Compare(y.used), x.first.Compare(y.first),
			cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// homemade: it has a name and no registry's digest. One without a name is the rest of one whose name another took.
func homemade(i runtime.Image) bool { return len(i.Digests) == 0 && len(i.Tags) > 0 }
