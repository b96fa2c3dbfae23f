package master

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// TestConversionWebhook goes through what a client does in a version in which objects are not kept.
func TestConversionWebhook(t *testing.T) {
	c := startConverting(t)
	for name, test := range map[string]func(*kind){
		"reads and writes": readsAndWrites, "patches": patches, "subresources": subresources, "lists": lists, "watches": watches,
		"answers": answers, "metadata": metadata, "storage version": storageVersion, "down": down, "admission": admissionInBetween,
		"old review": oldReview, "hangs": hangs, "autoscaler": autoscaler,
	} {
		t.Run(name, func(t *testing.T) {
			test(c.with(t).define(strings.ReplaceAll(name, " ", "-") + ".example.com"))
		})
	}
}

func readsAndWrites(k *kind) {
	ctx := k.Context()
	_, err := k.v1.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{})
	if err != nil {
		k.Fatal(err)
	}
	u, err := k.v1.Get(ctx, "a", metav1.GetOptions{})
	k.is(u, err, "v1", `{"hostPort":"h:1","replicas":1}`)
	k.wantCalls("v1 as it is kept")
	u, err = k.v2.Get(ctx, "a", metav1.GetOptions{})
	k.is(u, err, "v2", `{"host":"h","port":"1","size":1}`)
	k.wantCalls("get v2", "v2:1")

	u.Object["spec"] = map[string]any{"host": "g", "port": "2", "unknown": "x"}
	u, err = k.v2.Update(ctx, u, metav1.UpdateOptions{})
	k.is(u, err, "v2", `{"host":"g","port":"2","size":1}`)
	if u.GetGeneration() != 2 {
		k.Error("generation", u.GetGeneration())
	}
	k.wantCalls("update v2: what is there was asked for just before", "v1:1", "v2:1")
	u, err = k.v2.Create(ctx, k.object("v2", "b", "{host: g, port: '3', size: 4}"), metav1.CreateOptions{})
	k.is(u, err, "v2", `{"host":"g","port":"3","size":4}`)
	k.wantCalls("create v2", "v1:1", "v2:1")
	u, err = k.v1.Get(ctx, "b", metav1.GetOptions{})
	k.is(u, err, "v1", `{"hostPort":"g:3","replicas":4}`)
	_, err = k.v2.Create(ctx, k.object("v2", "c", "{host: g, port: '123456'}"), metav1.CreateOptions{})
	k.fails(err, 422, `Ending.`+k.group+` "c" is invalid: spec.port: Too long: may not be more than 5 bytes`)
	k.wantCalls("what is not valid")

	// A dry run says what would be, and leaves it as it is.
	u.Object["spec"].(map[string]any)["hostPort"] = "x:9"
	u, err = k.v1.Update(ctx, u, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	k.is(u, err, "v1", `{"hostPort":"x:9","replicas":4}`)
	u, err = k.v2.Get(ctx, "b", metav1.GetOptions{})
	k.is(u, err, "v2", `{"host":"g","port":"3","size":4}`)

	// Deleted with a finalizer it stays, in the version of the client.
	u.SetFinalizers([]string{"example.com/hold"})
	if _, err := k.v2.Update(ctx, u, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
	if err := k.v2.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	u, err = k.v2.Get(ctx, "b", metav1.GetOptions{})
	k.is(u, err, "v2", `{"host":"g","port":"3","size":4}`)
	u.SetFinalizers(nil)
	if _, err = k.v2.Update(ctx, u, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
	if _, err = k.v2.Get(ctx, "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		k.Error("it is still there:", err)
	}
}

func patches(k *kind) {
	ctx := k.Context()
	if _, err := k.v2.Create(ctx, k.object("v2", "a", "{host: h, port: '1'}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	u, err := k.v2.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"port":"2"}}`), metav1.PatchOptions{})
	k.is(u, err, "v2", `{"host":"h","port":"2","size":1}`)
	u, err = k.v2.Patch(ctx, "a", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/host","value":"h"},{"op":"replace","path":"/spec/size","value":3}]`), metav1.PatchOptions{})
	k.is(u, err, "v2", `{"host":"h","port":"2","size":3}`)

	// Two who apply, each in a version: the fields of both are theirs in both.
	u, err = k.v2.Apply(ctx, "a", k.object("v2", "a", "{host: g, port: '2'}"), metav1.ApplyOptions{FieldManager: "two", Force: true})
	k.is(u, err, "v2", `{"host":"g","port":"2","size":3}`)
	u, err = k.v1.Apply(ctx, "a", k.object("v1", "a", "{replicas: 5}"), metav1.ApplyOptions{FieldManager: "one", Force: true})
	k.is(u, err, "v1", `{"hostPort":"g:2","replicas":5}`)
	owners := map[string]string{}
	for _, f := range u.GetManagedFields() {
		owners[f.Manager] = f.APIVersion + " " + string(f.FieldsV1.Raw)
	}
	if owners["two"] != k.group+`/v2 {"f:spec":{"f:host":{},"f:port":{}}}` || owners["one"] != k.group+`/v1 {"f:spec":{"f:replicas":{}}}` {
		k.Error(owners)
	}
	_, err = k.v1.Apply(ctx, "a", k.object("v1", "a", "{hostPort: 'x:2', replicas: 5}"), metav1.ApplyOptions{FieldManager: "one"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "two": .spec.host`) {
		k.Error("another's field, of another version:", err)
	}
	// What is no longer applied goes.
	u, err = k.v2.Apply(ctx, "new", k.object("v2", "new", "{host: f, port: '1'}"), metav1.ApplyOptions{FieldManager: "two"})
	k.is(u, err, "v2", `{"host":"f","port":"1","size":1}`)
	u, err = k.v2.Apply(ctx, "new", k.object("v2", "new", "{host: f}"), metav1.ApplyOptions{FieldManager: "two"})
	k.is(u, err, "v2", `{"host":"f","size":1}`)

	// A conversion that fails while others' fields are looked at is the server's fault.
	k.answering(func(w http.ResponseWriter, _ *http.Request, r *review) {
		if strings.HasSuffix(r.Request.DesiredAPIVersion, "/v2") {
			r.replyWith(w, r.Request.UID, metav1.Status{Status: metav1.StatusFailure, Message: "no"})
			return
		}
		r.reply(w, r.converted()...)
	})
	_, err = k.v1.Apply(ctx, "a", k.object("v1", "a", "{replicas: 6}"), metav1.ApplyOptions{FieldManager: "one"})
	k.fails(err, 500, "conversion webhook for "+k.group+"/v1, Kind=Ending failed: no")
}

func subresources(k *kind) {
	ctx := k.Context()
	if _, err := k.v1.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1', replicas: 2}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	u, err := k.v2.Get(ctx, "a", metav1.GetOptions{}, "status")
	k.is(u, err, "v2", `{"host":"h","port":"1","size":2}`)
	u.Object["status"] = map[string]any{"replicas": int64(7)}
	u.Object["spec"] = map[string]any{"host": "lost"}
	u, err = k.v2.UpdateStatus(ctx, u, metav1.UpdateOptions{})
	k.is(u, err, "v2", `{"host":"h","port":"1","size":2}`)
	u, err = k.v1.Get(ctx, "a", metav1.GetOptions{})
	if k.is(u, err, "v1", `{"hostPort":"h:1","replicas":2}`); fmt.Sprint(u.Object["status"]) != "map[replicas:7]" || u.GetGeneration() != 1 {
		k.Error(u.Object["status"], u.GetGeneration())
	}
	u, err = k.v2.Get(ctx, "a", metav1.GetOptions{}, "scale")
	if err != nil || u.GetKind() != "Scale" || fmt.Sprint(u.Object["spec"], u.Object["status"]) != "map[replicas:2] map[replicas:7]" {
		k.Fatal(u, err)
	}
	u.Object["spec"] = map[string]any{"replicas": int64(9)}
	if u, err = k.v2.Update(ctx, u, metav1.UpdateOptions{}, "scale"); err != nil || fmt.Sprint(u.Object["spec"]) != "map[replicas:9]" {
		k.Fatal(u, err)
	}
	u, err = k.v1.Get(ctx, "a", metav1.GetOptions{})
	k.is(u, err, "v1", `{"hostPort":"h:1","replicas":9}`)
	u, err = k.v2.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale")
	if err != nil || fmt.Sprint(u.Object["spec"]) != "map[replicas:3]" {
		k.Error(u, err)
	}
}

func lists(k *kind) {
	ctx := k.Context()
	const n = 60
	var made errgroup.Group
	made.SetLimit(32)
	for i := range n {
		u := k.object("v1", fmt.Sprintf("e%04d", i), fmt.Sprintf("{hostPort: 'h%d:1'}", i%2))
		made.Go(func() error {
			_, err := k.v1.Create(ctx, u, metav1.CreateOptions{})
			return err
		})
	}
	if err := made.Wait(); err != nil {
		k.Fatal(err)
	}
	list, err := k.v1.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != n {
		k.Fatal(err, len(list.Items))
	}
	k.wantCalls("in the version in which they are kept")
	list, err = k.v2.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != n || list.GetAPIVersion() != k.group+"/v2" {
		k.Fatal(err, len(list.Items))
	}
	k.is(&list.Items[1], nil, "v2", `{"host":"h1","port":"1","size":1}`)
	k.wantCalls("all together", "v2:60")
	list, err = k.v2.List(ctx, metav1.ListOptions{Limit: 10})
	if err != nil || len(list.Items) != 10 || list.GetContinue() == "" || *list.GetRemainingItemCount() != n-10 {
		k.Fatal(err, len(list.Items))
	}
	k.wantCalls("a page", "v2:10")

	// Selectors are about the version that is asked for.
	seen, next := 0, ""
	for pages := 0; pages == 0 || next != ""; pages++ {
		list, err = k.v2.List(ctx, metav1.ListOptions{FieldSelector: "spec.host=h1", LabelSelector: "in=v2", Limit: 20, Continue: next})
		if err != nil {
			k.Fatal(err)
		}
		seen, next = seen+len(list.Items), list.GetContinue()
	}
	if seen != n/2 {
		k.Errorf("%d match, want %d", seen, n/2)
	}
	if list, err = k.v1.List(ctx, metav1.ListOptions{LabelSelector: "in=v2"}); err != nil || len(list.Items) != 0 {
		k.Error("a label of v2 was found in v1", err)
	}
	k.calls()
	if err := k.v2.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.host=h1"}); err != nil {
		k.Fatal(err)
	}
	k.wantCalls("a collection is converted to be found, and no more", "v2:60")
	if list, err = k.v1.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != n/2 {
		k.Error("left are", len(list.Items), err)
	}
	k.columns()
}

// columns of each version.
func (k *kind) columns() {
	for version, want := range map[string]string{"v1": `["e0000","h0:1"]`, "v2": `["e0000","h0","1"]`} {
		req, err := http.NewRequestWithContext(k.Context(), "GET", k.config.Host+"/apis/"+k.group+"/"+version+"/namespaces/default/endings?limit=1", nil)
		if err != nil {
			k.Fatal(err)
		}
		req.Header.Set("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
		res, err := k.http().Do(req)
		if err != nil {
			k.Fatal(err)
		}
		var table struct {
			Rows []struct{ Cells json.RawMessage }
		}
		err = json.NewDecoder(res.Body).Decode(&table)
		res.Body.Close()
		if err != nil || len(table.Rows) != 1 || string(table.Rows[0].Cells) != want {
			k.Error(version, table, err)
		}
	}
}

func watches(k *kind) {
	ctx := k.Context()
	open := func(o metav1.ListOptions) <-chan string {
		w, err := k.v2.Watch(ctx, o)
		if err != nil {
			k.Fatal(err)
		}
		k.Cleanup(w.Stop)
		out := make(chan string, 100)
		go func() {
			defer close(out)
			for e := range w.ResultChan() {
				switch obj := e.Object.(type) {
				case *unstructured.Unstructured:
					spec, _ := json.Marshal(obj.Object["spec"])
					out <- fmt.Sprint(e.Type, " ", obj.GetName(), " ", obj.GetAPIVersion(), " ", string(spec))
				case *metav1.Status:
					out <- fmt.Sprint(e.Type, " ", obj.Code, " ", obj.Reason, " ", obj.Message)
				}
			}
		}()
		return out
	}
	hear := func(from <-chan string, want string) {
		k.Helper()
		select {
		case got := <-from:
			if got != strings.ReplaceAll(want, "G/", k.group+"/") {
				k.Errorf("got  %s\nwant %s", got, want)
			}
		case <-time.After(10 * time.Second):
			k.Fatal("nothing comes; wanted ", want)
		}
	}
	if _, err := k.v1.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	all, again, some := open(metav1.ListOptions{}), open(metav1.ListOptions{}), open(metav1.ListOptions{FieldSelector: "spec.host=g"})
	hear(all, `ADDED a G/v2 {"host":"h","port":"1","size":1}`)
	hear(again, `ADDED a G/v2 {"host":"h","port":"1","size":1}`)
	k.calls()
	if _, err := k.v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"hostPort":"g:2"}}`), metav1.PatchOptions{}); err != nil {
		k.Fatal(err)
	}
	for _, w := range []<-chan string{all, again} {
		hear(w, `MODIFIED a G/v2 {"host":"g","port":"2","size":1}`)
	}
	hear(some, `ADDED a G/v2 {"host":"g","port":"2","size":1}`)
	objects := 0
	k.mu.Lock()
	for _, r := range k.asked {
		objects += len(r.Request.Objects)
	}
	k.mu.Unlock()
	if objects != 2 { // what it is for all three, what it was for the one that selects
		k.Errorf("%d objects were converted for three watches of one change", objects)
	}
	if _, err := k.v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"hostPort":"f:2"}}`), metav1.PatchOptions{}); err != nil {
		k.Fatal(err)
	}
	hear(all, `MODIFIED a G/v2 {"host":"f","port":"2","size":1}`)
	hear(again, `MODIFIED a G/v2 {"host":"f","port":"2","size":1}`)
	hear(some, `DELETED a G/v2 {"host":"g","port":"2","size":1}`)

	k.answering(func(w http.ResponseWriter, _ *http.Request, r *review) {
		r.replyWith(w, r.Request.UID, metav1.Status{Status: metav1.StatusFailure, Message: "out of order"})
	})
	if err := k.v1.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		k.Fatal(err)
	}
	for _, w := range []<-chan string{all, again} {
		hear(w, "ERROR 500 InternalError Internal error occurred: conversion webhook for G/v1, Kind=Ending failed: out of order")
		if got, more := <-w; more {
			k.Error("the watch goes on:", got)
		}
	}
}

func storageVersion(k *kind) {
	ctx := k.Context()
	if _, err := k.v1.Create(ctx, k.object("v1", "a", "{hostPort: 'h:1'}"), metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.redefine(`[{"op":"replace","path":"/spec/versions/0/storage","value":false},{"op":"replace","path":"/spec/versions/1/storage","value":true}]`, func() error {
		_, err := k.v2.Create(ctx, k.object("v2", "b", "{host: g, port: '2'}"), metav1.CreateOptions{})
		if err == nil && len(k.calls()) > 0 {
			err = fmt.Errorf("v1 is still the version in which objects are kept")
			_ = k.v2.Delete(ctx, "b", metav1.DeleteOptions{})
			k.calls()
		}
		return err
	})
	crd, err := k.Resource(definitions).Get(ctx, "endings."+k.group, metav1.GetOptions{})
	if err != nil {
		k.Fatal(err)
	}
	if stored, _, _ := unstructured.NestedStringSlice(crd.Object, "status", "storedVersions"); fmt.Sprint(stored) != "[v1 v2]" {
		k.Error("storedVersions", stored)
	}
	for _, test := range []struct{ version, a, b, call string }{
		{"v1", `{"hostPort":"h:1","replicas":1}`, `{"hostPort":"g:2","replicas":1}`, "v1:1"},
		{"v2", `{"host":"h","port":"1","size":1}`, `{"host":"g","port":"2","size":1}`, "v2:1"},
	} {
		list, err := k.client(k.group, test.version).List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 2 {
			k.Fatal(err, len(list.Items))
		}
		k.is(&list.Items[0], nil, test.version, test.a)
		k.is(&list.Items[1], nil, test.version, test.b)
		k.wantCalls("only what is kept in another version", test.call)
	}
	// A write that changes nothing brings an object into the version in which objects are kept now.
	u, err := k.v2.Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		k.Fatal(err)
	}
	k.calls()
	if _, err := k.v2.Update(ctx, u, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.calls()
	if list, err := k.v2.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 2 {
		k.Fatal(err)
	}
	k.wantCalls("all are kept in v2")
}

// autoscaler: what can be scaled in v2 alone is scaled there, although it is kept in v1.
func autoscaler(k *kind) {
	ctx := k.Context()
	k.redefine(`[{"op":"remove","path":"/spec/versions/0/subresources/scale"}]`, func() error {
		if _, err := k.v1.Get(ctx, "none", metav1.GetOptions{}, "scale"); !strings.Contains(err.Error(), "could not find the requested resource") {
			return err
		}
		return nil
	})
	u, err := k.v2.Create(ctx, k.object("v2", "a", "{host: h, port: '1', size: 2}"), metav1.CreateOptions{})
	if err != nil {
		k.Fatal(err)
	}
	u.Object["status"] = map[string]any{"replicas": int64(2), "selector": "app=none"}
	if _, err := k.v2.UpdateStatus(ctx, u, metav1.UpdateOptions{}); err != nil {
		k.Fatal(err)
	}
	hpas := k.Resource(schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}).Namespace("default")
	hpa := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": map[string]any{"name": "a"},
		"spec": map[string]any{
			"scaleTargetRef": map[string]any{"apiVersion": k.group + "/v1", "kind": "Ending", "name": "a"},
			"minReplicas":    int64(4), "maxReplicas": int64(6),
		},
	}}
	if _, err := hpas.Create(ctx, hpa, metav1.CreateOptions{}); err != nil {
		k.Fatal(err)
	}
	k.served(func() error {
		u, err := k.v1.Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas"); n != 4 {
			h, err := hpas.Get(ctx, "a", metav1.GetOptions{})
			return fmt.Errorf("%d replicas, %v %w", n, h.Object["status"], err)
		}
		return nil
	})
}

func oldReview(k *kind) {
	k.redefine(`[{"op":"replace","path":"/spec/conversion/webhook/conversionReviewVersions","value":["v9","v1beta1","v1"]}]`, func() error {
		k.calls()
		_, err := k.v2.Create(k.Context(), k.object("v2", "a", "{host: h, port: '1'}"), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, r := range k.asked {
			if r.APIVersion != "apiextensions.k8s.io/v1beta1" || r.Kind != "ConversionReview" {
				return fmt.Errorf("asked in %s", r.APIVersion)
			}
		}
		return err
	})
	k.answering(func(w http.ResponseWriter, _ *http.Request, r *review) {
		r.replyWith(w, "", metav1.Status{Status: metav1.StatusSuccess}, r.converted()...) // as many did
	})
	u, err := k.v2.Get(k.Context(), "a", metav1.GetOptions{})
	k.is(u, err, "v2", `{"host":"h","port":"1","size":1}`)
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
