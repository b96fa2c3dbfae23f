package docker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// A process that takes long to start has its terminal's size all the same, and the newest one.
func TestSizeIsToldUntilTheProcessIsThere(t *testing.T) {
	for _, hangsUp := range []bool{false, true} { // whether the client has no more sizes to tell
		synctest.Test(t, func(t *testing.T) {
			began, calls := time.Now(), 0
			var told []runtime.Size
			sizes := make(chan runtime.Size)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				followSize(ctx, sizes, func(_ context.Context, size runtime.Size) error {
					calls++
					if time.Since(began) < 30*time.Second {
						return errors.New("process does not exist")
					}
					told = append(told, size)
					return nil
				})
			}()
			sizes <- runtime.Size{Width: 80, Height: 24}
			sizes <- runtime.Size{Width: 97, Height: 31}
			if hangsUp {
				close(sizes)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(told) != 1 || told[0] != (runtime.Size{Width: 97, Height: 31}) {
				t.Errorf("told: %v", told)
			}
			if calls > 50 {
				t.Errorf("the engine was asked %d times in 30 s", calls)
			}
			if !hangsUp {
				sizes <- runtime.Size{} // says nothing
				sizes <- runtime.Size{Width: 131, Height: 52}
				synctest.Wait()
				if len(told) != 2 || told[1].Width != 131 {
					t.Errorf("told: %v", told)
				}
			}
			cancel()
			<-ended
		})
	}
}

// Of a process that never takes a size, nobody is asked any more when the session has ended.
func TestSizeIsNotToldAfterTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		sizes, calls, ended := make(chan runtime.Size, 1), 0, make(chan struct{})
		go func() {
			defer close(ended)
			followSize(ctx, sizes, func(context.Context, runtime.Size) error { calls++; return errors.New("no terminal") })
		}()
		sizes <- runtime.Size{Width: 80, Height: 24}
		time.Sleep(time.Minute)
		cancel()
		<-ended
		if calls < 50 || calls > 70 {
			t.Errorf("asked %d times in a minute", calls)
		}
	})
}
