//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// examples are the manifests of the articles, unedited.
func example(name string) string { return filepath.Join("..", "..", "examples", name) }

// columns of kubectl's tables
var (
	podColumns         = []string{"NAME", "READY", "STATUS", "RESTARTS", "AGE"}
	podWideColumns     = append(podColumns[:len(podColumns):len(podColumns)], "IP", "NODE", "NOMINATED NODE", "READINESS GATES")
	serviceColumns     = []string{"NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"}
	deploymentColumns  = []string{"NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"}
	replicaSetColumns  = []string{"NAME", "DESIRED", "CURRENT", "READY", "AGE"}
	replicaWideColumns = append(replicaSetColumns[:len(replicaSetColumns):len(replicaSetColumns)], "CONTAINERS", "IMAGES", "SELECTOR")
)

// podsReady waits until exactly want pods with the label are there, all of them
// Running with all containers ready and none on its way out. It returns the rows
// of "get pod -o wide".
func podsReady(t testing.TB, k cli, label string, want int) []map[string]string {
	t.Helper()
	var rows []map[string]string
	eventually(t, settle, fmt.Sprintf("%d pods with %s are ready", want, label), func() error {
		r := k.try(t, "get", "pod", "-l", label, "-o", "wide")
		if r.err != nil {
			return fmt.Errorf("%w: %s", r.err, r.stderr)
		}
		rows = nil
		if r.stdout != "" {
			rows = table(t, r.stdout).has(podWideColumns...).rows
		}
		if len(rows) != want {
			return fmt.Errorf("%d pods:\n%s", len(rows), r.stdout)
		}
		for _, row := range rows {
			if ready, all, _ := strings.Cut(row["READY"], "/"); row["STATUS"] != "Running" || ready != all {
				return fmt.Errorf("not ready:\n%s", r.stdout)
			}
		}
		return nil
	})
	return rows
}

func values(rows []map[string]string, column string) []string {
	var all []string
	for _, r := range rows {
		all = append(all, r[column])
	}
	slices.Sort(all)
	return all
}

// prints complains unless each pattern matches the text.
func prints(t testing.TB, what, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(text) {
			t.Errorf("%s has nothing like %q:\n%s", what, p, text)
		}
	}
}

// eventuallyPrints waits until a command, whose arguments have no blanks in them, prints what matches each pattern: for what
// is told a moment after what one has waited for.
func eventuallyPrints(t testing.TB, k cli, command string, patterns ...string) {
	t.Helper()
	eventually(t, settle, command+" shows it", func() error {
		r := k.try(t, strings.Fields(command)...)
		for _, p := range patterns {
			if r.err != nil || !regexp.MustCompile(`(?m)`+p).MatchString(r.stdout) {
				return fmt.Errorf("nothing like %q: %v\n%s%s", p, r.err, r.stdout, r.stderr)
			}
		}
		return nil
	})
}

// TestHttpdAnswersOnEveryAddress is svc-httpd.yml as the article has it, with wpctl
// in kubectl's place.
func TestHttpdAnswersOnEveryAddress(t *testing.T) {
	emptyDefault(t)
	prints(t, "wpctl create", wpctl.run(t, "create", "-f", example("svc-httpd.yml")), `^pod/httpd created$`, `^service/httpd-svc created$`)
	onEveryAddress(t, 30080, "It works!")
	row := table(t, kubectl(t, "get", "svc")).has(serviceColumns...).row("httpd-svc")
	if row["TYPE"] != "NodePort" || row["PORT(S)"] != "80:30080/TCP" || !strings.HasPrefix(row["CLUSTER-IP"], "10.254.") || row["EXTERNAL-IP"] != "<none>" {
		t.Errorf("get svc shows %v", row)
	}
	if row := table(t, kubectl(t, "get", "svc")).row("kubernetes"); row["CLUSTER-IP"] != "10.254.0.1" || row["PORT(S)"] != "443/TCP" {
		t.Errorf("get svc shows %v", row)
	}
}

