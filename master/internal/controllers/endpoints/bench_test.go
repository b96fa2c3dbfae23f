package endpoints

import (
	"fmt"
	"testing"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// BenchmarkLook is the price of a pod's change: its Service compared with the pods of a namespace that has many.
func BenchmarkLook(b *testing.B) {
	for _, pods := range []int{100, 5000} {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			e := ct.New(b)
			ct.Create(e, service("web"))
			for i := 0; i < pods; i += 100 {
				e.Update(func(tx *registry.Tx) error {
					for j := range 100 {
						p := ct.Pod(fmt.Sprintf("p%d", i+j), map[string]string{"app": "other"})
						if i == 0 && j < 10 {
							p.Labels["app"] = "web"
							p.Status.PodIP = fmt.Sprintf("10.244.0.%d", j+2)
						}
						if _, err := registry.Create(tx, p); err != nil {
							return err
						}
					}
					return nil
				})
			}
			b.ResetTimer()
			for range b.N {
				_ = e.Registry.View(func(v *registry.View) error {
					_, err := look(v, keyOf("default", "web"))
					return err
				})
			}
		})
	}
}
