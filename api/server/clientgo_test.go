package server

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
)

func listenLoopback(t testing.TB) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().String()
}

// config11 is a client's TLS without HTTP/2, which WebSockets need.
func (s *testServer) config11() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
}

// TestTypedClient goes through the verbs with client-go, in JSON and in protobuf.
func TestTypedClient(t *testing.T) {
	for _, ct := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(ct, func(t *testing.T) {
			s := newTestServer(t)
			c := s.config()
			c.ContentType = ct
			client := kubernetes.NewForConfigOrDie(c).CoreV1().Pods("default")
			ctx := t.Context()
			made, err := client.Create(ctx, testPod("web"), metav1.CreateOptions{})
			if err != nil || made.UID == "" || made.Spec.RestartPolicy != corev1.RestartPolicyAlways {
				t.Fatal(err, made)
			}
			if _, err := client.Create(ctx, testPod("web"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
			made.Status.Phase = corev1.PodRunning
			up, err := client.UpdateStatus(ctx, made, metav1.UpdateOptions{})
			if err != nil || up.Status.Phase != corev1.PodRunning {
				t.Fatal(err, up)
			}
			if _, err := client.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Fatal("an old resourceVersion went through:", err)
			}
			gen := testPod("")
			gen.GenerateName = "gen-"
			if gen, err = client.Create(ctx, gen, metav1.CreateOptions{}); err != nil || len(gen.Name) <= len("gen-") {
				t.Fatal(err, gen.Name)
			}
			page, err := client.List(ctx, metav1.ListOptions{Limit: 1})
			if err != nil || len(page.Items) != 1 || page.Continue == "" || page.Items[0].Kind != "" {
				t.Fatal(err, page)
			}
			if page, err = client.List(ctx, metav1.ListOptions{Limit: 1, Continue: page.Continue}); err != nil || len(page.Items) != 1 || page.Items[0].Name != "web" {
				t.Fatal(err, page)
			}
			sel, err := client.List(ctx, metav1.ListOptions{LabelSelector: "app=web", FieldSelector: "metadata.name=web"})
			if err != nil || len(sel.Items) != 1 {
				t.Fatal(err, sel)
			}
			if err := client.Delete(ctx, "web", metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0)), PropagationPolicy: ptr(metav1.DeletePropagationForeground)}); err != nil {
				t.Fatal(err)
			}
			d := s.backend.deleted[0]
			if *d.GracePeriodSeconds != 0 || *d.Propagation != metav1.DeletePropagationForeground {
				t.Fatalf("%+v", d)
			}
			if err := client.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
			if all, err := client.List(ctx, metav1.ListOptions{}); err != nil || len(all.Items) != 0 || all.Items == nil && ct == runtime.ContentTypeJSON {
				t.Fatal(err, all)
			}
		})
	}
}

// TestInformer: informers of this client-go list by watching (sendInitialEvents); they must come to sync and follow.
func TestInformer(t *testing.T) {
	for _, ct := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		s := newTestServer(t)
		c := s.config()
		c.ContentType = ct
		client := kubernetes.NewForConfigOrDie(c)
		if _, err := client.CoreV1().Pods("default").Create(t.Context(), testPod("a"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		f := informers.NewSharedInformerFactory(client, 0)
		inf := f.Core().V1().Pods().Informer()
		seen := make(chan string, 10)
		_, _ = inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { seen <- "+" + o.(*corev1.Pod).Name },
			DeleteFunc: func(o any) { seen <- "-" + o.(*corev1.Pod).Name },
		})
		f.Start(ctx.Done())
		if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
			t.Fatal("no sync")
		}
		if _, err := client.CoreV1().Pods("default").Create(ctx, testPod("b"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := client.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"+a", "+b", "-a"} {
			select {
			case got := <-seen:
				if got != want {
					t.Fatalf("%s: got %s, want %s", ct, got, want)
				}
			case <-ctx.Done():
				t.Fatalf("%s: %s never came", ct, want)
			}
		}
		cancel()
		f.Shutdown()
	}
}

func TestDynamicAndMetadataClients(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "a")
	gvr := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	d := dynamic.NewForConfigOrDie(s.config()).Resource(gvr).Namespace("default")
	obj, err := d.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || obj.GetKind() != "Pod" {
		t.Fatal(err, obj)
	}
	unstructured.RemoveNestedField(obj.Object, "metadata", "resourceVersion")
	obj.SetLabels(map[string]string{"x": "y"})
	if obj, err = d.Update(t.Context(), obj, metav1.UpdateOptions{}); err != nil || obj.GetLabels()["x"] != "y" {
		t.Fatal(err, obj)
	}
	for _, ct := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		c := metadata.ConfigFor(s.config())
		c.AcceptContentTypes = ct
		list, err := metadata.NewForConfigOrDie(c).Resource(gvr).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 || list.Items[0].Name != "a" {
			t.Fatal(ct, err, list)
		}
	}
}

func TestDiscovery(t *testing.T) {
	s := newTestServer(t)
	c := discovery.NewDiscoveryClientForConfigOrDie(s.config())
	v, err := c.ServerVersion()
	if err != nil || v.Major != "1" || v.Minor != "36" || v.GitVersion != "v1.36.3+whalepod-test" {
		t.Fatal(err, v)
	}
	for name, cl := range map[string]discovery.DiscoveryInterface{"aggregated": c, "plain": c.WithLegacy()} {
		groups, lists, err := cl.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(name, err)
		}
		if groups[0].Name != "" || groups[2].Name != "apps" {
			t.Errorf("%s: groups %v", name, groups)
		}
		found := map[string]metav1.APIResource{}
		for _, l := range lists {
			for _, r := range l.APIResources {
				found[l.GroupVersion+" "+r.Name] = r
			}
		}
		for _, want := range []string{"v1 pods", "v1 pods/log", "v1 bindings", "apps/v1 deployments", "apps/v1 deployments/scale",
			"extensions/v1beta1 deployments/rollback", "authorization.k8s.io/v1 selfsubjectaccessreviews"} {
			if _, ok := found[want]; !ok {
				t.Errorf("%s: no %s", name, want)
			}
		}
		if r := found["v1 pods"]; !r.Namespaced || r.ShortNames[0] != "po" || r.SingularName != "pod" || len(r.Verbs) != 8 {
			t.Errorf("%s: %+v", name, r)
		}
		if r := found["extensions/v1beta1 deployments"]; len(r.ShortNames)+len(r.Categories) != 0 {
			t.Errorf("%s: get all would list deployments twice: %+v", name, r)
		}
		if r := found["apps/v1 deployments/scale"]; r.Kind != "Scale" || r.Group != "autoscaling" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	const agg = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	r := s.ask(t, "GET", "/apis", "", agg)
	if r.header.Get("Content-Type") != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" {
		t.Fatal(r.header)
	}
	if again := s.ask(t, "GET", "/apis", "", agg, "If-None-Match: "+r.header.Get("ETag")); again.code != 304 || again.body != "" {
		t.Fatal(again)
	}
	for _, a := range []string{"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
		"application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"} {
		if r := s.ask(t, "GET", "/api", "", "Accept: "+a); r.code != 200 || r.header.Get("Content-Type") != a {
			t.Error(a, r.code, r.header.Get("Content-Type"))
		}
	}
	for _, p := range []string{"/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/"} {
		if r := s.ask(t, "GET", p, ""); r.code != 200 {
			t.Error(p, r)
		}
	}
}