// TestWordPressAndMySQLInOnePod is app-wordpress.yml: two containers in a pod, of
// which one reaches the other through a Service.
func TestWordPressAndMySQLInOnePod(t *testing.T) {
	emptyDefault(t)
	prints(t, "create", kubectl(t, "create", "-f", example("app-wordpress.yml")),
		`^service/wordpress created$`, `^service/wordpress-mysql created$`, `^pod/wordpress-app created$`)
	row := podsReady(t, newest, "app=wordpress", 1)[0]
	if row["NAME"] != "wordpress-app" || row["READY"] != "2/2" {
		t.Errorf("get pod shows %v", row)
	}
	node := nodeNamed(t, row["NODE"])
	prints(t, "describe", kubectl(t, "describe", "pod", "wordpress-app"),
		`^Name: +wordpress-app$`, `^Namespace: +default$`, `^Node: +`+regexp.QuoteMeta(node.Name+"/"+node.Address.String())+`$`,
		`^Start Time: `, `^Labels: +app=wordpress$`, `^Status: +Running$`, `^IP: +`+regexp.QuoteMeta(row["IP"])+`$`,
		`^  Normal +Scheduled .* default-scheduler +Successfully assigned default/wordpress-app to `+node.Name+`$`,
		`^  Normal +Created .* kubelet`, `^  Normal +Started .* kubelet`)
	names := strings.Join(dockerPS(t, node), "\n")
	prints(t, "docker ps", names, `^k8s_mysql_wordpress-app_default_[0-9a-f-]{36}_0$`, `^k8s_wordpress_wordpress-app_default_[0-9a-f-]{36}_\d+$`)

	// A new WordPress sends browsers to its form, by whatever address they came.
	onEveryAddress(t, 30080, "install.php")
	useWordPress(t)
}

// TestTwoReplicasOnTwoNodes is app-wordpress2.yml: a ReplicaSet of the old API
// group without a selector.
func TestTwoReplicasOnTwoNodes(t *testing.T) {
	emptyDefault(t)
	prints(t, "wpctl create without -f, as the article has it", wpctl.fails(t, "create", example("app-wordpress2.yml")), `-f`)
	prints(t, "create", kubectl(t, "create", "-f", example("app-wordpress2.yml")),
		`^replicaset.extensions/wordpress-reps created$`, `^pod/wordpress-mysql created$`)
	rows := podsReady(t, newest, "app=wordpress", 2)
	podsReady(t, newest, "app=wordpress-mysql", 1)
	if nodes := values(rows, "NODE"); nodes[0] == nodes[1] {
		t.Errorf("both replicas are on %s", nodes[0])
	}
	rs := table(t, kubectl(t, "get", "replicaset", "-o", "wide")).has(replicaWideColumns...).row("wordpress-reps")
	for column, want := range map[string]string{"DESIRED": "2", "CURRENT": "2", "READY": "2", "CONTAINERS": "wordpress", "IMAGES": "wordpress", "SELECTOR": "app=wordpress"} {
		if rs[column] != want {
			t.Errorf("get replicaset -o wide: %s is %q, not %q", column, rs[column], want)
		}
	}
	onEveryAddress(t, 30080, "install.php")
	useWordPress(t)

	victim := rows[0]["NAME"]
	prints(t, "delete", kubectl(t, "delete", "pod", victim), `^pod "`+victim+`" deleted`)
	rows = podsReady(t, newest, "app=wordpress", 2)
	if slices.Contains(values(rows, "NAME"), victim) {
		t.Errorf("%s is still there", victim)
	}
	for _, n := range cluster.Nodes() {
		pageShows(t, blog(n), blogURL+"/", "Thar she blows")
	}

	prints(t, "delete", kubectl(t, "delete", "replicaset", "wordpress-reps"), `^replicaset.apps "wordpress-reps" deleted`)
	noPods(t, newest, "app=wordpress")
	podsReady(t, newest, "app=wordpress-mysql", 1)
}

