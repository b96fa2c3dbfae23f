package pods

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

func TestConfigErrors(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
		n.apply(p)
		n.want("uid-p", "Pending a=CreateContainerConfigError")
		if m := n.status("uid-p").ContainerStatuses[0].State.Waiting.Message; m != `configmap "cm" not found` {
			t.Error(m)
		}
		n.apply(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"K": "v"}})
		n.want("uid-p", "Running a=running+")
		if n.count(`Failed: Error: configmap "cm" not found`) != 1 {
			t.Error(n.takeEvents())
		}

		q := pod("q", "a")
		q.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ref(true)}
		n.apply(q)
		n.want("uid-q", "Pending a=CreateContainerConfigError")
		if m := n.status("uid-q").ContainerStatuses[0].State.Waiting.Message; m != `container has runAsNonRoot and image will run as root (pod: "q_default(uid-q)", container: a)` {
			t.Error(m)
		}
	})
}

func TestVolumeAppearsAndChanges(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		n.apply(p)
		n.want("uid-p", "Pending a=ContainerCreating")
		n.wantEvents(`FailedMount: MountVolume.SetUp failed for volume "v" : secret "s" not found`)
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte("1")}}
		n.apply(secret)
		n.want("uid-p", "Running a=running+")
		file := n.dir + "/pods/uid-p/volumes/kubernetes.io~secret/v/k"
		if data, err := os.ReadFile(file); err != nil || string(data) != "1" {
			t.Error(string(data), err)
		}
		secret = secret.DeepCopy()
		secret.Data["k"] = []byte("2")
		n.apply(secret)
		if data, _ := os.ReadFile(file); string(data) != "2" || n.engine.Calls("StartContainer") != 1 {
			t.Error(string(data))
		}
		data, _ := os.ReadFile(n.dir + "/pods/uid-p/resolv.conf")
		if string(data) != "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.254.254.1\noptions ndots:5\n" {
			t.Error(string(data))
		}
		if data, _ = os.ReadFile(n.dir + "/pods/uid-p/etc-hosts"); !strings.Contains(string(data), "10.244.0.2\tp\n") {
			t.Error(string(data))
		}
	})
}

func TestImageErrors(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].Image = "no/such"
		n.apply(p)
		n.want("uid-p", "Pending a=ErrImagePull")
		seconds(4)
		n.want("uid-p", "Pending a=ImagePullBackOff")
		n.engine.Publish("no/such", fake.Published{})
		seconds(7)
		n.want("uid-p", "Running a=running+")
		if n.count("Failed: Error: ErrImagePull") != 1 || n.count("BackOff: Back-off pulling image \"no/such\"") != 1 {
			t.Error(n.takeEvents())
		}
	})
}

func TestImageRemovedBehindOurBack(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("app", fake.Published{})
		for _, name := range []string{"p", "q"} {
			p := pod(name, "a")
			p.Spec.Containers[0].Image = "app"
			n.apply(p)
			n.want("uid-"+name, "Running a=running+")
			n.delete(p, 0)
			image, _ := n.engine.Image(context.Background(), "app")
			if err := n.engine.RemoveImage(context.Background(), image.ID); err != nil {
				t.Fatal(err)
			}
		}
		p := pod("r", "a")
		p.Spec.Containers[0].Image = "app"
		n.apply(p)
		seconds(5)
		n.want("uid-r", "Running a=running+")
	})
}

func TestAdmission(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1")}}})
		big := func(name string) *corev1.Pod {
			p := pod(name, "a")
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("700m")}
			return p
		}
		n.apply(big("p"))
		n.apply(big("q"))
		n.want("uid-p", "Running a=running+")
		n.want("uid-q", "Failed")
		if s := n.status("uid-q"); s.Reason != "OutOfcpu" || s.Message != "Pod was rejected: Node didn't have enough resource: cpu, requested: 700, used: 700, capacity: 1000" {
			t.Error(s.Reason, s.Message)
		}
		n.delete(big("p"), 0)
		n.apply(big("r"))
		n.want("uid-r", "Running a=running+")
	})
}

func TestHostNetworkAndRepublish(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.HostNetwork = true
		n.apply(p)
		n.want("uid-p", "Running a=running+")
		if s := n.status("uid-p"); s.PodIP != "198.51.100.11" || len(n.net.attached) != 0 {
			t.Error(s.PodIP, n.net.attached)
		}
		if data, _ := os.ReadFile(n.dir + "/pods/uid-p/etc-hosts"); !strings.HasPrefix(string(data), "# Kubernetes-managed hosts file (host network).") {
			t.Error(string(data))
		}
		before := len(n.reports("uid-p"))
		n.manager.Republish()
		synctest.Wait()
		if got := len(n.reports("uid-p")); got != before+1 {
			t.Error(before, got)
		}
	})
}

func TestEphemeralContainer(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		n.apply(p)
		p = p.DeepCopy()
		p.Generation = 2
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "img", ImagePullPolicy: "IfNotPresent"}, TargetContainerName: "a"}}
		var mu sync.Mutex
		target := ""
		n.engine.Script("debug", func(s runtime.ContainerSpec) fake.Program {
			mu.Lock()
			defer mu.Unlock()
			target = s.PIDTarget
			return fake.Program{}
		})
		n.apply(p)
		mu.Lock()
		defer mu.Unlock()
		if target != n.id("uid-p", "a") {
			t.Error("the target's processes are not shared:", target)
		}
		if s := n.status("uid-p"); len(s.EphemeralContainerStatuses) != 1 || s.EphemeralContainerStatuses[0].State.Running == nil {
			t.Errorf("%+v", s)
		}
		if f, err := n.manager.Running("default", "p", "", "debug"); err != nil || f.ContainerID == "" {
			t.Error(err)
		}
		n.engine.Kill(n.id("uid-p", "debug"), 0, false)
		seconds(60)
		if n.engine.Calls("StartContainer") != 2 {
			t.Error("an ephemeral container was restarted")
		}
		n.want("uid-p", "Running a=running+")
	})
}

func TestNodeResolv(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain, stub, real := file("plain", "nameserver 192.0.2.1\n"), file("stub", "nameserver 127.0.0.53\n"), file("real", "nameserver 192.0.2.2\n")
	for _, tt := range []struct{ first, second, want string }{
		{plain, real, "192.0.2.1"}, {stub, real, "192.0.2.2"}, {stub, dir + "/none", "127.0.0.53"}, {dir + "/none", real, "192.0.2.2"},
	} {
		if got := nodeResolv(tt.first, tt.second).Nameservers; len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s, %s: %v, want %s", tt.first, tt.second, got, tt.want)
		}
	}
}

// limits.memory of a container without one is what the node has to give, as the API documents it.
func TestLimitsDefaultToTheNode(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}) // as the master tells of it
		p := pod("p", "a")
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "LIMIT", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory"}}}}
		var env []string
		n.engine.Script("a", func(s runtime.ContainerSpec) fake.Program { env = s.Env; return fake.Program{} })
		n.apply(p)
		n.want("uid-p", "Running a=running+")
		if !slices.Contains(env, "LIMIT=943718400") {
			t.Error(env)
		}
	})
}
