package endpoints

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Whose events these are in Kubernetes.
const (
	mirrorComponent = "endpoint-slice-mirroring-controller"
	sliceComponent  = "endpoint-slice-controller"
)

// tell says which addresses of hand-written Endpoints nobody will be sent to, and what became of the wish that traffic stay
// in its zone.
func (c *Controller) tell(w *writes) {
	if w.invalid > 0 {
		c.registry.Record(w.mirror, corev1.EventTypeWarning, "InvalidIPAddress",
			fmt.Sprintf("Skipped %d invalid IP addresses when mirroring to EndpointSlices", w.invalid), mirrorComponent)
	}
	if w.skipped > 0 {
		c.registry.Record(w.mirror, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			fmt.Sprintf("A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxMirrored, w.skipped+w.invalid), mirrorComponent)
	}
	switch w.problem {
	case "":
	case topologyEnabled:
		c.registry.Record(w.service, corev1.EventTypeNormal, "TopologyAwareHintsEnabled",
			fmt.Sprintf("%s, addressType: %s", topologyEnabled, discoveryv1.AddressTypeIPv4), sliceComponent)
	default:
		c.registry.Record(w.service, corev1.EventTypeWarning, "TopologyAwareHintsDisabled", w.problem, sliceComponent)
	}
}
