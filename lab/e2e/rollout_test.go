//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestWordPressChangesItsImage is app-wordpress3.yml: the image is edited and
// applied, and then the old file again.
func TestWordPressChangesItsImage(t *testing.T) {
	emptyDefault(t)
	old := example("app-wordpress3.yml")
	prints(t, "create", kubectl(t, "create", "-f", old), `^deployment.extensions/wordpress created$`)
	podsReady(t, newest, "app=wordpress", 2)
	table(t, kubectl(t, "get", "deployment")).has(deploymentColumns...).row("wordpress")
	first := onlyReplicaSet(t, newest)
	pageShows(t, beside(), nodeURL(cluster.Node(1), 30080), "install.php")

	file := filepath.Join(t.TempDir(), "app-wordpress3.yml")
	manifest, err := os.ReadFile(old)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(manifest), "image: wordpress\n", "image: wordpress:fpm\n", 1)
	if err := os.WriteFile(file, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	watched := watchPods(t, newest, "app=wordpress")
	prints(t, "apply of what create made", kubectl(t, "apply", "-f", file), `^deployment.extensions/wordpress configured$`, `^pod/wordpress-mysql configured$`)
	prints(t, "rollout status", kubectl(t, "rollout", "status", "deployment/wordpress", "--timeout=3m"), `successfully rolled out`)
	podsReady(t, newest, "app=wordpress", 2)
	// extensions/v1beta1 lets one of two be away, so the other must have stayed
	// until a new one was ready.
	if least := watched.leastReady(t); least < 1 {
		t.Error("for a moment no pod was ready")
	}

	table(t, kubectl(t, "get", "replicaset")).has(replicaSetColumns...)
	if got := replicas(t, newest); len(got) != 2 || got[first] != "0/0/0" {
		t.Errorf("the old ReplicaSet %s should be kept at 0: %v", first, got)
	}
	kubectl(t, "apply", "-f", old)
	kubectl(t, "rollout", "status", "deployment/wordpress", "--timeout=3m")
	podsReady(t, newest, "app=wordpress", 2)
	if got := replicas(t, newest); len(got) != 2 || got[first] != "2/2/2" {
		t.Errorf("the old ReplicaSet %s should be in use again: %v", first, got)
	}
	for _, n := range cluster.Nodes() {
		pageShows(t, beside(), nodeURL(n, 30080), "install.php")
	}
	prints(t, "delete", kubectl(t, "delete", "deployment", "wordpress"), `^deployment.apps "wordpress" deleted`)
	noPods(t, newest, "app=wordpress")
}

// TestWordPressIsUpdatedAndRolledBack is wordpress-update.yml: people read the site meanwhile, and then somebody mistypes an image.
func TestWordPressIsUpdatedAndRolledBack(t *testing.T) {
	emptyDefault(t)
	kubectl(t, "apply", "-f", example("app-wordpress3.yml"))
	const needsPHP = "wp-includes/version.php"
	for _, pod := range podsReady(t, newest, "app=wordpress", 2) { // as they count before Apache listens
		pageShows(t, on(nodeNamed(t, pod["NODE"])), "http://"+pod["IP"]+"/"+needsPHP, "")
	}
	page := nodeURL(cluster.Node(2), 30080) + needsPHP
	pageShows(t, beside(), page, "")
	l := startLoad(t, beside(), page, 20, nil)
	status := func(k cli) string {
		return k.run(t, "rollout", "status", "deployment/wordpress", "--timeout="+settle.String())
	}
	prints(t, "apply", kubectl(t, "apply", "-f", example("wordpress-update.yml")), `^deployment.apps/wordpress configured$`)
	prints(t, "rollout status", status(newest), `successfully rolled out`)
	// Not back to app-wordpress3.yml, whose pods count as ready before Apache listens.
	kubectl(t, "set", "image", "deployment/wordpress", "wordpress=wordpress")
	prints(t, "rollout status", status(newest), `successfully rolled out`)
	kubectl(t, "rollout", "undo", "deployment/wordpress")
	prints(t, "rollout status", status(wpctl), `successfully rolled out`)
	kubectl(t, "set", "image", "deployment/wordpress", "wordpress=wordpress:mistyped")
	failed := wpctl.try(t, "rollout", "status", "deployment/wordpress", "--timeout=10s")
	prints(t, "rollout status of a failure", failed.stderr, `^Pod wordpress-\S+ on node \S+, container wordpress: (ErrImagePull|ImagePullBackOff)$`)
	kubectl(t, "rollout", "undo", "deployment/wordpress")
	prints(t, "rollout status", status(newest), `successfully rolled out`)
	l.lostNone(t)
}

