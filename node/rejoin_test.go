package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A node that starts takes part in the gossip when its pods are as the others believe, or when the others know better.
func TestAwaitPods(t *testing.T) {
	const never = time.Hour
	for _, c := range []struct {
		name                    string
		looked, asBefore, saved time.Duration
		want                    time.Duration
		ok                      bool
	}{
		{"the agent has started again, without a master", 0, 0, never, 0, true},
		{"pods come back, without a master", time.Second, 3 * time.Second, never, 3 * time.Second, true},
		{"the master knows that they are not there", 2 * time.Second, never, 0, 2 * time.Second, true},
		{"the master hears of it late", time.Second, never, 4 * time.Second, 4 * time.Second, true},
		{"pods do not come back, without a master", time.Second, never, never, podPatience, false},
		{"no container engine", never, never, 0, podPatience, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				over := func(d time.Duration) bool { return time.Since(began) >= d }
				ok := awaitPods(t.Context(), func() (bool, bool) { return over(c.looked), over(c.asBefore) }, func() bool { return over(c.saved) })
				if took := time.Since(began); took != c.want || ok != c.ok {
					t.Errorf("%v after %s, want %v after %s", ok, took, c.ok, c.want)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		if awaitPods(ctx, func() (bool, bool) { return false, false }, func() bool { return false }) || time.Since(began) != time.Second {
			t.Error("an agent that ends waits for its pods")
		}
	})
}
