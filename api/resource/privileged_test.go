package resource

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Privileged containers are allowed, as on every cluster whose API server has --allow-privileged: file servers, network
// plugins and node agents are such.
func TestPrivilegedIsAllowed(t *testing.T) {
	pod := created(t, `{apiVersion: v1, kind: Pod, metadata: {name: nfs, namespace: default}, spec: {
  initContainers: [{name: i, image: i, securityContext: {privileged: true}}],
  containers: [{name: c, image: i, securityContext: {privileged: true}}]}}`).(*corev1.Pod)
	if errs := rulesOf(t, pod).Validate(t.Context(), pod); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
}
