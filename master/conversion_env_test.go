package master

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// converting is a master with a conversion webhook on the same machine.
type converting struct {
	*testing.T
	dynamic.Interface
	config *rest.Config
	hook   *httptest.Server

	mu sync.Mutex
	// answer replaces what the webhook answers to a review; nil for a conversion as it should be.
	answer func(w http.ResponseWriter, req *http.Request, review *review)
	asked  []review
}

// review is what both versions of ConversionReview are in JSON.
type review struct {
	metav1.TypeMeta
	Request struct {
		UID               string                       `json:"uid"`
		DesiredAPIVersion string                       `json:"desiredAPIVersion"`
		Objects           []*unstructured.Unstructured `json:"objects"`
	} `json:"request"`
}

func startConverting(t *testing.T) *converting {
	t.Helper()
	m, _ := start(t, t.TempDir())
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(m.cfg.DataDir, kubeconfigFile))
	if err != nil {
		t.Fatal(err)
	}
	config.Host, config.QPS = "https://"+m.cfg.API.Addr().String(), -1
	c := &converting{T: t, config: config}
	if c.Interface, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return c
}

// with gives a test a webhook of its own.
func (c *converting) with(t *testing.T) *converting {
	each := &converting{T: t, Interface: c.Interface, config: c.config}
	each.hook = secure(t, each.serve)
	return each
}

// secure serves HTTPS until the test ends.
func secure(t *testing.T, serve http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(serve)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// admission serves a mutating webhook and says where, and by which CA in base64. patch gives its answer as a JSON patch.
func (c *converting) admission(patch func(object *unstructured.Unstructured) string) (url, ca string) {
	s := secure(c.T, func(w http.ResponseWriter, req *http.Request) {
		var r struct {
			metav1.TypeMeta
			Request struct {
				UID    string                     `json:"uid"`
				Object *unstructured.Unstructured `json:"object"`
			} `json:"request"`
		}
		if err := json.NewDecoder(req.Body).Decode(&r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": r.APIVersion, "kind": r.Kind,
			"response": map[string]any{"uid": r.Request.UID, "allowed": true, "patchType": "JSONPatch", "patch": []byte(patch(r.Request.Object))},
		})
	})
	return s.URL, base64.StdEncoding.EncodeToString(certificateOf(s))
}

func certificateOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// http is a client of the API.
func (c *converting) http() *http.Client {
	h, err := rest.HTTPClientFor(c.config)
	if err != nil {
		c.Fatal(err)
	}
	return h
}

func (c *converting) serve(w http.ResponseWriter, req *http.Request) {
	r := &review{}
	if err := json.NewDecoder(req.Body).Decode(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.asked = append(c.asked, *r)
	answer := c.answer
	c.mu.Unlock()
	if answer == nil {
		answer = func(w http.ResponseWriter, _ *http.Request, r *review) { r.reply(w, r.converted()...) }
	}
	answer(w, req, r)
}

// reply answers with success.
func (r *review) reply(w http.ResponseWriter, objs ...*unstructured.Unstructured) {
	r.replyWith(w, r.Request.UID, metav1.Status{Status: metav1.StatusSuccess}, objs...)
}

func (r *review) replyWith(w http.ResponseWriter, uid string, result metav1.Status, objs ...*unstructured.Unstructured) {
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": r.APIVersion, "kind": r.Kind,
		"response": map[string]any{"uid": uid, "result": result, "convertedObjects": objs},
	})
}

// converted are the objects as the definition of serve below means them: hostPort of v1 is host and port of v2, replicas are
// size, and objects of v2 have the label in=v2.
func (r *review) converted() []*unstructured.Unstructured {
	out := make([]*unstructured.Unstructured, 0, len(r.Request.Objects))
	for _, u := range r.Request.Objects {
		out = append(out, convert(u, r.Request.DesiredAPIVersion))
	}
	return out
}