// noPods waits until no pod with the label is left.
func noPods(t testing.TB, k cli, label string) {
	t.Helper()
	eventually(t, settle, "the pods with "+label+" are gone", func() error {
		if r := k.try(t, "get", "pods", "-l", label, "-o", "name"); r.err != nil || r.stdout != "" {
			return fmt.Errorf("%s%s%v", r.stdout, r.stderr, r.err)
		}
		return nil
	})
}

// TestEveryExampleIsApplied: what users copy works with a kubectl that knows nothing
// of us, and goes without a trace.
func TestEveryExampleIsApplied(t *testing.T) {
	files, err := filepath.Glob(example("*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		if filepath.Base(file) == "app-roles.yml" {
			continue // the largest of them is applied in TestOneImageFourRoles
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			k := newest.in(t, namespace(t))
			k.run(t, "apply", "-f", file)
			manifest, err := os.ReadFile(file)
			must(t, err)
			eventually(t, settle, "all pods are ready", func() error { return allReady(t, k, runsAtOnce.Match(manifest)) })
			if strings.Contains(string(manifest), "nodePort: 30080") {
				pageShows(t, beside(), nodeURL(cluster.Node(1), 30080), "<html")
			}
			// Once more changes nothing. Of claim templates kubectl says "configured" each time, as on Kubernetes: their defaults are
			// not in the file, and a list of them has no keys to merge by.
			generations := func() string {
				return k.run(t, "get", "-f", file, "--no-headers", "-o", "custom-columns=K:.kind,N:.metadata.name,G:.metadata.generation")
			}
			before := generations()
			for line := range strings.Lines(k.run(t, "apply", "-f", file)) {
				if !strings.HasSuffix(line, " unchanged\n") && !strings.HasPrefix(line, "statefulset.apps/") {
					t.Errorf("applied again: %s", line)
				}
			}
			if after := generations(); after != before {
				t.Errorf("applied again, these have changed:\n%s\nbefore:\n%s", after, before)
			}
			k.run(t, "delete", "-f", file, "--wait=false")
			eventually(t, settle, "everything is gone", func() error {
				if r := k.try(t, "get", "all", "-o", "name"); r.err != nil || r.stdout != "" {
					return fmt.Errorf("%s%s", r.stdout, r.stderr)
				}
				return nil
			})
		})
	}
}

// runsAtOnce are the kinds that have pods as soon as they are there; a CronJob has some when its time comes.
var runsAtOnce = regexp.MustCompile(`(?m)^kind: *(Pod|Deployment|ReplicaSet|ReplicationController|StatefulSet|DaemonSet)\b`)

// allReady: every pod of the namespace is ready, or has done what it was there for; some tells whether there must be any.
func allReady(t testing.TB, k cli, some bool) error {
	t.Helper()
	var list corev1.PodList
	must(t, json.Unmarshal([]byte(k.run(t, "get", "pods", "-o", "json")), &list))
	if some && len(list.Items) == 0 {
		return errors.New("there are no pods")
	}
	for _, p := range list.Items {
		if !podIsReady(p) && p.Status.Phase != corev1.PodSucceeded {
			return fmt.Errorf("%s is not ready: %+v", p.Name, p.Status)
		}
	}
	return nil
}

// TestReadmeNamesRealTargets: "make X" in the README is something that make does.
func TestReadmeNamesRealTargets(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(string(readme), -1) {
		for _, m := range regexp.MustCompile(`(?m)^(?:sudo )?make ([a-z0-9-]+)`).FindAllStringSubmatch(block[1], -1) {
			named[m[1]] = true
		}
	}
	for _, target := range []string{"demo", "test"} {
		if !named[target] {
			t.Errorf("the README does not say to run make %s", target)
		}
	}
	for target := range named {
		if !regexp.MustCompile(`(?m)^` + target + `:`).Match(makefile) {
			t.Errorf("the README says make %s, which the Makefile does not know", target)
		}
	}
}
