package clustertest

import (
	"testing"
	"time"

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

// What every cluster has comes back when somebody deletes it: pods reach the API by it.
func TestOwnObjectsComeBack(t *testing.T) {
	run(t, 0, func(c *cluster) {
		if err := c.kube.CoreV1().Services("default").Delete(c.ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := c.kube.DiscoveryV1().EndpointSlices("default").Delete(c.ctx, "kubernetes", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if svc, err := c.kube.CoreV1().Services("default").Get(c.ctx, "kubernetes", metav1.GetOptions{}); err != nil || svc.Spec.ClusterIP != "10.254.0.1" {
			t.Errorf("%v, %v", svc, err)
		}
		if ep, err := c.kube.CoreV1().Endpoints("default").Get(c.ctx, "kubernetes", metav1.GetOptions{}); err != nil || len(ep.Subsets) != 1 {
			t.Errorf("%v, %v", ep, err)
		}
		if _, err := c.kube.DiscoveryV1().EndpointSlices("default").Get(c.ctx, "kubernetes", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
}
