package admission_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/admission"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/store/bolt"
)

var table = sync.OnceValue(resource.NewTable)

// env is a backend with webhooks on a real store with the namespace "default", and a webhook server.
type env struct {
	*testing.T
	*admission.Backend
	hook *httptest.Server
	dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)

	mu      sync.Mutex
	answers map[string]func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse
	asked   []*admissionapi.AdmissionRequest
}

func start(t *testing.T) *env {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	s, err := bolt.Open(bolt.Config{Path: filepath.Join(t.TempDir(), "store.db"), Schema: registry.Schema(table()), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(s, registry.Config{Table: table(), ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), NodePortFirst: 30000, NodePortLast: 32767, Logger: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	e := &env{T: t, answers: map[string]func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse{}}
	e.Backend = admission.New(r, admission.Config{
		Registry: r, Table: table(), Logger: quiet,
		DialService: func(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
			if e.dial == nil {
				return nil, errors.New("no endpoints available for service")
			}
			return e.dial(ctx, namespace, name, port)
		},
		Authorize: func(u server.User, a server.Attributes) (bool, string) { return u.Name == "admin", "" },
	})
	e.hook = httptest.NewUnstartedServer(http.HandlerFunc(e.serve))
	e.hook.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	e.hook.StartTLS()
	t.Cleanup(e.hook.Close)
	e.mustCreate(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "a"}}})
	return e
}

// serve answers as the path's function says.
func (e *env) serve(w http.ResponseWriter, req *http.Request) {
	var review admissionapi.AdmissionReview
	if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	e.asked = append(e.asked, review.Request)
	answer := e.answers[req.URL.Path]
	e.mu.Unlock()
	if answer == nil {
		http.Error(w, "no such webhook", http.StatusNotFound)
		return
	}
	res := answer(review.Request)
	if res == nil { // hang until the caller has enough
		<-req.Context().Done()
		return
	}
	if res.UID == "" {
		res.UID = review.Request.UID
	}
	_ = json.NewEncoder(w).Encode(&admissionapi.AdmissionReview{TypeMeta: review.TypeMeta, Response: res})
}

func (e *env) requests() []*admissionapi.AdmissionRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.asked
	e.asked = nil
	return out
}

// on sets the answer of a path and gives the client configuration that leads there.
func (e *env) on(path string, answer func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse) admissionv1.WebhookClientConfig {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answers[path] = answer
	u := e.hook.URL + path
	return admissionv1.WebhookClientConfig{URL: &u, CABundle: e.ca()}
}

func (e *env) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.hook.Certificate().Raw})
}

func allow(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
	return &admissionapi.AdmissionResponse{Allowed: true}
}

func deny(message string) func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
	return func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		return &admissionapi.AdmissionResponse{Result: &metav1.Status{Message: message, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden}}
	}
}

func patch(text string) func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
	return func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		t := admissionapi.PatchTypeJSONPatch
		return &admissionapi.AdmissionResponse{Allowed: true, Patch: []byte(text), PatchType: &t}
	}
}

func rule(resources string, ops ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{Operations: ops, Rule: admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{resources}}}}
}

func ptr[T any](v T) *T { return &v }

// validating adds a configuration with one webhook.
func (e *env) validating(name string, c admissionv1.WebhookClientConfig, rules []admissionv1.RuleWithOperations, change ...func(*admissionv1.ValidatingWebhook)) {
	e.Helper()
	w := admissionv1.ValidatingWebhook{
		Name: name + ".example.com", ClientConfig: c, Rules: rules, AdmissionReviewVersions: []string{"v1"},
		SideEffects: ptr(admissionv1.SideEffectClassNone),
	}
	for _, f := range change {
		f(&w)
	}
	e.mustCreate(&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionv1.ValidatingWebhook{w}})
}

func (e *env) mutating(name string, c admissionv1.WebhookClientConfig, rules []admissionv1.RuleWithOperations, change ...func(*admissionv1.MutatingWebhook)) {
	e.Helper()
	w := admissionv1.MutatingWebhook{
		Name: name + ".example.com", ClientConfig: c, Rules: rules, AdmissionReviewVersions: []string{"v1"},
		SideEffects: ptr(admissionv1.SideEffectClassNone),
	}
	for _, f := range change {
		f(&w)
	}
	e.mustCreate(&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Webhooks: []admissionv1.MutatingWebhook{w}})
}

func resourceOf(obj resource.Object) *resource.Resource {
	gvks, _, err := table().Scheme().ObjectKinds(obj)
	if err != nil {
		panic(err)
	}
	r, ok := table().ByKind(gvks[0])
	if !ok {
		panic("not served")
	}
	return r
}

func (e *env) create(obj resource.Object, o server.WriteOptions) (resource.Object, error) {
	r := resourceOf(obj)
	namespace := obj.GetNamespace()
	return e.Create(e.Context(), r, namespace, obj.DeepCopyObject().(resource.Object), o)
}

func (e *env) mustCreate(obj resource.Object) resource.Object {
	e.Helper()
	out, err := e.create(obj, server.WriteOptions{})
	if err != nil {
		e.Fatal(err)
	}
	return out
}

func (e *env) update(obj resource.Object, change func(resource.Object)) (resource.Object, error) {
	out, _, err := e.Update(e.Context(), resourceOf(obj), "", obj.GetNamespace(), obj.GetName(), server.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		change(current)
		return current, nil
	})
	return out, err
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

// wants checks an error: its code and its text; 0 for none.
func wants(t *testing.T, err error, code int32, text string) {
	t.Helper()
	if code == 0 {
		if err != nil {
			t.Error(err)
		}
		return
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code != code || status.Status().Message != text {
		t.Errorf("error %v\nwant %d %s", err, code, text)
	}
}
