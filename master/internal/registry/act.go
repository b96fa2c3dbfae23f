package registry

import (
	"context"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// Act implements server.Backend.
func (r *Registry) Act(ctx context.Context, res *resource.Resource, sub, namespace, name string, body runtime.Object, o server.WriteOptions) (runtime.Object, error) {
	switch b := body.(type) {
	case *corev1.Binding:
		return r.actBinding(ctx, namespace, name, b, o)
	case *policyv1.Eviction:
		return r.actEviction(ctx, res, namespace, name, b, o)
	case *authenticationv1.TokenRequest:
		return r.actToken(namespace, name, b, o)
	}
	if b, ok := rollbackOf(body); ok {
		return r.actRollback(ctx, res, namespace, name, b, o)
	}
	return nil, apierrors.NewMethodNotSupported(res.GroupResource(), "create "+sub)
}

func success() *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess, Code: 201,
	}
}

func (r *Registry) actBinding(ctx context.Context, namespace, name string, b *corev1.Binding, o server.WriteOptions) (runtime.Object, error) {
	if b.Target.Name == "" || (b.Target.Kind != "" && b.Target.Kind != "Node") {
		return nil, apierrors.NewBadRequest("a binding needs a target of kind Node with a name")
	}
	if name == "" {
		name = b.Name
	}
	err := r.Transact(ctx, func(tx *Tx) error {
		pod, err := Get[*corev1.Pod](tx, namespace, name)
		if err != nil {
			return err
		}
		if err := tx.bind(pod, b); err != nil {
			return err
		}
		if o.DryRun {
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	return success(), nil
}
