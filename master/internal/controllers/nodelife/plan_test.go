package nodelife

import (
	"testing"
	"time"
)

// TestFind is the table of the package's documentation.
func TestFind(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const limit = 40 * time.Second
	long, short := now.Add(-limit), now.Add(-10*time.Second)
	for name, test := range map[string]struct {
		w    witness
		want finding
	}{
		"session alive, gossip silent":         {witness{session: true}, finding{}},
		"session alive, gossip alive":          {witness{session: true, known: true, alive: true}, finding{}},
		"session alive, gossip dead":           {witness{session: true, known: true}, finding{lost: true}},
		"session gone, gossip dead":            {witness{known: true, goneSince: now}, finding{lost: true, moved: true}},
		"session gone lately, gossip alive":    {witness{known: true, alive: true, goneSince: short}, finding{undecided: true, again: 30 * time.Second}},
		"session gone for long, gossip alive":  {witness{known: true, alive: true, goneSince: long}, finding{lost: true}},
		"session gone lately, gossip silent":   {witness{goneSince: short}, finding{undecided: true, again: 30 * time.Second}},
		"session gone for long, gossip silent": {witness{goneSince: long}, finding{lost: true, moved: true}},
	} {
		if got := find(now, test.w, limit); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}
