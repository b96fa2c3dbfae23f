package master

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// checkRanges refuses addresses other than those that the cluster was made with: its Services and nodes keep theirs, and
// what is outside a range would be reached by nobody, silently.
func (m *Master) checkRanges() error {
	return m.registry.View(func(v *registry.View) error {
		api := m.cfg.ServiceCIDR.Masked().Addr().Next()
		if err := sameClusterIP(v, metav1.NamespaceDefault, apiName, "--service-cidr", m.cfg.ServiceCIDR.String(), api); err != nil {
			return err
		}
		if err := sameClusterIP(v, metav1.NamespaceSystem, dnsName, "--dns-ip", m.cfg.DNSIP.String(), m.cfg.DNSIP); err != nil {
			return err
		}
		for n := range registry.List[*corev1.Node](v, "") {
			part, err := netip.ParsePrefix(n.Spec.PodCIDR)
			if err == nil && !m.cfg.PodCIDR.Contains(part.Addr()) {
				return fmt.Errorf("--pod-cidr %s: node %s of this cluster has %s, which lies outside; start with the range that the cluster was made with, or delete the nodes first (wpctl delete node NAME) and let them join again", m.cfg.PodCIDR, n.Name, part)
			}
		}
		return nil
	})
}

func sameClusterIP(v *registry.View, namespace, name, flag, value string, want netip.Addr) error {
	svc, err := registry.Get[*corev1.Service](v, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil // a new cluster
	}
	if err != nil {
		return err
	}
	if have, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil && have != want {
		return fmt.Errorf("%s %s: Service %s/%s of this cluster has the address %s, with that flag it would be %s; start with the value that the cluster was made with, or with an empty --data-dir for a new cluster", flag, value, namespace, name, have, want)
	}
	return nil
}
