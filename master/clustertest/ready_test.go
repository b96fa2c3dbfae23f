package clustertest

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A master that calls itself ready has what every cluster has: scripts go on with `kubectl create` at once.
func TestReadyMeansBootstrapped(t *testing.T) {
	run(t, 0, func(c *cluster) {
		if body, err := c.kube.RESTClient().Get().AbsPath("/readyz/bootstrap").DoRaw(c.ctx); err != nil || string(body) != "ok" {
			t.Fatalf("%q, %v", body, err)
		}
		for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
			if _, err := c.kube.CoreV1().Namespaces().Get(c.ctx, name, metav1.GetOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
}
