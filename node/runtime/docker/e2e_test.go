//go:build e2e

package docker

import (
	"strconv"
	"sync/atomic"
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

// The oldest API we promise to work with, of Docker Engine 1.13 on CentOS 7, as today's engine speaks it.
func TestContractOldAPI(t *testing.T) {
	d := startDockerd(t)
	runtimetest.Run(t, runtimetest.Env{
		Image: testImage,
		New: func(t *testing.T, node string) runtime.Engine {
			e, _ := d.counted(t, node+strconv.Itoa(int(sockets.Add(1))), "1.25")
			e.node = node
			t.Cleanup(func() {
				if v := e.cli.Load().ClientVersion(); v != "1.25" {
					t.Errorf("spoke version %s of the API", v)
				}
			})
			return e
		},
		Restart: func(t *testing.T) { d.restart(t, syscall.SIGTERM) },
	})
}

// sockets numbers those of proxies.
var sockets atomic.Int64
