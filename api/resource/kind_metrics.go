package resource

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kubernetes/pkg/printers"
	"k8s.io/metrics/pkg/apis/metrics"
)

var metricsV1beta1 = schema.GroupVersion{Group: metrics.GroupName, Version: "v1beta1"}

// computed lists the kinds whose objects are made when somebody asks for them. They are served, but nothing of them is stored.
var computed = []func() *Resource{nodeMetrics, podMetrics}

// nodeMetrics and podMetrics are offered as metrics-server offers them: to be read, by the names of what was measured, and
// without a singular.
func nodeMetrics() *Resource {
	return &Resource{
		Name: "nodes", Kind: "NodeMetrics", ListKind: "NodeMetricsList", Storage: metricsV1beta1, Served: served(metricsV1beta1),
		Verbs: []string{"get", "list"}, Computed: true,
	}
}

func podMetrics() *Resource {
	return &Resource{
		Name: "pods", Kind: "PodMetrics", ListKind: "PodMetricsList", Namespaced: true, Storage: metricsV1beta1, Served: served(metricsV1beta1),
		Verbs: []string{"get", "list"}, Computed: true,
	}
}

// addMetricsHandlers adds metrics-server's columns.
func addMetricsHandlers(h printers.PrintHandler) {
	columns := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: string(corev1.ResourceCPU), Type: "string", Format: "quantity"},
		{Name: string(corev1.ResourceMemory), Type: "string", Format: "quantity"},
		{Name: "Window", Type: "string", Format: "duration"},
	}
	utilruntime.Must(h.TableHandler(columns, func(in *metrics.NodeMetrics, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		return usageRow(in, in.Usage, in.Window), nil
	}))
	utilruntime.Must(h.TableHandler(columns, func(in *metrics.PodMetrics, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		sum := corev1.ResourceList{}
		for _, c := range in.Containers {
			for name, q := range c.Usage {
				total := sum[name]
				total.Add(q)
				sum[name] = total
			}
		}
		return usageRow(in, sum, in.Window), nil
	}))
}

func usageRow[I Object](in I, usage corev1.ResourceList, window metav1.Duration) []metav1.TableRow {
	cpu, memory := usage[corev1.ResourceCPU], usage[corev1.ResourceMemory]
	cells := []any{in.GetName(), cpu.String(), memory.String(), window.Duration.String()}
	return []metav1.TableRow{{Cells: cells, Object: runtime.RawExtension{Object: in}}}
}
