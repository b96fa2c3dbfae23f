package node

import (
	"maps"
	"testing"
	"time"
)

func TestConfirmedDead(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, tt := range []struct {
		dead map[string]time.Time
		want map[string]bool
		next time.Duration
	}{
		{nil, map[string]bool{}, 0},
		{map[string]time.Time{"a": ago(time.Second)}, map[string]bool{"a": true}, 0},
		{map[string]time.Time{"a": now}, map[string]bool{}, confirmDead},
		{map[string]time.Time{"a": ago(time.Hour), "b": ago(100 * time.Millisecond), "c": now}, map[string]bool{"a": true}, confirmDead - 100*time.Millisecond},
	} {
		got, next := confirmed(tt.dead, now)
		if !maps.Equal(got, tt.want) || next != tt.next {
			t.Errorf("%v: %v, %v", tt.dead, got, next)
		}
	}
}
