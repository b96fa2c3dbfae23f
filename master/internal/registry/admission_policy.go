package registry

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
)

// observe completes a valid object with what is found out about it, outside of any transaction; old is nil for a new one.
// Kubernetes has a controller for the status of policies, which comes to the same a moment later.
func (r *Registry) observe(obj, old Object) {
	p, ok := obj.(*admissionv1.ValidatingAdmissionPolicy)
	if ok && (old == nil || old.GetGeneration() != p.Generation) {
		r.cfg.Table.ObservePolicy(p)
	}
}