func convert(u *unstructured.Unstructured, to string) *unstructured.Unstructured {
	u = u.DeepCopy()
	spec, _ := u.Object["spec"].(map[string]any)
	spec = maps.Clone(spec)
	labels := u.GetLabels()
	if strings.HasSuffix(to, "/v2") {
		host, port, found := strings.Cut(fmt.Sprint(spec["hostPort"]), ":")
		if spec["host"], spec["size"] = host, spec["replicas"]; found {
			spec["port"] = port
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels["in"] = "v2"
	} else {
		spec["hostPort"], spec["replicas"] = spec["host"], spec["size"]
		if port, found := spec["port"]; found {
			spec["hostPort"] = fmt.Sprint(spec["host"], ":", port)
		}
		delete(labels, "in")
	}
	own := []string{"hostPort", "replicas"}
	if strings.HasSuffix(to, "/v2") {
		own = []string{"host", "port", "size"}
	}
	maps.DeleteFunc(spec, func(field string, value any) bool { return value == nil || !slices.Contains(own, field) })
	u.Object["spec"] = spec
	u.SetLabels(labels)
	u.SetAPIVersion(to)
	return u
}

// calls are the reviews since the last time, as in "v2:3" for three objects into v2.
func (c *converting) calls() (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.asked {
		_, version, _ := strings.Cut(r.Request.DesiredAPIVersion, "/")
		out = append(out, fmt.Sprint(version, ":", len(r.Request.Objects)))
	}
	c.asked = nil
	return out
}

// wantCalls compares them.
func (c *converting) wantCalls(what string, want ...string) {
	c.Helper()
	if got := c.calls(); !slices.Equal(got, want) {
		c.Errorf("%s: the webhook was asked for %v, want %v", what, got, want)
	}
}

// answering sets what the webhook answers.
func (c *converting) answering(answer func(w http.ResponseWriter, req *http.Request, review *review)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

const endings = `
metadata: {name: endings.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: endings, kind: Ending}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.hostPort}]
    additionalPrinterColumns: [{name: Target, type: string, jsonPath: .spec.hostPort}]
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {hostPort: {type: string}, replicas: {type: integer, default: 1}}}
          status: {type: object, properties: {replicas: {type: integer}, selector: {type: string}}}
  - name: v2
    served: true
    storage: false
    selectableFields: [{jsonPath: .spec.host}]
    additionalPrinterColumns: [{name: Host, type: string, jsonPath: .spec.host}, {name: Port, type: string, jsonPath: .spec.port}]
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {host: {type: string}, port: {type: string, maxLength: 5}, size: {type: integer, default: 1}}}
          status: {type: object, properties: {replicas: {type: integer}, selector: {type: string}}}
`

// kind is one that the webhook converts; each test has its own group.
type kind struct {
	*converting
	group  string
	v1, v2 dynamic.ResourceInterface
}

// define makes a kind.
func (c *converting) define(group string) *kind {
	c.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(endings, "GROUP", group)), crd); err != nil {
		c.Fatal(err)
	}
	crd.SetGroupVersionKind(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition"))
	crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
		Strategy: apiextensionsv1.WebhookConverter,
		Webhook: &apiextensionsv1.WebhookConversion{
			ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: &c.hook.URL, CABundle: certificateOf(c.hook)},
			ConversionReviewVersions: []string{"v1", "v1beta1"},
		},
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(crd)
	if err != nil {
		c.Fatal(err)
	}
	if _, err := c.Resource(definitions).Create(c.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	k := &kind{converting: c, group: group, v1: c.client(group, "v1"), v2: c.client(group, "v2")}
	k.served(func() error {
		_, err := k.v1.List(c.Context(), metav1.ListOptions{})
		return err
	})
	return k
}

func (c *converting) client(group, version string) dynamic.ResourceInterface {
	return c.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: "endings"}).Namespace("default")
}

// served waits until something works.
func (k *kind) served(try func() error) {
	k.Helper()
	var err error
	for range 500 {
		if err = try(); err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-k.Context().Done():
		}
	}
	k.Fatal(err)
}

// redefine changes the definition, and waits until it is served so.
func (k *kind) redefine(patch string, try func() error) {
	k.Helper()
	if _, err := k.Resource(definitions).Patch(k.Context(), "endings."+k.group, "application/json-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
		k.Fatal(err)
	}
	k.served(try)
}

// object of a version; fields is its spec in YAML.
func (k *kind) object(version, name, spec string) *unstructured.Unstructured {
	k.Helper()
	u := &unstructured.Unstructured{}
	text := fmt.Sprintf("{apiVersion: %s/%s, kind: Ending, metadata: {name: %s}, spec: %s}", k.group, version, name, spec)
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		k.Fatal(err)
	}
	return u
}

// is compares spec, in JSON, and version.
func (k *kind) is(u *unstructured.Unstructured, err error, version, spec string) *unstructured.Unstructured {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
	data, _ := json.Marshal(u.Object["spec"])
	if string(data) != spec || u.GetAPIVersion() != k.group+"/"+version {
		k.Errorf("%s %s, want %s %s", u.GetAPIVersion(), data, version, spec)
	}
	return u
}

// fails compares an error.
func (k *kind) fails(err error, code int32, message string) {
	k.Helper()
	var status metav1.Status
	if s, ok := err.(interface{ Status() metav1.Status }); ok {
		status = s.Status()
	}
	if status.Code != code || status.Message != message {
		k.Errorf("%v\n got %d %s\nwant %d %s", err, status.Code, status.Message, code, message)
	}
}
