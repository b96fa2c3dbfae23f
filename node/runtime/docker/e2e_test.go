//go:build e2e

package docker

import (
	"syscall"
	"testing"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/runtimetest"
)

func TestContract(t *testing.T) {
	d := startDockerd(t)
	runtimetest.Run(t, runtimetest.Env{
		Image:   testImage,
		New:     func(t *testing.T, node string) runtime.Engine { return d.engine(t, node) },
		Restart: func(t *testing.T) { d.restart(t, syscall.SIGTERM) },
	})
}
