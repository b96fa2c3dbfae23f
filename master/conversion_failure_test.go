package master

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// answers are what Kubernetes makes of a webhook's mistakes.
func answers(k *kind) {
	ctx := k.Context()
	if _, err := k.v1.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	edited := func(change func(u *unstructured.Unstructured)) func(http.ResponseWriter, *http.Request, *review) {
		return func(w http.ResponseWriter, _ *http.Request, r *review) {
			objs := r.converted()
			change(objs[0])
			r.reply(w, objs...)
		}
	}
	result := func(uid string, st metav1.Status, n int) func(http.ResponseWriter, *http.Request, *review) {
		return func(w http.ResponseWriter, _ *http.Request, r *review) {
			if uid == "" {
				uid = r.Request.UID
			}
			r.replyWith(w, uid, st, append(r.converted(), r.converted()...)[:n]...)
		}
	}
	ok := metav1.Status{Status: metav1.StatusSuccess}
	set := func(path string, value any) func(u *unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(u.Object, value, strings.Split(path, ".")...)
		}
	}
	const who = "conversion webhook for GROUP/v1, Kind=Ending "
	for _, test := range []struct {
		answer func(http.ResponseWriter, *http.Request, *review)
		want   string
	}{
		{result("", metav1.Status{Status: metav1.StatusFailure, Message: "cannot"}, 0), who + "failed: cannot"},
		{result("", metav1.Status{}, 1), who + "failed: response.result.status was '', not 'Success'"},
		{result("other", ok, 1), who + `failed: expected response.uid="UID", got "other"`},
		{result("", ok, 0), who + "returned 0 objects, expected 1"},
		{result("", ok, 2), who + "returned 2 objects, expected 1"},
		{func(w http.ResponseWriter, _ *http.Request, r *review) {
			fmt.Fprint(w, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview"}`)
		}, who + "failed: no response provided"},
		{func(w http.ResponseWriter, _ *http.Request, r *review) {
			fmt.Fprint(w, `{"apiVersion":"v1","kind":"Pod"}`)
		},
			who + "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /v1, Kind=Pod"},
		{func(w http.ResponseWriter, _ *http.Request, r *review) {
			http.Error(w, "oh", http.StatusServiceUnavailable)
		},
			who + `failed: an error on the server ("oh\n") has prevented the request from succeeding: status 503`},
		{edited(func(u *unstructured.Unstructured) { u.SetAPIVersion(k.group + "/v3") }), who + "returned invalid object at index 0: invalid groupVersion (expected GROUP/v2, received GROUP/v3)"},
		{edited(func(u *unstructured.Unstructured) { u.SetKind("Other") }), who + "returned invalid object at index 0: invalid kind (expected Ending, received Other)"},
		{edited(set("metadata.name", "b")), who + "returned invalid object: must have the same name: a != b"},
		{edited(set("metadata.namespace", "b")), who + "returned invalid object: must have the same namespace: default != b"},
		{edited(set("metadata.uid", "b")), who + "returned invalid object: must have the same UID: OWN != b"},
		{edited(func(u *unstructured.Unstructured) { u.SetLabels(map[string]string{"a": "b c"}) }), who + "returned invalid metadata: metadata.labels: Invalid value: \"b c\": " +
			"a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"},
		{edited(func(u *unstructured.Unstructured) { u.Object["metadata"].(map[string]any)["labels"] = []any{"a"} }), who + "returned invalid metadata: invalid metadata.labels of type []interface {} in converted object"},
		{edited(func(u *unstructured.Unstructured) {
			u.Object["metadata"].(map[string]any)["annotations"] = map[string]any{"a": int64(1)}
		}),
			who + "returned invalid metadata: metadata.annotations[a] must be a string, but is int64 in converted object"},
	} {
		k.calls()
		k.answering(test.answer)
		u, err := k.v2.Get(ctx, "a", metav1.GetOptions{})
		if err == nil {
			k.Error("no error, but ", u, "; want", test.want)
			continue
		}
		k.mu.Lock()
		uid, own := k.asked[0].Request.UID, string(k.asked[0].Request.Objects[0].GetUID())
		k.mu.Unlock()
		k.fails(err, 500, strings.NewReplacer("GROUP", k.group, "UID\"", uid+"\"", "OWN", own).Replace(test.want))
	}
	_, err := k.v2.List(ctx, metav1.ListOptions{})
	k.fails(err, 500, "conversion webhook for "+k.group+"/v1, Kind=Ending returned invalid metadata: metadata.annotations[a] must be a string, but is int64 in converted object")
}

