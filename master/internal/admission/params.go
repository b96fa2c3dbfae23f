package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// param is an object that a policy is given; nil for one that has none.
type param struct {
	namespace, name string
	value           map[string]any
}

// meant says whether a policy is about a request, and about which version of its objects.
func (b *Backend) meant(p *policy, a *attributes) (schema.GroupVersion, bool, error) {
	gv, ok := p.concerns(a)
	if !ok {
		return gv, false, nil
	}
	if ok, err := b.selects(&p.matcher, a); err != nil || !ok {
		return gv, false, err
	}
	if p.params != nil {
		if _, known := b.cfg.Table.ByKind(*p.params); !known {
			return gv, false, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", *p.params)
		}
	}
	return gv, true, nil
}

// paramsFor gives the parameters with which a binding puts its policy into force: none when it is not about the request, one
// that is nil when it gives none.
func (b *Backend) paramsFor(ctx context.Context, p *policy, bound *policyBinding, a *attributes) ([]*param, error) {
	if bound.matcher != nil {
		if _, ok := bound.concerns(a); !ok {
			return nil, nil
		}
		if ok, err := b.selects(bound.matcher, a); err != nil || !ok {
			return nil, err
		}
	}
	if p.params == nil || bound.params == nil {
		return []*param{nil}, nil
	}
	r, ok := b.cfg.Table.ByKind(*p.params)
	if !ok {
		return nil, fmt.Errorf("paramKind kind `%v` not known", *p.params)
	}
	found, err := b.findParams(ctx, r, bound, a)
	if err != nil {
		return nil, err
	}
	action := bound.params.ParameterNotFoundAction
	if len(found) == 0 && action != nil && *action == admissionv1.DenyAction {
		return nil, errors.New("no params found for policy binding with `Deny` parameterNotFoundAction")
	}
	out := make([]*param, 0, len(found))
	for _, obj := range found {
		v, err := b.cfg.Table.In(ctx, r, obj, p.params.GroupVersion())
		if err != nil {
			return nil, err
		}
		value, err := celValue(v)
		if err != nil {
			return nil, err
		}
		out = append(out, &param{obj.GetNamespace(), obj.GetName(), value})
	}
	return out, nil
}

func (b *Backend) findParams(ctx context.Context, r *resource.Resource, bound *policyBinding, a *attributes) ([]resource.Object, error) {
	namespace := bound.params.Namespace
	switch {
	case !r.Namespaced && namespace != "":
		return nil, errors.New("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
	case r.Namespaced && namespace == "":
		if namespace = a.ruleNamespace(); namespace == "" {
			return nil, errors.New("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources")
		}
	}
	if name := bound.params.Name; name != "" {
		obj, err := b.Get(ctx, r, namespace, name, "")
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []resource.Object{obj}, err
	}
	list, err := b.List(ctx, r, server.ListQuery{Namespace: namespace, Labels: bound.selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// sight is a request as expressions see it. Objects are converted when the first policy wants them in a version.
type sight struct {
	b      *Backend
	a      *attributes
	inputs map[schema.GroupVersion]resource.CELInput
}

func (s *sight) in(ctx context.Context, gv schema.GroupVersion) (resource.CELInput, error) {
	if in := s.inputs[gv]; in != nil {
		return in, nil
	}
	in, err := s.b.input(ctx, gv, s.a)
	if err != nil {
		return nil, err
	}
	if s.inputs == nil {
		s.inputs = map[schema.GroupVersion]resource.CELInput{}
	}
	s.inputs[gv] = in
	return in, nil
}

// withNamespace adds the namespace of what is in one.
func (s *sight) withNamespace(in resource.CELInput) error {
	if in["namespaceObject"] != nil || s.a.namespace == "" || s.a.isNamespace() {
		return nil
	}
	ns, err := s.b.namespace(s.a.namespace)
	if err != nil {
		return err
	}
	in["namespaceObject"], err = namespaceValue(ns)
	return err
}

// namespaceValue shows expressions what their type of namespaces has.
func namespaceValue(ns *corev1.Namespace) (map[string]any, error) {
	return runtime.DefaultUnstructuredConverter.ToUnstructured(&corev1.Namespace{
		Spec: ns.Spec, Status: ns.Status,
		ObjectMeta: metav1.ObjectMeta{
			Name: ns.Name, GenerateName: ns.GenerateName, UID: ns.UID, ResourceVersion: ns.ResourceVersion, Generation: ns.Generation,
			CreationTimestamp: ns.CreationTimestamp, DeletionTimestamp: ns.DeletionTimestamp, DeletionGracePeriodSeconds: ns.DeletionGracePeriodSeconds,
			Labels: ns.Labels, Annotations: ns.Annotations, Finalizers: ns.Finalizers,
		},
	})
}

// with adds a parameter to what expressions see.
func with(in resource.CELInput, p *param) resource.CELInput {
	out := maps.Clone(in)
	out["params"] = nil
	if p != nil {
		out["params"] = p.value
	}
	return out
}
