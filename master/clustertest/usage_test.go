package clustertest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// uses makes an agent tell that each of the pods uses as much of the processor, in thousandths, and 10 MiB.
func (c *cluster) uses(node string, milli uint64, pods ...string) {
	c.Helper()
	sample := &agentv1.Sample{CpuNanos: milli * 1e6, Memory: 10 << 20, WindowMillis: 15000}
	u := &agentv1.Usage{UnixNano: time.Now().UnixNano(), Node: &agentv1.Sample{CpuNanos: 5e8, Memory: 1 << 30, WindowMillis: 15000}}
	for _, name := range pods {
		u.Pods = append(u.Pods, &agentv1.PodUsage{
			Namespace: "default", Name: name, Uid: string(c.pod(name).UID), Containers: []*agentv1.ContainerUsage{{Name: "web", Sample: sample}},
		})
	}
	c.agents[node].outbox.Usage(u)
	time.Sleep(time.Second)
}

// metrics reads below /apis/metrics.k8s.io.
func (c *cluster) metrics(path, accept string, into any) error {
	c.Helper()
	path, query, _ := strings.Cut(path, "?")
	rq := c.kube.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io"+path).SetHeader("Accept", accept)
	if selector, ok := strings.CutPrefix(query, "labelSelector="); ok {
		rq = rq.Param("labelSelector", selector)
	}
	result := rq.Do(c.ctx)
	if err := result.Error(); err != nil {
		return err
	}
	data, err := result.Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// What `kubectl top` and `kubectl get pods.metrics.k8s.io` ask for.
func TestUsageIsServed(t *testing.T) {
	run(t, 2, func(c *cluster) {
		groups, err := c.kube.Discovery().ServerGroups()
		if err != nil {
			t.Fatal(err)
		}
		offered := ""
		for _, g := range groups.Groups {
			if g.Name == "metrics.k8s.io" {
				offered = g.PreferredVersion.GroupVersion
			}
		}
		if offered != "metrics.k8s.io/v1beta1" {
			t.Errorf("offered: %q", offered)
		}
		kinds, err := c.kube.Discovery().ServerResourcesForGroupVersion("metrics.k8s.io/v1beta1")
		if err != nil || len(kinds.APIResources) != 2 || kinds.APIResources[0].Kind != "NodeMetrics" || len(kinds.APIResources[1].Verbs) != 2 {
			t.Errorf("%+v %v", kinds, err)
		}
		c.createPod(pinned("a", "n1"))
		c.createPod(pinned("b", "n2"))
		c.eventually(10*time.Second, "both run", func() bool { return c.running("a") && c.running("b") })

		const all, mine, json = "/v1beta1/pods", "/v1beta1/namespaces/default/pods", "application/json"
		var pods metricsv1beta1.PodMetricsList
		if err := c.metrics(all, json, &pods); err != nil || pods.Kind != "PodMetricsList" || len(pods.Items) != 0 {
			t.Errorf("before the first figures: %+v %v", pods, err)
		}
		var one metricsv1beta1.PodMetrics
		err = c.metrics(mine+"/a", json, &one)
		if want := `podmetrics.metrics.k8s.io "default/a" not found`; !apierrors.IsNotFound(err) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		var node metricsv1beta1.NodeMetrics
		if err := c.metrics("/v1beta1/nodes/n9", json, &node); !apierrors.IsNotFound(err) || err.Error() != `nodemetrics.metrics.k8s.io "n9" not found` {
			t.Error(err)
		}

		c.uses("n1", 250, "a", "b") // b is not its own: nobody believes that
		for path, want := range map[string]int{all: 1, mine: 1, mine + "?labelSelector=app=a": 1, mine + "?labelSelector=app=b": 0, "/v1beta1/namespaces/other/pods": 0} {
			pods = metricsv1beta1.PodMetricsList{}
			if err := c.metrics(path, json, &pods); err != nil || len(pods.Items) != want {
				t.Errorf("%s: %+v %v", path, pods.Items, err)
			}
		}
		if err := c.metrics(mine+"/a", json, &one); err != nil || one.Labels["app"] != "a" || len(one.Containers) != 1 || one.Containers[0].Usage.Cpu().String() != "250m" ||
			one.Containers[0].Usage.Memory().String() != "10Mi" || one.Window.Duration != 15*time.Second || time.Since(one.Timestamp.Time) > 3*time.Second {
			t.Errorf("%+v %v", one, err)
		}
		if err := c.metrics("/v1beta1/nodes/n1", json, &node); err != nil || node.Usage.Cpu().String() != "500m" || node.Usage.Memory().String() != "1Gi" {
			t.Errorf("%+v %v", node, err)
		}
		var table metav1.Table
		if err := c.metrics(mine, "application/json;as=Table;v=v1;g=meta.k8s.io", &table); err != nil || len(table.Rows) != 1 || len(table.ColumnDefinitions) != 4 ||
			table.ColumnDefinitions[1].Name != "cpu" || table.Rows[0].Cells[1] != "250m" || table.Rows[0].Cells[2] != "10Mi" || table.Rows[0].Cells[3] != "15s" {
			t.Errorf("%+v %v", table, err)
		}

		// They can be read, nothing else.
		res := c.kube.CoreV1().RESTClient().Delete().AbsPath("/apis/metrics.k8s.io" + mine + "/a").Do(c.ctx)
		if !apierrors.IsMethodNotSupported(res.Error()) {
			t.Error(res.Error())
		}
		if err := c.kube.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io"+all).Param("watch", "1").Do(c.ctx).Error(); !apierrors.IsMethodNotSupported(err) {
			t.Error(err)
		}
		// A node that falls silent is not spoken of for long.
		time.Sleep(time.Minute)
		if err := c.metrics(mine+"/a", json, &one); !apierrors.IsNotFound(err) {
			t.Error("old figures:", err)
		}
	})
}

// What `kubectl autoscale deployment web --cpu-percent=50 --min=1 --max=6` asks an old server for, of pods without requests: three
// idle ones go down to one, and a busy one up.
func TestAutoscaled(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(deployment("web", 3))
		c.eventually(10*time.Second, "three pods", func() bool { return c.ready("web")["n1"] == 3 })
		one, half := int32(1), int32(50)
		_, err := c.kube.AutoscalingV1().HorizontalPodAutoscalers("default").Create(c.ctx, &autoscalingv1.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
				MinReplicas:    &one, MaxReplicas: 6, TargetCPUUtilizationPercentage: &half,
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		use := func(milli uint64, period time.Duration) {
			for began := time.Now(); time.Since(began) < period; time.Sleep(14 * time.Second) {
				pods, err := c.kube.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
				if err != nil {
					t.Fatal(err)
				}
				var names []string
				for _, p := range pods.Items {
					names = append(names, p.Name)
				}
				c.uses("n1", milli, names...)
			}
		}
		use(1, 6*time.Minute)
		if got := c.ready("web"); got["n1"] != 1 {
			t.Errorf("idle: %v", got)
		}
		hpa, err := c.kube.AutoscalingV1().HorizontalPodAutoscalers("default").Get(c.ctx, "web", metav1.GetOptions{})
		if err != nil || hpa.Status.CurrentCPUUtilizationPercentage == nil || *hpa.Status.CurrentCPUUtilizationPercentage != 1 {
			t.Errorf("%+v %v", hpa.Status, err)
		}
		use(200, 90*time.Second)
		if got := c.ready("web"); got["n1"] != 6 {
			t.Errorf("busy: %v", got)
		}
	})
}
