package server

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// codecs read request bodies: by format, loosely or strictly.
type codecs struct {
	scheme *runtime.Scheme
	loose  [3]runtime.Decoder
	strict [3]runtime.Decoder
}

func newCodecs(scheme *runtime.Scheme) codecs {
	c := codecs{scheme: scheme}
	mk := func(yaml, strict bool) runtime.Decoder {
		return kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme, scheme, kjson.SerializerOptions{Yaml: yaml, Strict: strict})
	}
	proto := protobuf.NewSerializer(scheme, scheme)
	c.loose = [3]runtime.Decoder{formatJSON: mk(false, false), formatYAML: mk(true, false), formatProtobuf: proto}
	c.strict = [3]runtime.Decoder{formatJSON: mk(false, true), formatYAML: mk(true, true), formatProtobuf: proto}
	return c
}

// decodeBody reads the body of a create or update into an object of the kind that the path speaks of.
func (rq *request) decodeBody(data []byte, want schema.GroupVersionKind, validation string) (runtime.Object, error) {
	f, err := bodyFormat(rq.req.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	return rq.decode(f, data, want, validation)
}

// decode reads one object. What strict reading finds becomes warnings or the error, as fieldValidation says.
func (rq *request) decode(f format, data []byte, want schema.GroupVersionKind, validation string) (runtime.Object, error) {
	if rq.res != nil && rq.res.IsCustom() && want == rq.kind() {
		return rq.decodeCustom(f, data, validation)
	}
	c := &rq.s.codecs
	dec := c.strict[f]
	if validation == metav1.FieldValidationIgnore {
		dec = c.loose[f]
	}
	into, err := c.scheme.New(want)
	if err != nil {
		return nil, err
	}
	obj, gvk, err := dec.Decode(data, &want, into)
	if err != nil {
		strict, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict || obj == nil || validation == metav1.FieldValidationStrict {
			return nil, decodeError(err, want, gvk, data)
		}
		rq.warnStrict(strict.Errors())
	}
	switch {
	case gvk.Kind != want.Kind:
		return nil, decodeError(fmt.Errorf("converting (%s) to (%s): unknown conversion", typeName(*gvk), typeName(want)), want, gvk, data)
	case gvk.GroupVersion() != want.GroupVersion():
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			gvk.GroupVersion(), want.GroupVersion()))
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return obj, nil
}

// typeName writes a kind as Go would, as Kubernetes' message does.
func typeName(gvk schema.GroupVersionKind) string { return gvk.Version + "." + gvk.Kind }

// decodeError words a body that cannot be read as Kubernetes does.
func decodeError(err error, want schema.GroupVersionKind, got *schema.GroupVersionKind, data []byte) error {
	if got != nil && got.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, excerpt(data)))
}

// excerpt shows the begin of a body that could not be read.
func excerpt(data []byte) string {
	const most = 30
	if len(data) == 0 {
		return "<empty>"
	}
	show := func(b []byte) string {
		if data[0] == '{' {
			return string(b)
		}
		return hex.EncodeToString(b)
	}
	if len(data) > most {
		return show(data[:most]) + " ..."
	}
	return show(data)
}

// warnStrict turns the findings of strict reading into warnings; YAML's come several in one error.
func (rq *request) warnStrict(errs []error) {
	for _, err := range errs {
		msg := err.Error()
		rest, isYAML := strings.CutPrefix(msg, "error converting YAML to JSON: yaml: unmarshal errors:\n")
		if !isYAML {
			rest, isYAML = strings.CutPrefix(msg, "yaml: unmarshal errors:\n")
		}
		if !isYAML {
			rq.warn(msg)
			continue
		}
		for _, line := range strings.Split(rest, "\n") {
			rq.warn(strings.TrimSpace(line))
		}
	}
}

// decodeDeleteOptions reads the body of a deletion. Old clients stamp it with the group of what they delete, hence only
// the kind is looked at.
func (rq *request) decodeDeleteOptions(data []byte, into *metav1.DeleteOptions) error {
	f, err := bodyFormat(rq.req.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	var kind string
	if f == formatProtobuf {
		var env runtime.Unknown
		if !bytes.HasPrefix(data, protoMagic) {
			return apierrors.NewBadRequest("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
		}
		if err := env.Unmarshal(data[len(protoMagic):]); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		kind = env.Kind
		err = into.Unmarshal(env.Raw)
	} else {
		if err = unmarshalLoose(f, data, into); err == nil {
			kind = into.Kind
		}
	}
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if kind != "" && kind != "DeleteOptions" {
		return apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
	}
	return nil
}
