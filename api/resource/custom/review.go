package custom

import (
	"encoding/json"
	"errors"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// review is a question to a webhook, and how its answer is read.
type review struct {
	body any
	read func(answer []byte) ([]runtime.RawExtension, error)
}

// newReview asks in the first of the versions that is known.
func newReview(versions []string, objs []runtime.RawExtension, to schema.GroupVersion) (*review, error) {
	uid, want := uuid.NewUUID(), to.String()
	for _, version := range versions {
		switch version {
		case apiextensionsv1.SchemeGroupVersion.Version:
			gvk := apiextensionsv1.SchemeGroupVersion.WithKind("ConversionReview")
			q := &apiextensionsv1.ConversionReview{
				Request:  &apiextensionsv1.ConversionRequest{UID: uid, DesiredAPIVersion: want, Objects: objs},
				Response: &apiextensionsv1.ConversionResponse{},
			}
			q.SetGroupVersionKind(gvk)
			return &review{q, func(data []byte) ([]runtime.RawExtension, error) {
				var answer apiextensionsv1.ConversionReview
				err := json.Unmarshal(data, &answer)
				switch r := answer.Response; {
				case err != nil:
					return nil, err
				case answer.GroupVersionKind() != gvk:
					return nil, fmt.Errorf("expected webhook response of %v, got %v", gvk, answer.GroupVersionKind())
				case r == nil:
					return nil, errNoResponse
				case r.UID != uid:
					return nil, fmt.Errorf("expected response.uid=%q, got %q", uid, r.UID)
				default:
					return r.ConvertedObjects, success(&r.Result)
				}
			}}, nil
		case apiextensionsv1beta1.SchemeGroupVersion.Version:
			q := &apiextensionsv1beta1.ConversionReview{
				Request:  &apiextensionsv1beta1.ConversionRequest{UID: uid, DesiredAPIVersion: want, Objects: objs},
				Response: &apiextensionsv1beta1.ConversionResponse{},
			}
			q.SetGroupVersionKind(apiextensionsv1beta1.SchemeGroupVersion.WithKind("ConversionReview"))
			// Kubernetes never checked kind and uid in this version, and there are webhooks that rely on it.
			return &review{q, func(data []byte) ([]runtime.RawExtension, error) {
				var answer apiextensionsv1beta1.ConversionReview
				err := json.Unmarshal(data, &answer)
				switch r := answer.Response; {
				case err != nil:
					return nil, err
				case r == nil:
					return nil, errNoResponse
				default:
					return r.ConvertedObjects, success(&r.Result)
				}
			}}, nil
		}
	}
	return nil, errors.New("no supported conversion review versions")
}

var errNoResponse = errors.New("no response provided")

// success is the error that a webhook answers.
func success(result *metav1.Status) error {
	switch {
	case result.Status == metav1.StatusSuccess:
		return nil
	case result.Message != "":
		return errors.New(result.Message)
	}
	return fmt.Errorf("response.result.status was '%s', not 'Success'", result.Status)
}

// sameObject refuses an object that is not the one that was sent.
func sameObject(in, out *unstructured.Unstructured) error {
	for _, part := range []struct{ name, want, got string }{
		{"kind", in.GetKind(), out.GetKind()}, {"name", in.GetName(), out.GetName()},
		{"namespace", in.GetNamespace(), out.GetNamespace()}, {"UID", string(in.GetUID()), string(out.GetUID())},
	} {
		if part.want != part.got {
			return fmt.Errorf("must have the same %s: %v != %v", part.name, part.want, part.got)
		}
	}
	return nil
}

// restoreMeta makes the metadata what it was, but for labels and annotations, which webhooks may change.
func restoreMeta(in, out *unstructured.Unstructured) error {
	answered, found := out.Object["metadata"]
	if !found {
		return errors.New("missing metadata in converted object")
	}
	answer, ok := answered.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata of type %T in converted object", answered)
	}
	meta := map[string]any{}
	if sent, found := in.Object["metadata"]; found {
		if meta, ok = sent.(map[string]any); !ok {
			return fmt.Errorf("invalid metadata of type %T in input object", sent)
		}
		meta = runtime.DeepCopyJSON(meta)
	}
	out.Object["metadata"] = meta
	for _, name := range []string{"labels", "annotations"} {
		if err := takeMap(meta, answer, name); err != nil {
			return err
		}
	}
	return nil
}

// takeMap makes labels or annotations those of the answer. Only what was changed is validated.
func takeMap(meta, answer map[string]any, name string) error {
	value, found := answer[name]
	if !found || value == nil {
		delete(meta, name)
		return nil
	}
	got, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid metadata.%s of type %T in converted object", name, value)
	}
	had, ok := meta[name].(map[string]any)
	if !ok && meta[name] != nil {
		return fmt.Errorf("invalid metadata.%s of type %T in original object", name, meta[name])
	}
	changed := len(had) != len(got)
	texts := make(map[string]string, len(got))
	for k, v := range got {
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("metadata.%s[%s] must be a string, but is %T in converted object", name, k, v)
		}
		texts[k] = text
		changed = changed || had[k] != v
	}
	meta[name] = got
	if !changed {
		return nil
	}
	errs := apivalidation.ValidateAnnotations(texts, field.NewPath("metadata", "annotation"))
	if name == "labels" {
		errs = metavalidation.ValidateLabels(texts, field.NewPath("metadata", "labels"))
	}
	if len(errs) > 0 {
		return errs.ToAggregate()
	}
	return nil
}
