package node

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// At boot the file may be written after the agent has started.
func TestNameServersAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		a := &Agent{cfg: Config{ResolvConf: file}, log: slog.New(slog.DiscardHandler)}
		var got []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- a.followUpstreams(ctx, &cluster{dns: netip.MustParseAddr("10.254.254.1")}, func(u []string) { got = u })
		}()
		for _, step := range []struct {
			text string
			want []string
		}{
			{"", nil},
			{"search lan\nnameserver 192.0.2.1\nnameserver 10.254.254.1\n", []string{"192.0.2.1"}},
			{"nameserver 192.0.2.2\nnameserver 192.0.2.3\n", []string{"192.0.2.2", "192.0.2.3"}},
		} {
			if step.text != "" {
				if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(resolvCheck + time.Second)
			synctest.Wait()
			if !slices.Equal(got, step.want) {
				t.Errorf("%q: %v, want %v", step.text, got, step.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