// replicas returns DESIRED/CURRENT/READY of each ReplicaSet.
func replicas(t testing.TB, k cli) map[string]string {
	t.Helper()
	all := map[string]string{}
	out := k.run(t, "get", "replicaset")
	if out == "" {
		return all
	}
	for _, r := range table(t, out).rows {
		all[r["NAME"]] = r["DESIRED"] + "/" + r["CURRENT"] + "/" + r["READY"]
	}
	return all
}

func onlyReplicaSet(t testing.TB, k cli) string {
	t.Helper()
	all := replicas(t, k)
	if len(all) != 1 {
		t.Fatalf("one ReplicaSet expected: %v", all)
	}
	for name := range all {
		return name
	}
	return ""
}

// podWatch follows pods with "kubectl get -w".
type podWatch struct {
	cancel  context.CancelFunc
	done    sync.WaitGroup
	least   int
	err     error
	history []string
}

// watchPods begins to follow the pods with a label, and returns when it has seen
// those that are there.
func watchPods(t testing.TB, k cli, label string) *podWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &podWatch{cancel: cancel, least: -1}
	present := strings.Count(k.run(t, "get", "pods", "-l", label, "-o", "name"), "\n")
	cmd := k.command(ctx, "get", "pods", "-l", label, "--watch", "--output-watch-events", "-o", "json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listed := make(chan struct{})
	w.done.Go(func() {
		defer func() { _ = cmd.Wait() }() // killed by cancel
		w.follow(bufio.NewReader(stdout), present, listed)
	})
	t.Cleanup(func() {
		cancel()
		w.done.Wait()
		if t.Failed() {
			t.Log("what was watched:\n" + strings.Join(w.history, "\n"))
		}
	})
	select {
	case <-listed:
	case <-t.Context().Done():
	}
	return w
}

// follow counts the ready pods after each event. Who is not ready because its node was not heard of for a moment has not been
// taken away by what is watched.
func (w *podWatch) follow(r *bufio.Reader, present int, listed chan struct{}) {
	ready := map[string]bool{}
	seen := false
	for d := json.NewDecoder(r); ; {
		var event struct {
			Type   string
			Object corev1.Pod
		}
		if err := d.Decode(&event); err != nil {
			w.err = err
			if !seen {
				close(listed)
			}
			return
		}
		pod := &event.Object
		w.history = append(w.history, tale(event.Type, pod))
		ready[pod.Name] = event.Type != "DELETED" && pod.DeletionTimestamp == nil && (isReady(pod) || ready[pod.Name] && nodeNotReady(pod))
		if event.Type == "DELETED" {
			delete(ready, pod.Name)
		}
		if !seen && len(ready) == present {
			seen = true
			close(listed)
		}
		if seen {
			n := 0
			for _, r := range ready {
				if r {
					n++
				}
			}
			if w.least < 0 || n < w.least {
				w.least = n
			}
		}
	}
}

// tale is an event in a line, for who wants to know why too few were ready.
func tale(event string, pod *corev1.Pod) string {
	line := fmt.Sprintf("%s %s %s on %s: %s", time.Now().Format("15:04:05.000"), event, pod.Name, pod.Spec.NodeName, pod.Status.Phase)
	if pod.DeletionTimestamp != nil {
		line += ", going"
	}
	for _, c := range pod.Status.Conditions {
		line += fmt.Sprintf(", %s=%s %s", c.Type, c.Status, c.Reason)
	}
	return line
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func nodeNotReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Reason == "NodeNotReady"
		}
	}
	return false
}

// leastReady ends the watch and returns how few pods were ready at the worst time.
func (w *podWatch) leastReady(t testing.TB) int {
	t.Helper()
	w.cancel()
	w.done.Wait()
	if w.least < 0 {
		t.Fatalf("the watch saw nothing: %v", w.err)
	}
	return w.least
}

