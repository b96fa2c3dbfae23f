package disruption

import (
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// scaleOf adds up how many pods the controllers of these pods want, each once.
func (c *Controller) scaleOf(v registry.Viewer, pods []*corev1.Pod) (replicas int32, unmanaged bool, err error) {
	seen := map[types.UID]int32{} // by the pods' own controllers: of a Deployment each ReplicaSet
	known := map[types.UID]bool{}
	sum := int64(0)
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = true
			continue
		}
		if _, ok := seen[ref.UID]; ok {
			continue
		}
		owner, n, err := c.scaleOfOwner(v, pod.Namespace, ref)
		if err != nil {
			return 0, false, err
		}
		if owner == "" {
			return 0, false, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		seen[ref.UID] = n
		if !known[owner] {
			known[owner] = true
			sum += int64(n)
		}
	}
	return int32(min(sum, math.MaxInt32)), unmanaged, nil
}

// scaleOfOwner asks the controller, or the Deployment that controls it. The UID is empty when it is not there any more.
func (c *Controller) scaleOfOwner(v registry.Viewer, namespace string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	scaled, err := c.registry.ScaledBy(gvk)
	if err != nil {
		return "", 0, err
	}
	obj, err := registry.Lookup(v, registry.Key{Resource: scaled.Resource, Namespace: namespace, Name: ref.Name})
	switch {
	case apierrors.IsNotFound(err):
		return "", 0, nil
	case err != nil:
		return "", 0, err
	case obj.GetUID() != ref.UID:
		return "", 0, nil
	}
	if scaled.Kind == "ReplicaSet" {
		if above := metav1.GetControllerOfNoCopy(obj); above != nil && above.Kind == "Deployment" {
			if uid, n, err := c.scaleOfOwner(v, namespace, above); err == nil && uid != "" {
				return uid, n, nil
			}
		}
	}
	n, err := scaled.Replicas(obj)
	return obj.GetUID(), n, err
}
