package server

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	sigsjson "sigs.k8s.io/json"

	"github.com/whalepod/whalepod/api/resource"
)

// maxPatchOps is the largest number of operations in a JSON patch, as in Kubernetes.
const maxPatchOps = 10000

// Copy operations must not make a small patch a giant object. The library has this as a variable of its own.
func init() { jsonpatch.AccumulatedCopySizeLimit = maxBody }

// patchTypes in the order in which a 415 names them.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}

// patcher applies one patch, perhaps several times, when others change the object meanwhile.
type patcher struct {
	s    *Server
	rq   *request
	o    writeOptions
	typ  types.PatchType
	data []byte
	// kind that the patch is of: the resource's in the served version, or the subresource's.
	kind schema.GroupVersionKind
}

func (rq *request) newPatcher() (*patcher, bool, error) {
	ct, _, err := mime.ParseMediaType(rq.req.Header.Get("Content-Type"))
	p := &patcher{s: rq.s, rq: rq, typ: types.PatchType(ct), kind: rq.kind()}
	if rq.res.IsCustom() && p.typ == types.StrategicMergePatchType {
		// Nobody knows by which keys the lists of a custom kind would merge.
		return nil, false, errUnsupportedMedia(slices.Delete(slices.Clone(patchTypes), 2, 3)...)
	}
	switch p.typ {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType:
	default:
		err = errUnsupportedMedia(patchTypes...)
	}
	if err != nil {
		return nil, false, errUnsupportedMedia(patchTypes...)
	}
	if p.data, err = rq.body(); err != nil {
		return nil, false, err
	}
	var force bool
	p.o, force, err = rq.patchOptions(p.typ)
	return p, force, err
}

// patch changes an object or one of its subresources by a patch of any type.
func (s *Server) patch(rq *request) error {
	acc, err := mustNegotiate(rq.req, rq.forms)
	if err != nil {
		return err
	}
	p, force, err := rq.newPatcher()
	if err != nil {
		return err
	}
	uo := UpdateOptions{WriteOptions: p.o.WriteOptions}
	change := p.change
	if p.typ == types.ApplyYAMLPatchType {
		uo.CreateOnUpdate = rq.subresource == ""
		change = func(current resource.Object) (resource.Object, error) { return p.apply(current, force) }
	}
	out, created, err := s.Backend.Update(rq.req.Context(), rq.res, rq.subresource, rq.namespace, rq.name, uo, change)
	if err != nil {
		return err
	}
	return s.writeResult(rq, acc, createdCode(created), out)
}

// change patches the current object in the version that the client speaks.
func (p *patcher) change(current resource.Object) (resource.Object, error) {
	rq := p.rq
	if current == nil {
		return nil, apierrors.NewNotFound(rq.res.GroupResource(), rq.name)
	}
	from, err := p.s.versioned(rq.res, current, rq.gv)
	if err != nil {
		return nil, err
	}
	patched, err := p.patched(from)
	if err != nil {
		return nil, err
	}
	next, err := p.s.Table.ToStorage(patched)
	if err != nil {
		return nil, err
	}
	if err := fitName(rq, next); err != nil {
		return nil, err
	}
	rq.dedupOwners(next)
	return p.s.managers.track(rq, current, next, p.o.manager)
}

