package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// What the user was told is tried again but not logged as trouble.
func TestToldErrorsAreQuiet(t *testing.T) {
	err := errors.New("exceeded quota")
	if Told(nil) != nil || !errors.Is(Told(err), err) {
		t.Error("Told changes what an error is")
	}
	for _, test := range []struct {
		err  error
		logs bool
	}{{err, true}, {Told(err), false}, {fmt.Errorf("pods: %w", Told(err)), false}} {
		var log strings.Builder
		l := New(Config{
			Name: "test", Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Reconcile: func(context.Context, Key) (time.Duration, error) { return 0, test.err },
		})
		for range quietFailures {
			l.turn(t.Context(), Key{Name: "x"})
		}
		if got := strings.Contains(log.String(), "reconcile failed"); got != test.logs {
			t.Errorf("%T: logged %v", test.err, got)
		}
		if l.failures[Key{Name: "x"}] != quietFailures || l.queue.due[Key{Name: "x"}] == nil {
			t.Errorf("%T: not tried again", test.err)
		}
	}
}
