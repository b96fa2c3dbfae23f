package admission

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	admissionapi "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/library"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// expression is compiled, or cannot be for a reason.
type expression struct {
	program *resource.CELProgram
	err     error
}

func compiled(program *resource.CELProgram, err error) expression { return expression{program, err} }

func (x expression) eval(ctx context.Context, e *resource.CELEvaluation) (ref.Val, error) {
	if x.err != nil {
		return nil, fmt.Errorf("compilation error: %w", x.err)
	}
	return e.Eval(ctx, x.program)
}

// meet evaluates match conditions: one that is false leaves the request out, whatever becomes of the others.
func meet(ctx context.Context, conditions []expression, e *resource.CELEvaluation) (bool, error) {
	var errs []error
	for _, c := range conditions {
		val, err := c.eval(ctx, e)
		if err != nil {
			errs = append(errs, err)
			if ends(err) {
				break
			}
			continue
		}
		if val == types.False {
			return false, nil
		}
	}
	return len(errs) == 0, utilerrors.NewAggregate(errs)
}

// ends says that no further expression may be evaluated after an error.
func ends(err error) bool {
	return errors.Is(err, resource.ErrCELBudget) || errors.Is(err, resource.ErrCELCost)
}

// meetsConditions evaluates the match conditions of a webhook; those that cannot be evaluated refuse the request, or leave
// the webhook out, as its failure policy has it.
func (b *Backend) meetsConditions(ctx context.Context, q question, a *attributes) (bool, error) {
	if len(q.conditions) == 0 {
		return true, nil
	}
	in, err := b.input(ctx, q.gv, a)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	ok, err := meet(ctx, q.conditions, resource.NewCELEvaluation(ctx, in, nil, resource.CELBudget))
	if err == nil || q.ignores() {
		return ok, nil
	}
	return false, apierrors.NewForbidden(a.gv.WithResource(a.res.Name).GroupResource(), a.name, err)
}

// input are the variables of match conditions, with the objects in a version.
func (b *Backend) input(ctx context.Context, gv schema.GroupVersion, a *attributes) (resource.CELInput, error) {
	object, err := b.celObject(ctx, a, a.object, gv)
	if err != nil {
		return nil, err
	}
	old, err := b.celObject(ctx, a, a.old, gv)
	if err != nil {
		return nil, err
	}
	request, err := celRequest(b.request(gv, a))
	if err != nil {
		return nil, err
	}
	who := &user.DefaultInfo{Name: a.user.Name, UID: a.user.UID, Groups: a.user.Groups, Extra: a.user.Extra}
	z := rights{b.cfg.Authorize, a.user}
	return resource.CELInput{
		"object": object, "oldObject": old, "request": request, "namespaceObject": nil,
		"authorizer": library.NewAuthorizerVal(who, z), "authorizer.requestResource": library.NewResourceAuthorizerVal(who, z, a),
	}, nil
}

func (b *Backend) celObject(ctx context.Context, a *attributes, obj runtime.Object, gv schema.GroupVersion) (any, error) {
	if obj == nil {
		return nil, nil
	}
	v, err := b.versioned(ctx, a, obj, gv)
	if err != nil {
		return nil, err
	}
	return celValue(v)
}

// celValue gives an object in JSON's types.
func celValue(obj runtime.Object) (map[string]any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return u.Object, nil
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
}

func celRequest(r *admissionapi.AdmissionRequest) (any, error) {
	r.UID = ""
	options := r.Options.Raw
	r.Options = runtime.RawExtension{}
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		return nil, err
	}
	delete(out, "options")
	if len(options) > 0 {
		parsed := &unstructured.Unstructured{}
		if err := parsed.UnmarshalJSON(options); err != nil {
			return nil, err
		}
		out["options"] = parsed.Object
	}
	return out, nil
}

// GetName of the request. It and the methods below let expressions ask about the request's own resource (library.Resource).
func (a *attributes) GetName() string { return a.name }

// GetNamespace of the request.
func (a *attributes) GetNamespace() string { return a.ruleNamespace() }

// GetResource of the request.
func (a *attributes) GetResource() schema.GroupVersionResource { return a.gv.WithResource(a.res.Name) }

// GetSubresource of the request.
func (a *attributes) GetSubresource() string { return a.sub }

// rights answers expressions as the API server would answer the user that they ask about.
type rights struct {
	authorize func(u server.User, a server.Attributes) (allowed bool, reason string)
	requester server.User
}

// Authorize implements authorizer.Authorizer.
func (z rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if z.authorize == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	who := z.requester
	if u := a.GetUser(); u != nil {
		who = server.User{Name: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(), Extra: u.GetExtra()}
	}
	q := server.Attributes{Verb: a.GetVerb(), Path: a.GetPath()}
	if a.IsResourceRequest() {
		q = server.Attributes{
			Verb: a.GetVerb(), Group: a.GetAPIGroup(), Version: a.GetAPIVersion(), Resource: a.GetResource(),
			Subresource: a.GetSubresource(), Namespace: a.GetNamespace(), Name: a.GetName(),
		}
	}
	allowed, reason := z.authorize(who, q)
	if allowed {
		return authorizer.DecisionAllow, reason, nil
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

var _ library.Resource = (*attributes)(nil)