// patched returns a new object of p.kind.
func (p *patcher) patched(from runtime.Object) (runtime.Object, error) {
	if p.typ == types.StrategicMergePatchType {
		return p.strategic(from)
	}
	before, err := encodeBytes(formatJSON, from)
	if err != nil {
		return nil, err
	}
	var after []byte
	var findings []error
	if p.typ == types.JSONPatchType {
		after, findings, err = p.jsonPatch(before)
	} else {
		after, findings, err = p.mergePatch(before)
	}
	if err != nil {
		return nil, err
	}
	if p.rq.res.IsCustom() && p.kind == p.rq.kind() {
		return p.patchedCustom(after, findings)
	}
	dec := p.s.codecs.strict[formatJSON]
	if p.o.validation == metav1.FieldValidationIgnore {
		dec = p.s.codecs.loose[formatJSON]
	}
	into, err := p.s.codecs.scheme.New(p.kind)
	if err != nil {
		return nil, err
	}
	obj, gvk, err := dec.Decode(after, &p.kind, into)
	if err == nil && *gvk != p.kind {
		err = fmt.Errorf("converting (%s) to (%s): unknown conversion", typeName(*gvk), typeName(p.kind))
	}
	if err := p.judge(err, findings, string(after)); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(p.kind)
	return obj, nil
}

// judge turns what was found while decoding into a 422 or into warnings, as fieldValidation says. shown is the value
// that the error names.
func (p *patcher) judge(err error, findings []error, shown string) error {
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return invalidPatch(shown, err)
		}
		findings = append(findings, strict.Errors()...)
	}
	switch {
	case len(findings) == 0:
		return nil
	case p.o.validation == metav1.FieldValidationWarn:
		p.rq.warnStrict(findings)
		return nil
	}
	return invalidPatch(shown, runtime.NewStrictDecodingError(findings))
}

func invalidPatch(shown string, err error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), shown, err.Error())})
}

func (p *patcher) jsonPatch(before []byte) (after []byte, findings []error, err error) {
	if p.o.validation != metav1.FieldValidationIgnore {
		var ops []struct {
			Op    string `json:"op"`
			Path  string `json:"path"`
			From  string `json:"from"`
			Value any    `json:"value"`
		}
		if findings, err = sigsjson.UnmarshalStrict(p.data, &ops); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		for i, e := range findings {
			findings[i] = fmt.Errorf("json patch %v", e)
		}
	}
	patch, err := jsonpatch.DecodePatch(p.data)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	if len(patch) > maxPatchOps {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(
			fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOps, len(patch)))
	}
	if after, err = patch.Apply(before); err != nil {
		return nil, nil, errUnprocessable(err.Error())
	}
	return after, findings, nil
}

func (p *patcher) mergePatch(before []byte) (after []byte, findings []error, err error) {
	if p.o.validation != metav1.FieldValidationIgnore {
		v := map[string]any{}
		if findings, err = sigsjson.UnmarshalStrict(p.data, &v); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
	}
	after, err = jsonpatch.MergePatch(before, p.data)
	if errors.Is(err, jsonpatch.ErrBadJSONPatch) {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	return after, findings, err
}

func (p *patcher) strategic(from runtime.Object) (runtime.Object, error) {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(from)
	if err != nil {
		return nil, err
	}
	patch := map[string]any{}
	var findings []error
	if p.o.validation == metav1.FieldValidationIgnore {
		err = sigsjson.UnmarshalCaseSensitivePreserveInts(p.data, &patch)
	} else {
		findings, err = sigsjson.UnmarshalStrict(p.data, &patch)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	into, err := p.s.codecs.scheme.New(p.kind)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, patch, into)
	if err != nil {
		return nil, strategicError(err)
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, into, p.o.validation != metav1.FieldValidationIgnore)
	if err := p.judge(err, findings, fmt.Sprintf("%+v", patch)); err != nil {
		return nil, err
	}
	into.GetObjectKind().SetGroupVersionKind(p.kind)
	return into, nil
}

func strategicError(err error) error {
	for _, bad := range []error{mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
		mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat} {
		if errors.Is(err, bad) {
			return apierrors.NewBadRequest(err.Error())
		}
	}
	if errors.Is(err, mergepatch.ErrNoListOfLists) || errors.Is(err, mergepatch.ErrPatchContentNotMatchRetainKeys) {
		return errUnprocessable(err.Error())
	}
	var api apierrors.APIStatus
	if errors.As(err, &api) {
		return err
	}
	// What is left are patches whose values do not fit the kind's fields.
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}
