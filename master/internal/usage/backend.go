package usage

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// backend answers for metrics.k8s.io itself and leaves everything else to the one behind it. The table offers nothing but get
// and list of these kinds.
type backend struct {
	server.Backend
	registry *registry.Registry
	memory   *Memory
}

// Backend puts itself between the API server and the backend for the kinds of metrics.k8s.io.
func Backend(b server.Backend, r *registry.Registry, m *Memory) server.Backend {
	return &backend{Backend: b, registry: r, memory: m}
}

// The names by which metrics-server calls its kinds in errors.
var (
	nodeMetrics = schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: "nodemetrics"}
	podMetrics  = schema.GroupResource{Group: metricsv1beta1.GroupName, Resource: "podmetrics"}
)

// Get implements server.Backend. What is there but has not been measured is not found, as with metrics-server.
func (b *backend) Get(ctx context.Context, r *resource.Resource, namespace, name, resourceVersion string) (resource.Object, error) {
	if r.Storage.Group != metricsv1beta1.GroupName {
		return b.Backend.Get(ctx, r, namespace, name, resourceVersion)
	}
	var out resource.Object
	err := b.registry.View(func(v *registry.View) error {
		if !r.Namespaced {
			if n, err := registry.Get[*corev1.Node](v, "", name); err == nil {
				if m, ok := b.node(n); ok {
					out = m
					return nil
				}
			}
			return apierrors.NewNotFound(nodeMetrics, name)
		}
		if p, err := registry.Get[*corev1.Pod](v, namespace, name); err == nil {
			if m, ok := b.pod(p); ok {
				out = m
				return nil
			}
		}
		return apierrors.NewNotFound(podMetrics, namespace+"/"+name)
	})
	return out, err
}

// List implements server.Backend. Like metrics-server's, the list is whole at any time: limits are not kept, and there is no
// resourceVersion.
func (b *backend) List(ctx context.Context, r *resource.Resource, q server.ListQuery) (*server.ListResult, error) {
	if r.Storage.Group != metricsv1beta1.GroupName {
		return b.Backend.List(ctx, r, q)
	}
	out := &server.ListResult{Items: []resource.Object{}}
	err := b.registry.View(func(v *registry.View) error {
		if !r.Namespaced {
			for n := range registry.List[*corev1.Node](v, "") {
				if m, ok := b.node(n); ok && matches(&q, n) {
					out.Items = append(out.Items, m)
				}
			}
			return nil
		}
		for p := range registry.List[*corev1.Pod](v, q.Namespace) {
			if !matches(&q, p) {
				continue
			}
			if m, ok := b.pod(p); ok {
				out.Items = append(out.Items, m)
			}
		}
		return nil
	})
	return out, err
}

func matches(q *server.ListQuery, o registry.Object) bool {
	if q.Labels != nil && !q.Labels.Matches(labels.Set(o.GetLabels())) {
		return false
	}
	return q.Fields == nil || q.Fields.Empty() ||
		q.Fields.Matches(fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()})
}

func (b *backend) node(n *corev1.Node) (*metricsv1beta1.NodeMetrics, bool) {
	u, ok := b.memory.Node(n.Name)
	if !ok {
		return nil, false
	}
	return &metricsv1beta1.NodeMetrics{
		ObjectMeta: metaOf(n), Timestamp: metav1.NewTime(u.Time), Window: metav1.Duration{Duration: u.Window.Round(time.Millisecond)}, Usage: listOf(u.Figures),
	}, true
}

func (b *backend) pod(p *corev1.Pod) (*metricsv1beta1.PodMetrics, bool) {
	u, ok := b.memory.Pod(p.Spec.NodeName, string(p.UID))
	if !ok {
		return nil, false
	}
	m := &metricsv1beta1.PodMetrics{
		ObjectMeta: metaOf(p), Timestamp: metav1.NewTime(u.Time), Window: metav1.Duration{Duration: u.Window.Round(time.Millisecond)},
		Containers: make([]metricsv1beta1.ContainerMetrics, 0, len(u.Containers)),
	}
	for _, c := range u.Containers {
		m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: listOf(c.Figures)})
	}
	return m, true
}

// metaOf is all that metrics say of what was measured; they are as new as the answer.
func metaOf(o registry.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: o.GetNamespace(), Name: o.GetName(), Labels: maps.Clone(o.GetLabels()), CreationTimestamp: metav1.Now(),
	}
}

func listOf(f Figures) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *apiresource.NewScaledQuantity(f.CPU, apiresource.Nano),
		corev1.ResourceMemory: *apiresource.NewQuantity(f.Memory, apiresource.BinarySI),
	}
}
