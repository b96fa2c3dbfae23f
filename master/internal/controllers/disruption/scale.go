package disruption

import (
	"context"
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/api/resource"
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
	res, ok := c.registry.Table().ByKind(gvk)
	if !ok {
		return "", 0, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}}
	}
	replicas := c.replicas(res, gvk.GroupVersion())
	if replicas == nil {
		return "", 0, fmt.Errorf("%s does not implement the scale subresource", res.GroupResource())
	}
	obj, err := registry.Lookup(v, registry.Key{Resource: res.Key(), Namespace: namespace, Name: ref.Name})
	switch {
	case apierrors.IsNotFound(err):
		return "", 0, nil
	case err != nil:
		return "", 0, err
	case obj.GetUID() != ref.UID:
		return "", 0, nil
	}
	if res.Kind == "ReplicaSet" {
		if above := metav1.GetControllerOfNoCopy(obj); above != nil && above.Kind == "Deployment" {
			if uid, n, err := c.scaleOfOwner(v, namespace, above); err == nil && uid != "" {
				return uid, n, nil
			}
		}
	}
	n, err := replicas(obj)
	return obj.GetUID(), n, err
}

// replicas gives what reads how many pods a stored object wants; nil for kinds without a scale.
func (c *Controller) replicas(res *resource.Resource, gv schema.GroupVersion) func(registry.Object) (int32, error) {
	if !res.IsCustom() {
		scale := res.Rules().Scale
		if scale == nil {
			return nil
		}
		return func(obj registry.Object) (int32, error) {
			n, _, _ := scale.Get(obj)
			return n, nil
		}
	}
	// In the version that the pods name, unless a webhook would have to be asked for it.
	if _, ok := res.SubresourceIn(res.Storage, "scale"); ok && res.AsksWebhook() {
		gv = res.Storage
	}
	if _, ok := res.SubresourceIn(gv, "scale"); !ok {
		return nil
	}
	if of, ok := c.registry.Table().Lookup(gv, res.Name); ok && of.SameDefinition(res) {
		res = of
	}
	return func(obj registry.Object) (int32, error) {
		if stored := obj.GetObjectKind().GroupVersionKind().GroupVersion(); res.AsksWebhook() && stored != gv {
			return 0, fmt.Errorf("the scale of %s %q cannot be read: it is kept as %s, and only a webhook can convert it to %s; write it anew",
				res.GroupResource(), obj.GetName(), stored, gv)
		}
		objs, err := res.ReadShared(context.Background(), obj) // asks nobody
		if err != nil {
			return 0, err
		}
		n, _, _, err := res.Replicas(objs[0], gv)
		return n, err
	}
}
