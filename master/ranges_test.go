package master

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// A cluster's addresses do not change with the flags of a later start.
func TestRangesAreTheClusters(t *testing.T) {
	dir := t.TempDir()
	m, stop := start(t, dir)
	for end := time.Now().Add(20 * time.Second); m.checkBootstrapped() != nil; {
		if time.Now().After(end) {
			t.Fatal("not bootstrapped")
		}
		<-time.After(10 * time.Millisecond)
	}
	if err := m.registry.Transact(t.Context(), func(tx *registry.Tx) error {
		_, err := registry.Create(tx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.3.0/24", PodCIDRs: []string{"10.244.3.0/24"}}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	stop()
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"services": {func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/12") }, "--service-cidr 10.96.0.0/12: Service default/kubernetes of this cluster has the address 10.254.0.1"},
		"dns":      {func(c *Config) { c.DNSIP = netip.MustParseAddr("10.254.0.10") }, "--dns-ip 10.254.0.10: Service kube-system/kube-dns"},
		"pods":     {func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.200.0.0/16") }, "--pod-cidr 10.200.0.0/16: node n1 of this cluster has 10.244.3.0/24"},
		"the same": {func(*Config) {}, ""},
		"larger":   {func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.240.0.0/12") }, ""},
	} {
		cfg := config(dir)
		test.change(&cfg)
		again, err := New(cfg)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			again.store.Close()
		}
	}
}