// metadata but labels and annotations is not the webhook's to change.
func metadata(k *kind) {
	ctx := k.Context()
	made := k.object("v1", "a", "{hostPort: 'h:1'}")
	made.SetLabels(map[string]string{"kept": "x"})
	made.SetFinalizers([]string{"example.com/a"})
	made, err := k.v1.Create(ctx, made, metav1.CreateOptions{})
	if err != nil {
		k.Fatal(err)
	}
	k.answering(func(w http.ResponseWriter, _ *http.Request, r *review) {
		objs := r.converted()
		for _, u := range objs {
			u.SetFinalizers(nil)
			u.SetGeneration(77)
			u.SetResourceVersion("1")
			u.SetCreationTimestamp(metav1.Time{})
			u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "y"}})
			u.SetAnnotations(map[string]string{"note": "from the webhook"})
			u.Object["metadata"].(map[string]any)["foo"] = "bar"
		}
		r.reply(w, objs...)
	})
	u, err := k.v2.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		k.Fatal(err)
	}
	want := made.DeepCopy()
	want.SetLabels(map[string]string{"kept": "x", "in": "v2"})
	want.SetAnnotations(map[string]string{"note": "from the webhook"})
	if got, want := fmt.Sprint(u.Object["metadata"]), fmt.Sprint(want.Object["metadata"]); got != want {
		k.Errorf("metadata %s\nwant %s", got, want)
	}
}

