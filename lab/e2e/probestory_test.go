//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// storyManifest is a WordPress with its database beside it, probed as in the articles, only more often. The startup probe
// stands for their initialDelaySeconds: it takes as long as the database needs.
const storyManifest = `
apiVersion: v1
kind: Service
metadata: {name: wordpress-mysql}
spec: {ports: [{port: 3306}], selector: {app: wordpress, tier: mysql}}
---
apiVersion: v1
kind: Pod
metadata: {name: wordpress-mysql, labels: {app: wordpress, tier: mysql}}
spec:
  nodeSelector: {kubernetes.io/hostname: NODE}
  terminationGracePeriodSeconds: 1
  containers:
  - name: mysql
    image: mysql
    ports: [{containerPort: 3306}]
    env:
    - {name: MYSQL_DATABASE, value: wordpress}
    - {name: MYSQL_USER, value: wordpress}
    - {name: MYSQL_PASSWORD, value: wordpress}
    - {name: MYSQL_RANDOM_ROOT_PASSWORD, value: "yes"}
    readinessProbe: {tcpSocket: {port: 3306}, initialDelaySeconds: 1, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 3306}, initialDelaySeconds: 10, periodSeconds: 30}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: wordpress}
spec:
  selector: {matchLabels: {app: wordpress, tier: frontend}}
  template:
    metadata: {labels: {app: wordpress, tier: frontend}}
    spec:
      nodeSelector: {kubernetes.io/hostname: NODE}
      terminationGracePeriodSeconds: 1
      containers:
      - name: wordpress
        image: wordpress
        imagePullPolicy: Always
        env:
        - {name: WORDPRESS_DB_HOST, value: wordpress-mysql}
        - {name: WORDPRESS_DB_USER, value: wordpress}
        - {name: WORDPRESS_DB_PASSWORD, value: wordpress}
        ports: [{containerPort: 80, name: http}]
        startupProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 120}
        livenessProbe:
          httpGet:
            path: /
            port: 80
            scheme: HTTP
          initialDelaySeconds: 1
          periodSeconds: 1
          timeoutSeconds: 15
          failureThreshold: 3
`

// TestProbeStory is the article's: whoever breaks the site's configuration inside the container sees the liveness probe
// fail, the container started anew in the same pod, and the edit gone with the old container.
func TestProbeStory(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.feed(t, strings.ReplaceAll(storyManifest, "NODE", cluster.Node(2).Name), "create", "-f", "-")
	before := podsReady(t, k, "tier=frontend", 1)[0]
	name := before["NAME"]
	page := "http://" + before["IP"] + "/wp-admin/install.php"
	n := nodeNamed(t, before["NODE"])
	pageShows(t, on(n), page, "weblog_title")

	// In one command: by the next, the container may be another.
	edit := `sed -i "s/^define( 'DB_HOST',.*/define( 'DB_HOST', '127.0.0.1:9' );/" wp-config.php; grep DB_HOST wp-config.php`
	prints(t, "the edit", k.run(t, "exec", name, "--", "sh", "-c", edit), `'127\.0\.0\.1:9'`)
	eventually(t, settle, "the container is restarted", func() error {
		if got := k.run(t, "get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}"); got != "1 true" {
			return fmt.Errorf("restarts, ready: %s", got)
		}
		return nil
	})
	after := podsReady(t, k, "tier=frontend", 1)[0]
	if after["NAME"] != name || after["IP"] != before["IP"] || after["NODE"] != before["NODE"] || !regexp.MustCompile(`^1 \(\S+ ago\)$`).MatchString(after["RESTARTS"]) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	pageShows(t, on(n), page, "weblog_title")
	if out := k.run(t, "exec", name, "--", "cat", "wp-config.php"); strings.Contains(out, "127.0.0.1:9") {
		t.Error("the edit outlived the container")
	}

	eventually(t, settle, "events are counted", func() error {
		text := k.run(t, "describe", "pod", name)
		for _, line := range []string{
			`Normal +Scheduled +\S+ +default-scheduler +Successfully assigned \S+/` + name + ` to ` + n.Name,
			`Warning +Unhealthy +\S+ \(x3 over \S+\) +kubelet +.*Liveness probe failed: HTTP probe failed with statuscode: 500`,
			`Normal +Killing +\S+ +kubelet +.*Container wordpress failed liveness probe, will be restarted`,
			`Normal +Pulling +\S+ \(x2 over \S+\) +kubelet +.*Pulling image "wordpress"`,
			`Normal +Created +\S+ \(x2 over \S+\) +kubelet +.*Container created`,
			`Normal +Started +\S+ \(x2 over \S+\) +kubelet +.*Container started`,
		} {
			if !regexp.MustCompile(`(?m)^ +` + line + `$`).MatchString(text) {
				return fmt.Errorf("no %q in:\n%s", line, text)
			}
		}
		return nil
	})
	last := k.run(t, "get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode}")
	prints(t, "the last state", last, `^(Completed 0|Error \d+)$`)
	// "docker ps -a" on the node tells which is which.
	names := strings.Join(dockerPS(t, n), "\n")
	prints(t, "docker ps", names, `^k8s_wordpress_`+name+`_\S+_1$`)
	if regexp.MustCompile(`(?m)^k8s_wordpress_` + name + `_\S+_0$`).MatchString(names) {
		t.Errorf("the old container runs:\n%s", names)
	}
}
