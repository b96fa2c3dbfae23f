package custom

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Replicas reads what the scale subresource of this version shows of an object of it.
func (v *Version) Replicas(u *unstructured.Unstructured) (spec, status int32, selector string, err error) {
	s := v.scale()
	if s == nil {
		return 0, 0, "", fmt.Errorf("%s has no scale", v.GVK)
	}
	wanted, found, err := unstructured.NestedInt64(u.Object, splitPath(s.SpecReplicasPath)...)
	switch {
	case err != nil:
		return 0, 0, "", err
	case !found:
		return 0, 0, "", apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", s.SpecReplicasPath))
	}
	there, _, err := unstructured.NestedInt64(u.Object, splitPath(s.StatusReplicasPath)...)
	if err != nil {
		return 0, 0, "", err
	}
	if s.LabelSelectorPath != nil {
		if selector, _, err = unstructured.NestedString(u.Object, splitPath(*s.LabelSelectorPath)...); err != nil {
			return 0, 0, "", err
		}
	}
	return int32(wanted), int32(there), selector, nil
}

// SetReplicas puts the wanted number into an object of this version.
func (v *Version) SetReplicas(u *unstructured.Unstructured, n int32) error {
	s := v.scale()
	if s == nil {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: v.GVK.Group, Resource: v.Kind.Names.Plural}, "update")
	}
	return unstructured.SetNestedField(u.Object, int64(n), splitPath(s.SpecReplicasPath)...)
}