// TestRolloutCommands: status, history, undo, pause, resume and restart.
func TestRolloutCommands(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.run(t, "create", "deployment", "web", "--image=nginx:1.25", "--replicas=2")
		done := func() {
			t.Helper()
			prints(t, "rollout status", k.run(t, "rollout", "status", "deployment/web", "--timeout=3m"), `deployment "web" successfully rolled out`)
		}
		image := func() string {
			t.Helper()
			return k.run(t, "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
		}
		done()
		first := onlyReplicaSet(t, k)
		watched := watchPods(t, k, "app=web")
		prints(t, "set image", k.run(t, "set", "image", "deployment/web", "nginx=nginx:1"), `^deployment.apps/web image updated$`)
		done()
		// A quarter of two may be away in apps/v1, rounded down: nobody.
		if least := watched.leastReady(t); least < 2 {
			t.Errorf("for a moment only %d pods of 2 were ready", least)
		}
		prints(t, "rollout history", k.run(t, "rollout", "history", "deployment/web"), `^REVISION +CHANGE-CAUSE$`, `^1 +<none>$`, `^2 +<none>$`)
		prints(t, "rollout history of one", k.run(t, "rollout", "history", "deployment/web", "--revision=1"), `Image:\s+nginx:1.25$`)

		prints(t, "rollout undo", k.run(t, "rollout", "undo", "deployment/web"), `^deployment.apps/web rolled back$`)
		done()
		if got := replicas(t, k); image() != "nginx:1.25" || got[first] != "2/2/2" || len(got) != 2 {
			t.Errorf("undo should bring %s back: %v, image %s", first, got, image())
		}
		prints(t, "rollout history", k.run(t, "rollout", "history", "deployment/web"), `^2 +<none>$`, `^3 +<none>$`)
		k.run(t, "rollout", "undo", "deployment/web", "--to-revision=2")
		done()
		if image() != "nginx:1" {
			t.Errorf("undo to revision 2 gave %s", image())
		}

		prints(t, "rollout pause", k.run(t, "rollout", "pause", "deployment/web"), `^deployment.apps/web paused$`)
		k.run(t, "set", "image", "deployment/web", "nginx=nginx:1.14.2")
		k.run(t, "scale", "deployment/web", "--replicas=3") // scaling goes on, changes wait
		podsReady(t, k, "app=web", 3)
		if got := len(replicas(t, k)); got != 2 {
			t.Errorf("a paused Deployment made a ReplicaSet: %d", got)
		}
		prints(t, "rollout resume", k.run(t, "rollout", "resume", "deployment/web"), `^deployment.apps/web resumed$`)
		done()
		if got := len(replicas(t, k)); got != 3 {
			t.Errorf("%d ReplicaSets after resume", got)
		}

		before := values(podsReady(t, k, "app=web", 3), "NAME")
		prints(t, "rollout restart", k.run(t, "rollout", "restart", "deployment/web"), `^deployment.apps/web restarted$`)
		done()
		after := strings.Join(values(podsReady(t, k, "app=web", 3), "NAME"), " ")
		for _, name := range before {
			if strings.Contains(after, name) {
				t.Errorf("%s was not restarted: %s", name, after)
			}
		}
	})
}

// TestScaleAndDelete: up and down again, and the three ways of delete --cascade.
func TestScaleAndDelete(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		for _, cascade := range []string{"background", "foreground", "orphan"} {
			k.run(t, "create", "deployment", cascade, "--image=nginx", "--replicas=1")
		}
		label := func(name string) string { return "app=" + name }
		podsReady(t, k, label("orphan"), 1)
		prints(t, "scale", k.run(t, "scale", "deployment", "orphan", "--replicas=4"), `^deployment.apps/orphan scaled$`)
		podsReady(t, k, label("orphan"), 4)
		k.run(t, "scale", "--replicas", "1", "deployment", "orphan")
		kept := podsReady(t, k, label("orphan"), 1)[0]["NAME"]
		if r := k.try(t, "scale", "deployment", "orphan", "--current-replicas=7", "--replicas=2"); r.err == nil {
			t.Error("scale with a wrong --current-replicas should fail")
		}

		k.run(t, "delete", "deployment", "background", "--cascade=background")
		noPods(t, k, label("background"))
		// kubectl waits until the Deployment is gone, and that comes last.
		k.run(t, "delete", "deployment", "foreground", "--cascade=foreground")
		if left := k.run(t, "get", "replicasets,pods", "-l", label("foreground"), "-o", "name"); left != "" {
			t.Errorf("foreground deletion ended before %s", left)
		}
		k.run(t, "delete", "deployment", "orphan", "--cascade=orphan")
		eventually(t, settle, "the orphans have no owner", func() error {
			owners := k.run(t, "get", "replicaset", "-l", label("orphan"), "-o", "jsonpath={.items[*].metadata.ownerReferences}")
			if owners != "" {
				return fmt.Errorf("owners %s", owners)
			}
			return nil
		})
		rs := onlyReplicaSet(t, k)
		if left := podsReady(t, k, label("orphan"), 1)[0]["NAME"]; left != kept {
			t.Errorf("the pod %s was replaced by %s", kept, left)
		}
		k.run(t, "delete", "replicaset", rs, "--cascade=orphan")
		if left := podsReady(t, k, label("orphan"), 1)[0]["NAME"]; left != kept {
			t.Errorf("the pod %s was replaced by %s", kept, left)
		}
	})
}
