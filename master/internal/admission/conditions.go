package admission

import (
	"context"
	"errors"

	"github.com/google/cel-go/common/types"
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

// meetsConditions evaluates the match conditions: one that is false leaves the webhook out, whatever the others say; one that
// cannot be evaluated refuses the request, or leaves the webhook out, as its failure policy has it.
func (b *Backend) meetsConditions(ctx context.Context, q question, a *attributes) (bool, error) {
	if len(q.conditions) == 0 {
		return true, nil
	}
	in, err := b.input(ctx, q, a)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	budget := int64(resource.CELBudget)
	var errs []error
	for _, c := range q.conditions {
		val, err := c.program.Eval(ctx, in, &budget)
		if err != nil {
			errs = append(errs, err)
			if errors.Is(err, resource.ErrCELBudget) {
				break
			}
			continue
		}
		if val == types.False {
			return false, nil
		}
	}
	if len(errs) == 0 {
		return true, nil
	}
	if q.ignores() {
		return false, nil
	}
	return false, apierrors.NewForbidden(a.gv.WithResource(a.res.Name).GroupResource(), a.name, utilerrors.NewAggregate(errs))
}

// input are the variables of match conditions.
func (b *Backend) input(ctx context.Context, q question, a *attributes) (resource.CELInput, error) {
	object, err := b.celObject(ctx, a, a.object, q)
	if err != nil {
		return nil, err
	}
	old, err := b.celObject(ctx, a, a.old, q)
	if err != nil {
		return nil, err
	}
	request, err := celRequest(b.request(q, a))
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

func (b *Backend) celObject(ctx context.Context, a *attributes, obj runtime.Object, q question) (any, error) {
	if obj == nil {
		return nil, nil
	}
	v, err := b.versioned(ctx, a, obj, q.gv)
	if err != nil {
		return nil, err
	}
	if u, ok := v.(*unstructured.Unstructured); ok {
		return u.Object, nil
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(v)
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
