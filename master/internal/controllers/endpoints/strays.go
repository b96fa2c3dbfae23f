package endpoints

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// slicesOf are this package's slices of a Service. Its own are those that it owns, or that the Endpoints of its name (nil if
// there are none) do, whatever their labels have been made to say: they are what there is to write into. Strays only bear its
// name: from a Service of that name that was deleted without its dependents, or put back by a backup. Whoever looks for
// endpoints goes by the name and believes them, and nobody else would ever remove them.
func slicesOf(v registry.Viewer, svc *corev1.Service, ep *corev1.Endpoints) (existing, strays []*discoveryv1.EndpointSlice) {
	for s := range registry.ByIndex[*discoveryv1.EndpointSlice](v, registry.IndexOwner, string(svc.UID)) {
		if own(s) && s.DeletionTimestamp == nil {
			existing = append(existing, s)
		}
	}
	if ep != nil { // from when the Service had no selector, or has none
		for s := range registry.ByIndex[*discoveryv1.EndpointSlice](v, registry.IndexOwner, string(ep.UID)) {
			if own(s) && s.DeletionTimestamp == nil && !ownedBy(s, svc.UID) {
				existing = append(existing, s)
			}
		}
	}
	for s := range registry.ByIndex[*discoveryv1.EndpointSlice](v, registry.IndexService, registry.ServiceValue(svc.Namespace, svc.Name)) {
		if own(s) && s.DeletionTimestamp == nil && !ownedBy(s, svc.UID) && (ep == nil || !ownedBy(s, ep.UID)) {
			strays = append(strays, s)
		}
	}
	return existing, strays
}

func ownedBy(s *discoveryv1.EndpointSlice, uid types.UID) bool {
	return slices.ContainsFunc(s.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == uid })
}
