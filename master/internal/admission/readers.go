package admission

import (
	"context"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// groupMasters may read everything anyway.
const groupMasters = user.SystemPrivilegedGroup

// grasp is what a policy or binding lets its writer see: a policy's messages may tell what its parameters say.
type grasp struct {
	policy string // of a binding
	kind   *admissionv1.ParamKind
	ref    *admissionv1.ParamRef
}

// graspOf gives it; false for other kinds.
func graspOf(obj resource.Object) (g grasp, ok bool) {
	switch o := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return grasp{kind: o.Spec.ParamKind}, true
	case *admissionv1.MutatingAdmissionPolicy:
		return grasp{kind: o.Spec.ParamKind}, true
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return grasp{policy: o.Spec.PolicyName, ref: o.Spec.ParamRef}, true
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return grasp{policy: o.Spec.PolicyName, ref: o.Spec.ParamRef}, true
	}
	return grasp{}, false
}

// mayRead is a check that the writer of a policy or binding may read the parameters that it names; nil when that need not
// be asked.
func (b *Backend) mayRead(r *resource.Resource, o *server.WriteOptions) func(context.Context, resource.Object, resource.Object) error {
	if b.cfg.Authorize == nil || slices.Contains(o.User.Groups, groupMasters) || !slices.Contains(policyTables[:], r.Key()) {
		return nil
	}
	who := o.User
	return func(_ context.Context, obj, old resource.Object) error {
		g, ok := graspOf(obj)
		if !ok || g.kind == nil && g.ref == nil {
			return nil
		}
		if before, ok := graspOf(old); ok && apiequality.Semantic.DeepEqual(g, before) {
			return nil
		}
		path, err := field.NewPath("spec", "paramKind"), error(nil)
		if g.ref != nil {
			path, err = field.NewPath("spec", "paramRef"), b.mayReadRef(who, g, obj)
		} else {
			err = b.mayReadKind(who, g.kind)
		}
		if err == nil {
			return nil
		}
		return apierrors.NewInvalid(r.GroupVersionKind().GroupKind(), obj.GetName(), field.ErrorList{field.Forbidden(path, err.Error())})
	}
}

// question about a kind's objects; an unknown kind is a question about everything.
func (b *Backend) readingOf(kind *admissionv1.ParamKind) server.Attributes {
	a := server.Attributes{Group: "*", Version: "*", Resource: "*"}
	if kind == nil {
		return a
	}
	gvk := schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind)
	a.Group, a.Version = gvk.Group, gvk.Version
	if r, ok := b.cfg.Table.ByKind(gvk); ok {
		a.Resource = r.Name
	}
	return a
}

func (b *Backend) mayReadKind(who server.User, kind *admissionv1.ParamKind) error {
	a := b.readingOf(kind)
	a.Verb, a.Name, a.Namespace = "get", "*", "*"
	if ok, _ := b.cfg.Authorize(who, a); ok {
		return nil
	}
	return fmt.Errorf("user %v must have \"get\" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)", who.Name, kind.Kind, kind.APIVersion)
}

func (b *Backend) mayReadRef(who server.User, g grasp, binding resource.Object) error {
	kind, err := b.paramKind(g.policy, binding)
	a := b.readingOf(kind)
	a.Verb, a.Name, a.Namespace = "get", g.ref.Name, g.ref.Namespace
	if g.ref.Name == "" {
		a.Verb = "list"
	}
	if ok, _ := b.cfg.Authorize(who, a); ok {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unable to get policy %s to determine minimum required permissions and user %v does not have \"%v\" permission for all groups, versions and resources",
			g.policy, who.Name, a.Verb)
	}
	return fmt.Errorf("user %v does not have \"%v\" permission on the object referenced by paramRef", who.Name, a.Verb)
}

// paramKind is that of the policy that a binding names.
func (b *Backend) paramKind(name string, binding resource.Object) (kind *admissionv1.ParamKind, err error) {
	err = b.cfg.Registry.View(func(v *registry.View) error {
		if _, ok := binding.(*admissionv1.MutatingAdmissionPolicyBinding); ok {
			p, err := registry.Get[*admissionv1.MutatingAdmissionPolicy](v, "", name)
			if err == nil {
				kind = p.Spec.ParamKind
			}
			return err
		}
		p, err := registry.Get[*admissionv1.ValidatingAdmissionPolicy](v, "", name)
		if err == nil {
			kind = p.Spec.ParamKind
		}
		return err
	})
	return kind, err
}
