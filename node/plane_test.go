package node

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestNamesAreServedUntilTheRestHasEnded(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name       string
		last, rest error // at once
		want       []string
	}{
		{"in order", nil, nil, []string{"rest", "last"}},
		{"the rest fails", nil, broken, []string{"rest", "last"}},
		{"the last fails", broken, nil, []string{"last", "rest"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var ended []string
			part := func(name string, err error, takes time.Duration) func(context.Context) error {
				return func(ctx context.Context) error {
					if err == nil {
						<-ctx.Done()
						time.Sleep(takes)
					}
					ended = append(ended, name)
					return err
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := outlive(ctx, part("last", c.last, 0), part("rest", c.rest, 2*time.Second))
			if want := errors.Join(c.last, c.rest); (err == nil) != (want == nil) || !slices.Equal(ended, c.want) {
				t.Errorf("%s: %v, ended %q", c.name, err, ended)
			}
			if c.want != nil && errors.Is(err, broken) && ctx.Err() != nil {
				t.Errorf("%s: noticed late", c.name)
			}
		})
	}
}
