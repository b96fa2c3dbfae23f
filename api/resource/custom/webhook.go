package custom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Webhook asks a conversion webhook: what is sent and what is answered are ConversionReviews in JSON.
type Webhook func(ctx context.Context, review []byte) ([]byte, error)

// Connect gives the webhook of a definition's conversion, which has one.
type Connect func(*apiextensionsv1.CustomResourceDefinition) (Webhook, error)

const (
	// maxCalls to the webhook of one kind are under way at the same time, so that one that hangs does not take all the places
	// that the API server has for requests.
	maxCalls = 32
	// patience is how long a request waits to be one of them.
	patience = 2 * time.Second
	// A review has at most so many objects, and more bytes than this only if one object has.
	maxBatch, maxBatchBytes = 500, 1 << 20
)

// asker converts the objects of one kind.
type asker struct {
	kind    *Kind
	connect Connect
	once    sync.Once
	webhook Webhook
	err     error
	turns   chan struct{}
}

// failed is what Kubernetes answers when a conversion fails: an error of the server, in plain words.
func failed(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: fmt.Sprintf(format, args...),
	}}
}

// convert gives objects, none of which is of that version, in a version, and how many bytes each of them was.
func (a *asker) convert(ctx context.Context, objs []*unstructured.Unstructured, to *Version) (out []*unstructured.Unstructured, sizes []int, err error) {
	if a.once.Do(a.reach); a.err != nil {
		return nil, nil, failed("conversion webhook for %v failed: %v", objs[0].GroupVersionKind(), a.err)
	}
	out, sizes = make([]*unstructured.Unstructured, 0, len(objs)), make([]int, 0, len(objs))
	for len(out) < len(objs) {
		rest := objs[len(out):]
		raw, err := encodeBatch(rest)
		if err != nil {
			return nil, nil, failed("conversion webhook for %v failed: %v", rest[0].GroupVersionKind(), err)
		}
		part := rest[:len(raw)]
		answer, err := a.ask(ctx, part[0].GroupVersionKind(), raw, to.GVK.GroupVersion())
		if err != nil {
			return nil, nil, err
		}
		for i, in := range part {
			u, err := a.take(in, answer[i].Raw, to, i, len(objs) > 1)
			if err != nil {
				return nil, nil, err
			}
			out, sizes = append(out, u), append(sizes, len(answer[i].Raw))
		}
	}
	return out, sizes, nil
}

func (a *asker) reach() {
	if a.connect == nil {
		a.err = errors.New("conversion webhooks cannot be called here")
		return
	}
	a.webhook, a.err = a.connect(a.kind.Definition)
}

// encodeBatch encodes objects as far as they fit into one review; at least one does.
func encodeBatch(objs []*unstructured.Unstructured) (out []runtime.RawExtension, err error) {
	size := 0
	for _, u := range objs {
		raw, err := json.Marshal(u.Object)
		if err != nil {
			return nil, err
		}
		if size += len(raw); len(out) > 0 && size > maxBatchBytes {
			break
		}
		if out = append(out, runtime.RawExtension{Raw: raw}); len(out) == maxBatch {
			break
		}
	}
	return out, nil
}

// ask sends one review and gives as many objects as went.
func (a *asker) ask(ctx context.Context, from schema.GroupVersionKind, objs []runtime.RawExtension, to schema.GroupVersion) ([]runtime.RawExtension, error) {
	q, err := newReview(a.kind.Definition.Spec.Conversion.Webhook.ConversionReviewVersions, objs, to)
	if err != nil {
		return nil, failed("%v", err)
	}
	body, err := json.Marshal(q.body)
	if err != nil {
		return nil, failed("conversion webhook for %v failed: %v", from, err)
	}
	release, err := a.turn(ctx)
	if err != nil {
		return nil, err
	}
	data, err := a.webhook(ctx, body)
	release()
	var answer []runtime.RawExtension
	if err == nil {
		answer, err = q.read(data)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err() // who asked has gone, or has waited long enough
	case err != nil:
		return nil, failed("conversion webhook for %v failed: %v", from, err)
	case len(answer) != len(objs):
		return nil, failed("conversion webhook for %v returned %d objects, expected %d", from, len(answer), len(objs))
	}
	return answer, nil
}

// turn waits until there are few enough calls under way.
func (a *asker) turn(ctx context.Context) (release func(), err error) {
	release = func() { <-a.turns }
	select {
	case a.turns <- struct{}{}:
		return release, nil
	default:
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case a.turns <- struct{}{}:
		return release, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("the conversion webhook for %s is busy, please try again later", a.kind.Definition.Name), 1)
	}
}

// take reads what became of an object, and makes sure that it still is that object. at is its place in the review.
func (a *asker) take(in *unstructured.Unstructured, raw []byte, to *Version, at int, isList bool) (*unstructured.Unstructured, error) {
	from := in.GroupVersionKind()
	which := "invalid converted object"
	if !isList {
		which = "invalid object"
	}
	bad := func(err error) error {
		return failed("conversion webhook for %v returned %s at index %d: %v", from, which, at, err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		return nil, bad(err)
	}
	got := u.GroupVersionKind()
	if want := to.GVK.GroupVersion(); got.GroupVersion() != want {
		return nil, bad(fmt.Errorf("invalid groupVersion (expected %v, received %v)", want, got.GroupVersion()))
	}
	if got.Kind != from.Kind {
		return nil, bad(fmt.Errorf("invalid kind (expected %v, received %v)", from.Kind, got.Kind))
	}
	if err := sameObject(in, u); err != nil {
		if isList {
			return nil, bad(err)
		}
		return nil, failed("conversion webhook for %v returned invalid object: %v", from, err)
	}
	if err := restoreMeta(in, u); err != nil {
		if isList {
			return nil, failed("conversion webhook for %v returned invalid metadata in object at index %d: %v", from, at, err)
		}
		return nil, failed("conversion webhook for %v returned invalid metadata: %v", from, err)
	}
	_, err := to.coerce(u, client)
	return u, err
}
