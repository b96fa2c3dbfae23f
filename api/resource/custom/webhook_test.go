package custom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// askingKind makes a kind that a webhook converts.
func askingKind(t *testing.T, ask Webhook) *Kind {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(definition), crd); err != nil {
		t.Fatal(err)
	}
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook:  &apiextensionsv1.WebhookConversion{ConversionReviewVersions: []string{"v1"}},
	}
	k, err := New(crd, func(*apiextensionsv1.CustomResourceDefinition) (Webhook, error) { return ask, nil })
	if err != nil {
		t.Fatal(err)
	}
	k.Settle(0)
	return k
}

// relabelled answers as a webhook does that changes versions by name alone.
func relabelled(body []byte) ([]byte, int) {
	var r apiextensionsv1.ConversionReview
	if err := json.Unmarshal(body, &r); err != nil {
		panic(err)
	}
	r.Response = &apiextensionsv1.ConversionResponse{UID: r.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range r.Request.Objects {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw.Raw); err != nil {
			panic(err)
		}
		u.SetAPIVersion(r.Request.DesiredAPIVersion)
		data, _ := u.MarshalJSON()
		r.Response.ConvertedObjects = append(r.Response.ConvertedObjects, runtime.RawExtension{Raw: data})
	}
	n := len(r.Request.Objects)
	r.Request = nil
	out, _ := json.Marshal(&r)
	return out, n
}

func written(t *testing.T, version, rest string) *unstructured.Unstructured {
	u := object(t, version, rest)
	u.SetResourceVersion("7")
	return u
}

func TestReviewsAreBounded(t *testing.T) {
	var sizes []int
	k := askingKind(t, func(_ context.Context, body []byte) ([]byte, error) {
		answer, n := relabelled(body)
		sizes = append(sizes, n)
		return answer, nil
	})
	var objs []*unstructured.Unstructured
	for i := range 5 {
		u := written(t, "v1", "spec: {}")
		_ = unstructured.SetNestedField(u.Object, strings.Repeat(fmt.Sprint(i), maxBatchBytes/5*2), "spec", "cronSpec")
		objs = append(objs, u)
	}
	objs = append(objs, written(t, "v2", "spec: {cronSpec: mine}"))
	out, err := k.Read(t.Context(), objs, "v2")
	if err != nil || fmt.Sprint(sizes) != "[2 2 1]" || out[5] != objs[5] {
		t.Fatal(err, sizes)
	}
	for i := range 5 {
		if spec, _ := field1(t, out[i], "spec", "cronSpec").(string); !strings.HasPrefix(spec, fmt.Sprint(i)) || out[i].GetAPIVersion() != "stable.example.com/v2" {
			t.Error(i, out[i].GetAPIVersion())
		}
	}
}

func TestReviewsHaveSoManyObjects(t *testing.T) {
	var sizes []int
	k := askingKind(t, func(_ context.Context, body []byte) ([]byte, error) {
		answer, n := relabelled(body)
		sizes = append(sizes, n)
		return answer, nil
	})
	objs := make([]*unstructured.Unstructured, 2*maxBatch+1)
	for i := range objs {
		objs[i] = written(t, "v1", "spec: {}")
	}
	out, err := k.Read(t.Context(), objs, "v2")
	if err != nil || len(out) != len(objs) || fmt.Sprint(sizes) != fmt.Sprint([]int{maxBatch, maxBatch, 1}) {
		t.Error(err, len(out), sizes)
	}
}

func TestOldObjectsAreRenewedBeforeTheyAreConverted(t *testing.T) {
	var sent string
	k := askingKind(t, func(_ context.Context, body []byte) ([]byte, error) {
		sent = string(body)
		answer, _ := relabelled(body)
		return answer, nil
	})
	k.Settle(9)
	u := written(t, "v1", "spec: {cronSpec: x, gone: 1}")
	out, err := k.Read(t.Context(), []*unstructured.Unstructured{u}, "v2")
	if err != nil || !strings.Contains(sent, `"image":"busybox"`) || strings.Contains(sent, "gone") || field1(t, u, "spec", "gone") == nil {
		t.Error(sent, err)
	}
	if err == nil && field1(t, out[0], "spec", "image") != nil {
		t.Error("v2 has no image")
	}
	if _, err := k.FromStorage(u, "v2"); err == nil {
		t.Error("converted without the webhook")
	}
}

func TestWhoAsksAtTheSameTimeAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		k := askingKind(t, func(ctx context.Context, body []byte) ([]byte, error) {
			calls.Add(1)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			answer, _ := relabelled(body)
			return answer, nil
		})
		u, other := written(t, "v1", "spec: {cronSpec: x}"), written(t, "v1", "spec: {cronSpec: y}")
		results := make(chan *unstructured.Unstructured, 10)
		ask := func(ctx context.Context, objs ...*unstructured.Unstructured) {
			out, err := k.ReadShared(ctx, objs, "v2")
			if err != nil {
				results <- nil
				return
			}
			results <- out[len(out)-1]
		}
		for range 3 {
			go ask(t.Context(), u)
		}
		synctest.Wait()
		go ask(t.Context(), other, u)
		first := <-results
		for range 3 {
			if same := <-results; first == nil || same != first {
				t.Error("another result")
			}
		}
		if n := calls.Load(); n != 2 { // of u, and of other
			t.Errorf("%d calls", n)
		}
		ask(t.Context(), u)
		if again := <-results; again != first || calls.Load() != 2 {
			t.Error("it was asked for again")
		}

		time.Sleep(recentAge + time.Millisecond)
		ask(t.Context(), u)
		if later := <-results; later == first || calls.Load() != 3 {
			t.Error("what was converted long ago was given")
		}

		// Who goes away takes nobody along.
		next := written(t, "v1", "spec: {cronSpec: z}")
		ctx, cancel := context.WithCancel(t.Context())
		go ask(ctx, next)
		synctest.Wait()
		go ask(t.Context(), next)
		synctest.Wait()
		cancel()
		if <-results != nil {
			t.Error("somebody who had gone got an answer")
		}
		if <-results == nil {
			t.Error("somebody who waited got none")
		}
	})
}

func TestRecentIsBounded(t *testing.T) {
	k := askingKind(t, func(_ context.Context, body []byte) ([]byte, error) {
		answer, _ := relabelled(body)
		return answer, nil
	})
	v2, _ := k.Version("v2")
	for range recentObjects + 50 {
		if _, err := k.ReadShared(t.Context(), []*unstructured.Unstructured{written(t, "v1", "spec: {cronSpec: x}")}, "v2"); err != nil {
			t.Fatal(err)
		}
	}
	r := &v2.recent
	if len(r.byObject) != recentObjects || len(r.done) != recentObjects {
		t.Error(len(r.byObject), len(r.done))
	}
	big := written(t, "v1", "spec: {}")
	_ = unstructured.SetNestedField(big.Object, strings.Repeat("x", recentBytes), "spec", "cronSpec")
	if _, err := k.ReadShared(t.Context(), []*unstructured.Unstructured{big}, "v2"); err != nil || len(r.byObject) != 0 || r.bytes != 0 {
		t.Error(err, len(r.byObject), r.bytes)
	}
}

func TestWebhookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := askingKind(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, maxCalls)
		for range maxCalls {
			go func() {
				_, err := k.Read(ctx, []*unstructured.Unstructured{written(t, "v1", "spec: {}")}, "v2")
				ended <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		_, err := k.Read(t.Context(), []*unstructured.Unstructured{written(t, "v1", "spec: {}")}, "v2")
		if !apierrors.IsTooManyRequests(err) || time.Since(start) != patience {
			t.Error(err, time.Since(start))
		}
		cancel()
		for range maxCalls {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

func TestWebhookThatCannotBeReached(t *testing.T) {
	k := askingKind(t, nil)
	k.asks.connect = func(*apiextensionsv1.CustomResourceDefinition) (Webhook, error) { return nil, errors.New("no address") }
	_, err := k.Read(t.Context(), []*unstructured.Unstructured{written(t, "v1", "spec: {}")}, "v2")
	if err == nil || err.Error() != "conversion webhook for stable.example.com/v1, Kind=CronTab failed: no address" {
		t.Error(err)
	}
	k.asks = &asker{kind: k, connect: k.asks.connect, turns: make(chan struct{}, 1), webhook: func(context.Context, []byte) ([]byte, error) { return nil, nil }}
	k.asks.once.Do(func() {})
	k.Definition.Spec.Conversion.Webhook.ConversionReviewVersions = []string{"v7"}
	_, err = k.Read(t.Context(), []*unstructured.Unstructured{written(t, "v1", "spec: {}")}, "v2")
	if err == nil || err.Error() != "no supported conversion review versions" {
		t.Error(err)
	}
}
