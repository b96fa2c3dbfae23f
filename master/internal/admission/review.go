package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/whalepod/whalepod/api/resource"
)

// questions are the webhooks that a request goes to, each with the version that it is asked in.
type question struct {
	*hook
	gv schema.GroupVersion
}

// wants says whether the hook is to be asked: by its rules, its selectors, and its conditions.
func (b *Backend) wants(ctx context.Context, h *hook, a *attributes) (question, bool, error) {
	gv, ok := h.concerns(a)
	q := question{h, gv}
	if !ok {
		return q, false, nil
	}
	if h.broken != nil {
		return q, !h.ignores(), h.failure(h.broken)
	}
	if ok, err := b.selects(&h.matcher, a); err != nil || !ok {
		return q, false, err
	}
	ok, err := b.meetsConditions(ctx, q, a)
	return q, ok, err
}

// failure is what a webhook that could not be asked means for the request.
func (h *hook) failure(err error) error {
	if err == nil || h.ignores() {
		return nil
	}
	return apierrors.NewInternalError(fmt.Errorf("failed calling webhook %q: %w", h.Name, err))
}

// versioned gives an object of the request in a version.
func (b *Backend) versioned(ctx context.Context, a *attributes, obj runtime.Object, gv schema.GroupVersion) (runtime.Object, error) {
	stored, ok := obj.(resource.Object)
	if obj == nil || a.fixed || !ok {
		return obj, nil
	}
	if a.res.AsksWebhook() && gv != a.gv {
		return a.conversions.once(conversion{stored, gv}, func() (runtime.Object, error) { return b.cfg.Table.In(ctx, a.res, stored, gv) })
	}
	return b.cfg.Table.In(ctx, a.res, stored, gv)
}

// conversion of an object to a version.
type conversion struct {
	obj resource.Object
	gv  schema.GroupVersion
}

// conversions by another webhook are made once for a request, however many webhooks want an object in the same version.
type conversions struct {
	mu   sync.Mutex
	made map[conversion]runtime.Object
}

func (c *conversions) once(k conversion, convert func() (runtime.Object, error)) (runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if made := c.made[k]; made != nil {
		return made, nil
	}
	made, err := convert()
	if err != nil {
		return nil, err
	}
	if c.made == nil {
		c.made = map[conversion]runtime.Object{}
	}
	c.made[k] = made
	return made, nil
}

// request makes the question; objects are added by those who need them.
func (b *Backend) request(gv schema.GroupVersion, a *attributes) *admissionapi.AdmissionRequest {
	dryRun := a.dryRun
	asked, spoken := b.kind(a, gv), b.kind(a, a.gv)
	user := authenticationv1.UserInfo{Username: a.user.Name, UID: a.user.UID, Groups: a.user.Groups}
	for k, v := range a.user.Extra {
		if user.Extra == nil {
			user.Extra = map[string]authenticationv1.ExtraValue{}
		}
		user.Extra[k] = v
	}
	return &admissionapi.AdmissionRequest{
		UID: uuid.NewUUID(), Kind: asked, RequestKind: &spoken,
		Resource:        metav1.GroupVersionResource{Group: gv.Group, Version: gv.Version, Resource: a.res.Name},
		RequestResource: &metav1.GroupVersionResource{Group: a.gv.Group, Version: a.gv.Version, Resource: a.res.Name},
		SubResource:     a.sub, RequestSubResource: a.sub, Name: a.name, Namespace: a.ruleNamespace(),
		Operation: admissionapi.Operation(a.operation), UserInfo: user, DryRun: &dryRun, Options: optionsOf(a),
	}
}

// kind of the request's object in a version.
func (b *Backend) kind(a *attributes, gv schema.GroupVersion) metav1.GroupVersionKind {
	kind := gv.WithKind(a.res.Kind)
	if a.fixed {
		if a.object != nil {
			kind = a.object.GetObjectKind().GroupVersionKind()
		}
	} else if sub, ok := a.res.SubresourceIn(gv, a.sub); ok {
		kind = sub.Kind
	}
	return metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
}

// optionsOf says what is known of the request's options.
func optionsOf(a *attributes) runtime.RawExtension {
	kinds := map[admissionv1.OperationType]string{
		admissionv1.Create: "CreateOptions", admissionv1.Update: "UpdateOptions", admissionv1.Delete: "DeleteOptions",
	}
	kind, ok := kinds[a.operation]
	if !ok {
		return runtime.RawExtension{}
	}
	options := map[string]any{"kind": kind, "apiVersion": "meta.k8s.io/v1"}
	if a.dryRun {
		options["dryRun"] = []string{metav1.DryRunAll}
	}
	raw, err := json.Marshal(options)
	if err != nil {
		return runtime.RawExtension{}
	}
	return runtime.RawExtension{Raw: raw}
}

