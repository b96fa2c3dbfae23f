package server

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/whalepod/whalepod/api/resource"
)

// Objects of custom kinds are unstructured. Reading one is reading JSON; what decoding into a Go type finds in others (unknown
// fields, malformed metadata) is found by its schema.

// decodeCustom reads an object of the request's kind.
func (rq *request) decodeCustom(f format, data []byte, validation string) (runtime.Object, error) {
	if f == formatProtobuf {
		return nil, errUnsupportedMedia(mediaTypes[formatJSON], mediaTypes[formatYAML])
	}
	want := rq.kind()
	u, findings, err := readUnstructured(f, data, validation != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, decodeError(err, want, nil, data)
	}
	got := u.GroupVersionKind()
	if got.Kind == "" {
		return nil, apierrors.NewBadRequest("Object 'Kind' is missing in '" + string(data) + "'")
	}
	if got.Kind != want.Kind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: converting (%s) to (%s): unknown conversion",
			got.Kind, got.Version, want.Kind, typeName(got), typeName(want)))
	}
	if got.GroupVersion() != want.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			got.GroupVersion(), want.GroupVersion()))
	}
	unknown, err := rq.res.Accept(u, validation != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, decodeError(err, want, &got, data)
	}
	findings = append(findings, unknownFields(unknown)...)
	switch {
	case len(findings) == 0 || validation == metav1.FieldValidationIgnore:
	case validation == metav1.FieldValidationStrict:
		return nil, decodeError(runtime.NewStrictDecodingError(findings), want, &got, data)
	default:
		rq.warnStrict(findings)
	}
	return u, nil
}

func unknownFields(paths []string) []error {
	out := make([]error, 0, len(paths))
	for _, path := range paths {
		out = append(out, fmt.Errorf("unknown field %q", path))
	}
	return out
}

// readUnstructured reads JSON or YAML; findings are fields that are there twice.
func readUnstructured(f format, data []byte, strict bool) (u *unstructured.Unstructured, findings []error, err error) {
	if f == formatYAML {
		if strict {
			var into map[string]any
			if err := yaml.UnmarshalStrict(data, &into); err != nil {
				findings = append(findings, err)
			}
		}
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil, nil, err
		}
	}
	u = &unstructured.Unstructured{}
	if strict {
		twice, err := sigsjson.UnmarshalStrict(data, &u.Object)
		if f == formatJSON {
			findings = append(findings, twice...)
		}
		return u, findings, orNotObject(u, err)
	}
	return u, nil, orNotObject(u, sigsjson.UnmarshalCaseSensitivePreserveInts(data, &u.Object))
}

// orNotObject refuses null, which reads as no object at all.
func orNotObject(u *unstructured.Unstructured, err error) error {
	if err == nil && u.Object == nil {
		return fmt.Errorf("json: the body is not an object")
	}
	return err
}

// patchedCustom reads the result of a JSON or merge patch.
func (p *patcher) patchedCustom(after []byte, findings []error) (runtime.Object, error) {
	u, twice, err := readUnstructured(formatJSON, after, p.o.validation != metav1.FieldValidationIgnore)
	if err == nil && u.GroupVersionKind() != p.kind {
		err = fmt.Errorf("converting (%s) to (%s): unknown conversion", typeName(u.GroupVersionKind()), typeName(p.kind))
	}
	if err != nil {
		return nil, invalidPatch(string(after), err)
	}
	unknown, err := p.rq.res.Accept(u, p.o.validation != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, invalidPatch(string(after), err)
	}
	findings = append(append(findings, twice...), unknownFields(unknown)...)
	if err := p.judge(nil, findings, string(after)); err != nil {
		return nil, err
	}
	return u, nil
}

// customConverter is the converter for custom kinds, whose hub is the version that the client speaks. It is one request's own;
// err is what went wrong last.
type customConverter struct {
	converter
	ctx context.Context
	err error
}

// newCustomManager makes the field manager of a custom kind.
func newCustomManager(t *resource.Table, conv *customConverter, k managerKey) (*managedfields.FieldManager, error) {
	return managedfields.NewDefaultCRDFieldManager(t.TypeConverter(), conv, conv, conv, k.gv.WithKind(k.res.Kind), k.gv, k.subresource,
		k.res.ResetFilters(k.subresource))
}

// ConvertToVersion implements runtime.ObjectConvertor.
func (c *customConverter) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	gv, ok := to.(schema.GroupVersion)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForTarget("whalepod", nil, to)
	}
	if gv == gvk.GroupVersion() {
		return in, nil
	}
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is not an unstructured object", in)
	}
	res, ok := c.t.Of(u)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("whalepod", gvk)
	}
	out, err := res.Convert(c.ctx, u, gv)
	if err != nil {
		if !runtime.IsNotRegisteredError(err) {
			c.err = err
		}
		return nil, err
	}
	return out, nil
}

var _ json.Marshaler = (*unstructured.Unstructured)(nil) // what every encoder of this package relies on