// down: what can be done without the webhook is done.
func down(k *kind) {
	ctx := k.Context()
	for _, name := range []string{"a", "b"} {
		if _, err := k.v1.Create(ctx, k.object("v1", name, "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
			k.Fatal(err)
		}
	}
	k.redefine(`[{"op":"add","path":"/spec/conversion/webhook/clientConfig/url","value":"https://127.0.0.1:1/gone"}]`, func() error {
		if _, err := k.v2.Get(ctx, "a", metav1.GetOptions{}); err == nil {
			return fmt.Errorf("the former webhook is asked")
		}
		return nil
	})
	const gone = `failed: Post "https://127.0.0.1:1/gone": dial tcp 127.0.0.1:1: connect: connection refused`
	_, err := k.v2.Get(ctx, "a", metav1.GetOptions{})
	k.fails(err, 500, "conversion webhook for "+k.group+"/v1, Kind=Ending "+gone)
	_, err = k.v2.Create(ctx, k.object("v2", "c", "{host: h}"), metav1.CreateOptions{})
	k.fails(err, 500, "conversion webhook for "+k.group+"/v2, Kind=Ending "+gone)
	err = k.v2.Delete(ctx, "a", metav1.DeleteOptions{})
	k.fails(err, 500, "conversion webhook for "+k.group+"/v1, Kind=Ending "+gone)
	_, err = k.v2.Watch(ctx, metav1.ListOptions{})
	k.fails(err, 500, "conversion webhook for "+k.group+"/v1, Kind=Ending "+gone)

	u, err := k.v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{})
	k.is(u, err, "v1", `{"hostPort":"h:1","replicas":3}`)
	// The garbage collector, quotas, and who empties namespaces or deletes a kind's objects look at metadata alone.
	owned := &unstructured.Unstructured{}
	owned.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	owned.SetName("owned-" + k.group)
	owned.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: k.group + "/v2", Kind: "Ending", Name: "a", UID: u.GetUID()}})
	maps := k.Resource(configMaps).Namespace("default")
	if _, err := maps.Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	if err := k.v1.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	k.served(func() error { return mustBeGone(maps.Get(ctx, owned.GetName(), metav1.GetOptions{})) })

	namespaces := k.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "emptied"}}}
	if _, err := namespaces.Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	inside := k.Resource(schema.GroupVersionResource{Group: k.group, Version: "v1", Resource: "endings"}).Namespace("emptied")
	quotas := k.Resource(schema.GroupVersionResource{Version: "v1", Resource: "resourcequotas"}).Namespace("emptied")
	quota := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": map[string]any{"name": "one"},
		"spec": map[string]any{"hard": map[string]any{"count/endings." + k.group: "1"}}}}
	if _, err := quotas.Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	if _, err := inside.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	if _, err := inside.Create(ctx, k.object("v1", "b", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		k.Error("beyond the quota:", err)
	}
	if err := namespaces.Delete(ctx, "emptied", metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	k.served(func() error { return mustBeGone(namespaces.Get(ctx, "emptied", metav1.GetOptions{})) })
	if err := k.Resource(definitions).Delete(ctx, "endings."+k.group, metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	k.served(func() error {
		return mustBeGone(k.Resource(definitions).Get(ctx, "endings."+k.group, metav1.GetOptions{}))
	})
}

func mustBeGone(u *unstructured.Unstructured, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err == nil:
		return fmt.Errorf("%s %s is still there", u.GetKind(), u.GetName())
	}
	return err
}

// hangs: a webhook that does not answer holds up nobody but those who need it.
func hangs(k *kind) {
	ctx := k.Context()
	if _, err := k.v1.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	reached, free := make(chan struct{}, 10), make(chan struct{})
	k.answering(func(w http.ResponseWriter, req *http.Request, r *review) {
		reached <- struct{}{}
		select {
		case <-free:
			r.reply(w, r.converted()...)
		case <-req.Context().Done():
		}
	})
	done := make(chan error, 1)
	go func() {
		_, err := k.v2.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"port":"2"}}`), metav1.PatchOptions{})
		done <- err
	}()
	<-reached
	// The object itself can be written meanwhile, and the patch is then of what is there.
	u, err := k.v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{})
	k.is(u, err, "v1", `{"hostPort":"h:1","replicas":4}`)
	close(free)
	if err := <-done; err != nil {
		k.Fatal(err)
	}
	u, err = k.v1.Get(ctx, "a", metav1.GetOptions{})
	k.is(u, err, "v1", `{"hostPort":"h:2","replicas":4}`)

	// Who has no more time is told so.
	k.answering(func(_ http.ResponseWriter, req *http.Request, _ *review) { <-req.Context().Done() })
	req, err := http.NewRequestWithContext(ctx, "GET", k.config.Host+"/apis/"+k.group+"/v2/namespaces/default/endings?timeout=100ms", nil)
	if err != nil {
		k.Fatal(err)
	}
	start := time.Now()
	res, err := k.http().Do(req)
	if err != nil {
		k.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusGatewayTimeout || time.Since(start) > 5*time.Second {
		k.Error(res.Status, time.Since(start))
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := k.v2.List(gone, metav1.ListOptions{}); err == nil {
		k.Error("a list for nobody")
	}
}

// admissionInBetween: a webhook for v1 is asked about what is written in v2, in v1.
func admissionInBetween(k *kind) {
	ctx := k.Context()
	calls := make(chan string, 10)
	url, ca := k.admission(func(object *unstructured.Unstructured) string {
		calls <- fmt.Sprint(object.GetAPIVersion(), " ", object.Object["spec"])
		return `[{"op":"replace","path":"/spec/hostPort","value":"patched:9"}]`
	})
	var hook unstructured.Unstructured
	text := fmt.Sprintf(`{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingWebhookConfiguration, metadata: {name: %s}, webhooks: [{name: a.example.com,
  admissionReviewVersions: [v1], sideEffects: None, clientConfig: {url: %q, caBundle: %s},
  rules: [{apiGroups: [%s], apiVersions: [v1], resources: [endings], operations: [CREATE]}]}]}`, k.group, url, ca, k.group)
	if err := yaml.Unmarshal([]byte(text), &hook.Object); err != nil {
		k.Fatal(err)
	}
	configs := k.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "mutatingwebhookconfigurations"})
	if _, err := configs.Create(ctx, &hook, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	u, err := k.v2.Create(ctx, k.object("v2", "a", "{host: h, port: '1', size: 2}"), metav1.CreateOptions{})
	k.is(u, err, "v2", `{"host":"patched","port":"9","size":2}`)
	if got := <-calls; got != k.group+"/v1 map[hostPort:h:1 replicas:2]" {
		k.Error("admission was asked about", got)
	}
	k.wantCalls("for admission, back, to be kept, and for the answer", "v1:1", "v2:1", "v1:1", "v2:1")
	k.answering(func(w http.ResponseWriter, _ *http.Request, r *review) {
		r.replyWith(w, r.Request.UID, metav1.Status{Status: metav1.StatusFailure, Message: "no"})
	})
	_, err = k.v2.Create(ctx, k.object("v2", "b", "{host: h, port: '1'}"), metav1.CreateOptions{})
	k.fails(err, 500, "Internal error occurred: conversion webhook for "+k.group+"/v2, Kind=Ending failed: no")
}
