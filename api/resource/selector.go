package resource

import (
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// FieldSelector checks a client's field selector and turns its labels, which belong to the version the client speaks,
// into those of Rules.Fields (events.k8s.io says regarding.name where v1 says involvedObject.name). The error is a
// BadRequest in Kubernetes' words.
func (t *Table) FieldSelector(r *Resource, gv schema.GroupVersion, s fields.Selector) (fields.Selector, error) {
	if s == nil || s.Empty() {
		return s, nil
	}
	out, err := s.Transform(func(label, value string) (string, string, error) {
		if r.custom != nil {
			return r.customFieldLabel(gv, label, value)
		}
		return t.scheme.ConvertFieldLabel(gv.WithKind(r.Kind), label, value)
	})
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return out, nil
}
