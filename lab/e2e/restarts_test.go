//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/lab"
)

// restarted waits until the pod, and no other in its place, runs again.
func (w web) restarted(t *testing.T, n *lab.Node, was corev1.Pod) {
	t.Helper()
	eventually(t, settle, was.Name+" runs again", func() error {
		for _, p := range w.pods(t) {
			if p.UID == was.UID && isReady(&p) && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0 {
				return nil
			}
		}
		return fmt.Errorf("it does not")
	})
	if p := w.on(t, n); p.UID != was.UID {
		t.Errorf("another pod: %s instead of %s", p.Name, was.Name)
	}
	w.notDoubled(t)
	pageShows(t, beside(), w.url(n), "It works!")
}

// TestDockerRestarted is "systemctl restart docker": all containers end, and come back.
func TestDockerRestarted(t *testing.T) {
	w, n := startWeb(t, 30094), cluster.Node(2)
	afterwards(t, n)
	was := w.on(t, n)
	must(t, n.RestartDocker(t.Context()))
	w.restarted(t, n, was)
}

// inContainer runs a program in the first container of a node whose name begins so, without asking the master.
func inContainer(t *testing.T, n *lab.Node, prefix string, args ...string) error {
	t.Helper()
	for _, name := range dockerPS(t, n) {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		var c struct{ State struct{ Pid int } }
		if err := n.Engine(t.Context(), "GET", "/containers/"+name+"/json", nil, &c); err != nil {
			return err
		}
		_, err := output(n.Command(t.Context(), "nsenter", append([]string{"--target", fmt.Sprint(c.State.Pid), "--mount", "--net", "--"}, args...)...))
		return err
	}
	return fmt.Errorf("no container %s", prefix)
}

// TestRebootWithoutMaster reboots a node while there is no master to ask: what has
// to run is on the node's disk.
func TestRebootWithoutMaster(t *testing.T) {
	w, n := startWeb(t, 30095), cluster.Node(2)
	afterwards(t, n)
	was := w.on(t, n)
	must(t, cluster.KillMaster(t.Context()))
	must(t, n.Reboot(t.Context()))
	eventually(t, settle, "the pod runs without a master", func() error {
		for _, name := range dockerPS(t, n) {
			if strings.HasPrefix(name, "k8s_httpd_"+was.Name+"_") {
				return nil
			}
		}
		return fmt.Errorf("containers: %v", dockerPS(t, n))
	})
	pageShows(t, on(n), "http://"+was.Status.PodIP+"/", "It works!")
	pageShows(t, beside(), w.url(n), "It works!")
	for _, name := range []string{"web", "web." + w.ns, "web." + w.ns + ".svc.cluster.local", "kubernetes.default"} {
		eventually(t, settle, "a pod that came back resolves "+name, func() error {
			return inContainer(t, n, "k8s_httpd_"+was.Name+"_", "getent", "ahosts", name)
		})
	}
	must(t, cluster.StartMaster(t.Context()))
	awaitNode(t, n)
	w.restarted(t, n, was)
}

// TestAgentKilled kills an agent and starts it again: containers do not notice.
func TestAgentKilled(t *testing.T) {
	w, n := startWeb(t, 30096), cluster.Node(2)
	afterwards(t, n)
	l := w.load(t)
	before := containers(t, n)
	must(t, n.KillAgent(t.Context()))
	pageShows(t, beside(), w.url(n), "It works!")
	must(t, n.StartAgent(t.Context()))
	// It works again when it can start something new.
	w.k.feed(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: later}
spec:
  nodeName: %s
  containers: [{name: later, image: busybox, command: [sleep, "600"]}]
`, n.Name), "create", "-f", "-")
	w.k.run(t, "wait", "--for=condition=Ready", "pod/later", "--timeout", settle.String())
	w.k.run(t, "delete", "pod", "later", "--now")
	if after := containers(t, n); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("containers before: %v\nafter: %v", before, after)
	}
	if restarts := w.on(t, n).Status.ContainerStatuses[0].RestartCount; restarts != 0 {
		t.Errorf("%d restarts", restarts)
	}
	l.lostNone(t)
}
