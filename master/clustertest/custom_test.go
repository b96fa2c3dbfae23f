package clustertest

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	crontabs    = schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "crontabs"}
)

const crontabDefinition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.image}]
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              image: {type: string}
              replicas: {type: integer, default: 1, maximum: 8}
              hosts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, ip: {type: string}}}
          status: {type: object, properties: {replicas: {type: integer}}}
`

// dynamic is a client for objects of any kind.
func (c *cluster) dynamic() dynamic.Interface {
	c.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.dir, "master", "admin.kubeconfig"))
	if err != nil {
		c.Fatal(err)
	}
	d, err := dynamic.NewForConfigAndClient(config, c.http)
	if err != nil {
		c.Fatal(err)
	}
	return d
}

func manifest(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u
}

func at(u *unstructured.Unstructured, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return v
}

// define makes the kind of crontabs and waits until it is served.
func (c *cluster) define(d dynamic.Interface) {
	c.Helper()
	if _, err := d.Resource(definitions).Create(c.ctx, manifest(c.T, crontabDefinition), metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	c.eventually(5*time.Second, "the kind is established", func() bool {
		u, err := d.Resource(definitions).Get(c.ctx, "crontabs.stable.example.com", metav1.GetOptions{})
		if err != nil {
			c.Fatal(err)
		}
		data, _ := json.Marshal(at(u, "status", "conditions"))
		return strings.Contains(string(data), `"status":"True","type":"Established"`)
	})
	if _, err := d.Resource(crontabs).List(c.ctx, metav1.ListOptions{}); err != nil {
		c.Error("established, but not served:", err)
	}
}

const crontab = `{apiVersion: stable.example.com/v1, kind: CronTab, metadata: {name: one}, spec: {image: i, hosts: [{name: a, ip: x}]}}`

// TestCustomResources goes through what a client does with a kind of its own.
func TestCustomResources(t *testing.T) {
	run(t, 0, func(c *cluster) {
		d := c.dynamic()
		c.define(d)
		tabs := d.Resource(crontabs).Namespace("default")
		watch, err := tabs.Watch(c.ctx, metav1.ListOptions{FieldSelector: "spec.image=i"})
		if err != nil {
			c.Fatal(err)
		}
		defer watch.Stop()
		one, err := tabs.Create(c.ctx, manifest(t, crontab), metav1.CreateOptions{FieldValidation: "Strict"})
		if err != nil || at(one, "spec", "replicas") != int64(1) || one.GetGeneration() != 1 || one.GetUID() == "" {
			c.Fatal(one, err)
		}
		if e := <-watch.ResultChan(); e.Type != "ADDED" || e.Object.(*unstructured.Unstructured).GetName() != "one" {
			c.Errorf("watched %+v", e)
		}
		for what, wrong := range map[string]string{
			`unknown field "spec.foo"`:                  strings.Replace(crontab, "image: i", "foo: i", 1),
			`spec.image: Invalid value: "integer"`:      strings.Replace(crontab, "image: i", "image: 1", 1),
			`unknown field "metadata.foo"`:              strings.Replace(crontab, "name: one", "name: two, foo: bar", 1),
			`crontabs.stable.example.com "one" already`: crontab,
		} {
			if _, err := tabs.Create(c.ctx, manifest(t, wrong), metav1.CreateOptions{FieldValidation: "Strict"}); err == nil || !strings.Contains(err.Error(), what) {
				c.Errorf("%s: %v", what, err)
			}
		}
		for patch, body := range map[types.PatchType]string{
			types.MergePatchType: `{"spec":{"replicas":2}}`,
			types.JSONPatchType:  `[{"op":"replace","path":"/spec/replicas","value":3}]`,
			types.ApplyPatchType: `{"apiVersion":"stable.example.com/v1","kind":"CronTab","spec":{"hosts":[{"name":"b","ip":"y"}]}}`,
		} {
			if one, err = tabs.Patch(c.ctx, "one", patch, []byte(body), metav1.PatchOptions{FieldManager: "me"}); err != nil {
				c.Errorf("%s: %v", patch, err)
			}
		}
		if hosts, _ := at(one, "spec", "hosts").([]any); len(hosts) != 2 {
			one, err = tabs.Get(c.ctx, "one", metav1.GetOptions{})
			if hosts, _ = at(one, "spec", "hosts").([]any); err != nil || len(hosts) != 2 {
				c.Errorf("applied hosts do not merge by name: %v, %v", hosts, err)
			}
		}
		if _, err := tabs.Patch(c.ctx, "one", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{}); !apierrors.IsUnsupportedMediaType(err) {
			c.Errorf("a strategic patch: %v", err)
		}
		scaled, err := tabs.Patch(c.ctx, "one", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{}, "scale")
		if err != nil || scaled.GetKind() != "Scale" || at(scaled, "spec", "replicas") != int64(7) {
			c.Errorf("scaled: %v, %v", scaled, err)
		}
		one, err = tabs.Patch(c.ctx, "one", types.MergePatchType, []byte(`{"spec":{"replicas":1},"status":{"replicas":5}}`), metav1.PatchOptions{}, "status")
		if err != nil || at(one, "spec", "replicas") != int64(7) || at(one, "status", "replicas") != int64(5) {
			c.Errorf("with a status: %v, %v", one, err)
		}
		if list, err := tabs.List(c.ctx, metav1.ListOptions{FieldSelector: "spec.image!=i"}); err != nil || len(list.Items) != 0 {
			c.Errorf("selected %v, %v", list, err)
		}
		if _, err := tabs.List(c.ctx, metav1.ListOptions{FieldSelector: "spec.replicas=1"}); !apierrors.IsBadRequest(err) {
			c.Errorf("a field that cannot be selected: %v", err)
		}
	})
}

// TestCustomResourcesFollowTheirDefinition: a new default counts for old objects, a restarted master has them, quotas count
// them, and they go with their owner, their namespace and their definition.
func TestCustomResourcesFollowTheirDefinition(t *testing.T) {
	run(t, 0, func(c *cluster) {
		d := c.dynamic()
		c.define(d)
		tabs := d.Resource(crontabs).Namespace("default")
		if _, err := tabs.Create(c.ctx, manifest(t, crontab), metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		watch, err := tabs.Watch(c.ctx, metav1.ListOptions{})
		if err != nil {
			c.Fatal(err)
		}
		<-watch.ResultChan()
		const path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/"
		_, err = d.Resource(definitions).Patch(c.ctx, "crontabs.stable.example.com", types.JSONPatchType, []byte(
			`[{"op":"add","path":"`+path+`zone","value":{"type":"string","default":"UTC"}},{"op":"remove","path":"`+path+`hosts"}]`), metav1.PatchOptions{})
		if err != nil {
			c.Fatal(err)
		}
		if e, open := <-watch.ResultChan(); open {
			c.Errorf("the watch goes on by the old definition: %v", e)
		}
		has := func(when string) {
			c.Helper()
			one, err := tabs.Get(c.ctx, "one", metav1.GetOptions{})
			if err != nil || at(one, "spec", "zone") != "UTC" || at(one, "spec", "hosts") != nil {
				c.Errorf("%s: %v, %v", when, one, err)
			}
		}
		has("after the change")
		c.restartMaster(time.Second)
		c.http.CloseIdleConnections()
		has("after a restart")

		hard := corev1.ResourceList{"count/crontabs.stable.example.com": resource.MustParse("1")}
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
		if _, err := c.kube.CoreV1().ResourceQuotas("default").Create(c.ctx, quota, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		two := manifest(t, strings.Replace(crontab, "name: one", "name: two", 1))
		if _, err := tabs.Create(c.ctx, two, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "exceeded quota") {
			c.Errorf("beyond the quota: %v", err)
		}
		owner, err := tabs.Get(c.ctx, "one", metav1.GetOptions{})
		if err != nil {
			c.Fatal(err)
		}
		owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "stable.example.com/v1", Kind: "CronTab", Name: "one", UID: owner.GetUID(),
		}}}}
		if _, err := c.kube.CoreV1().ConfigMaps("default").Create(c.ctx, owned, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		if err := tabs.DeleteCollection(c.ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "the owned object goes too", func() bool {
			_, err := c.kube.CoreV1().ConfigMaps("default").Get(c.ctx, "owned", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})

		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
		if _, err := c.kube.CoreV1().Namespaces().Create(c.ctx, ns, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		for _, namespace := range []string{"shop", "default"} {
			if _, err := d.Resource(crontabs).Namespace(namespace).Create(c.ctx, manifest(t, crontab), metav1.CreateOptions{}); err != nil {
				c.Fatal(err)
			}
		}
		if err := c.kube.CoreV1().Namespaces().Delete(c.ctx, "shop", metav1.DeleteOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "the namespace goes", func() bool {
			_, err := c.kube.CoreV1().Namespaces().Get(c.ctx, "shop", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		if err := c.kube.CoreV1().ResourceQuotas("default").Delete(c.ctx, "q", metav1.DeleteOptions{}); err != nil {
			c.Fatal(err)
		}
		// What belongs to the objects goes with them, however many there are.
		const many = 30
		for i := range many {
			name := fmt.Sprint("many-", i)
			made, err := tabs.Create(c.ctx, manifest(t, strings.Replace(crontab, "name: one", "name: "+name, 1)), metav1.CreateOptions{})
			if err != nil {
				c.Fatal(err)
			}
			owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": "crontab"}, OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "stable.example.com/v1", Kind: "CronTab", Name: name, UID: made.GetUID(),
			}}}}
			if _, err := c.kube.CoreV1().ConfigMaps("default").Create(c.ctx, owned, metav1.CreateOptions{}); err != nil {
				c.Fatal(err)
			}
		}
		if err := d.Resource(definitions).Delete(c.ctx, "crontabs.stable.example.com", metav1.DeleteOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "what belongs to the objects goes", func() bool {
			left, err := c.kube.CoreV1().ConfigMaps("default").List(c.ctx, metav1.ListOptions{LabelSelector: "of=crontab"})
			return err == nil && len(left.Items) == 0
		})
		c.eventually(time.Minute, "the definition goes", func() bool {
			_, err := d.Resource(definitions).Get(c.ctx, "crontabs.stable.example.com", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		if _, err := tabs.List(c.ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
			c.Errorf("still served: %v", err)
		}
	})
}
