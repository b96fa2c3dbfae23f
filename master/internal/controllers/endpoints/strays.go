package endpoints

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// slicesOf are this package's slices of a Service. Its own are those that it owns, or that the Endpoints of its name (nil if
// there are none) do, whatever their labels have been made to say: they are what there is to write into. Strays only bear its
// name: from a Service of that name that was deleted without its dependents, or put back by a backup. Whoever looks for
// endpoints goes by the name and believes them, and nobody else would ever remove them.
func slicesOf(v registry.Viewer, svc *corev1.Service, ep *corev1.Endpoints) (existing, strays []*discoveryv1.EndpointSlice) {
	mine := map[string]bool{}
	take := func(owner metav1.Object) {
		for s := range registry.ByIndex[*discoveryv1.EndpointSlice](v, registry.IndexOwner, string(owner.GetUID())) {
			if own(s) && s.DeletionTimestamp == nil && !mine[s.Name] {
				mine[s.Name] = true
				existing = append(existing, s)
			}
		}
	}
	take(svc)
	if ep != nil {
		take(ep) // from when the Service had no selector, or has none
	}
	for s := range registry.ByIndex[*discoveryv1.EndpointSlice](v, registry.IndexService, registry.ServiceValue(svc.Namespace, svc.Name)) {
		if own(s) && s.DeletionTimestamp == nil && !mine[s.Name] {
			strays = append(strays, s)
		}
	}
	return existing, strays
}