// ask calls the webhook and gives its answer, nil when it could not be asked and that is to be ignored.
func (b *Backend) ask(ctx context.Context, q question, a *attributes) (*admissionapi.AdmissionResponse, error) {
	if a.dryRun && (q.SideEffects == nil || *q.SideEffects != admissionv1.SideEffectClassNone && *q.SideEffects != admissionv1.SideEffectClassNoneOnDryRun) {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("admission webhook %q does not support dry run", q.Name))
	}
	if !slices.Contains(q.ReviewVersions, admissionapi.SchemeGroupVersion.Version) {
		return nil, q.failure(errors.New("could not create admission objects: webhook does not accept known AdmissionReview versions (v1)"))
	}
	req := b.request(q.gv, a)
	for _, part := range []struct {
		obj  runtime.Object
		into *runtime.RawExtension
	}{{a.object, &req.Object}, {a.old, &req.OldObject}} {
		raw, err := b.encode(ctx, a, part.obj, q.gv)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		part.into.Raw = raw
	}
	review := &admissionapi.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: admissionapi.SchemeGroupVersion.String(), Kind: "AdmissionReview"}, Request: req}
	answer, err := q.post(ctx, review)
	if err != nil {
		if ctx.Err() != nil {
			return nil, apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
		}
		b.log.Warn("failed calling webhook", "webhook", q.Name, "configuration", q.Configuration, "ignored", q.ignores(), "err", err)
		return nil, q.failure(err)
	}
	for _, w := range answer.Warnings {
		if a.warn != nil {
			a.warn(w)
		}
	}
	if !answer.Allowed {
		return nil, denied(q.Name, answer.Result)
	}
	return answer, nil
}

func (b *Backend) encode(ctx context.Context, a *attributes, obj runtime.Object, gv schema.GroupVersion) ([]byte, error) {
	if obj == nil {
		return nil, nil
	}
	v, err := b.versioned(ctx, a, obj, gv)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// denied is the refusal of a webhook, as it says it and never as a success.
func denied(name string, result *metav1.Status) error {
	st := metav1.Status{Status: metav1.StatusFailure}
	if result != nil {
		st = *result
	}
	st.Status = metav1.StatusFailure
	if st.Code < http.StatusBadRequest {
		st.Code = http.StatusBadRequest
	}
	by := fmt.Sprintf("admission webhook %q denied the request", name)
	switch {
	case st.Message != "":
		st.Message = by + ": " + st.Message
	case st.Reason != "":
		st.Message = by + ": " + string(st.Reason)
	default:
		st.Message = by + " without explanation"
	}
	return &apierrors.StatusError{ErrStatus: st}
}

// patched applies what a mutating webhook answers to the object, and says whether that changed anything.
func (b *Backend) patched(ctx context.Context, q question, a *attributes, answer *admissionapi.AdmissionResponse) (bool, error) {
	if len(answer.Patch) == 0 {
		return false, nil
	}
	patch, err := jsonpatch.DecodePatch(answer.Patch)
	if err != nil {
		return false, q.failure(fmt.Errorf("received undecodable patch in webhook response: %w", err))
	}
	if len(patch) == 0 {
		return false, nil
	}
	if a.object == nil || a.immutable {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", q.Name))
	}
	if *answer.PatchType != admissionapi.PatchTypeJSONPatch {
		return false, q.failure(fmt.Errorf("unsupported patch type %q", *answer.PatchType))
	}
	before, err := b.versioned(ctx, a, a.object, q.gv)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	data, err := json.Marshal(before)
	if err == nil {
		data, err = patch.Apply(data)
	}
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	next, err := b.decode(before, data)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed := !apiequality.Semantic.DeepEqual(before, next)
	return changed, b.become(ctx, a, next)
}

// decode reads a patched object of the kind that it was.
func (b *Backend) decode(like runtime.Object, data []byte) (runtime.Object, error) {
	gvk := like.GetObjectKind().GroupVersionKind()
	if _, custom := like.(*unstructured.Unstructured); custom {
		out := &unstructured.Unstructured{}
		if err := out.UnmarshalJSON(data); err != nil {
			return nil, err
		}
		return out, nil
	}
	into, err := b.cfg.Table.NewServed(gvk)
	if err != nil {
		return nil, err
	}
	out, _, err := b.cfg.Table.Codecs().UniversalDeserializer().Decode(data, &gvk, into)
	if err != nil {
		return nil, err
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out, nil
}
