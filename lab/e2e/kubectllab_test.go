//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestKubectlLab is the article "Kubernetes Lab" from top to bottom, command by
// command, in the namespace default as there.
func TestKubectlLab(t *testing.T) {
	withEach(t, func(t *testing.T, k cli) {
		emptyDefault(t)
		labFirstDeployment(t, k)
		url := labPublish(t, k)
		labScale(t, k, url)
		labRedis(t, k, url)
	})
}

// labFirstDeployment is "最初のデプロイ" and "状態の確認".
func labFirstDeployment(t *testing.T, k cli) {
	prints(t, "cluster-info", plain(k.run(t, "cluster-info")), `^Kubernetes control plane is running at https://198\.51\.100\.11:6443$`)
	nodes := table(t, k.run(t, "get", "nodes"))
	if len(nodes.rows) != 3 || slices.Compact(nodes.column("STATUS"))[0] != "Ready" {
		t.Errorf("three nodes should be ready:\n%s", nodes.text)
	}
	prints(t, "get pods of nothing", k.try(t, "get", "pods").stderr, `^No resources found in default namespace\.$`)

	prints(t, "create deployment", k.run(t, "create", "deployment", "p4app", "--image=kurokobo/p4app:0.0.1", "--port", "8080"), `^deployment.apps/p4app created$`)
	rows := table(t, eventuallyPrinted(t, k, "get", "pods")).has(podColumns...).rows
	if !slices.Contains([]string{"Pending", "ContainerCreating", "Running"}, rows[0]["STATUS"]) {
		t.Errorf("the new pod is %v", rows[0])
	}
	podsReady(t, k, "app=p4app", 1)
	eventually(t, settle, "the Deployment is ready", func() error {
		if r := table(t, k.run(t, "get", "deployments")).has(deploymentColumns...).row("p4app"); r["READY"] != "1/1" || r["UP-TO-DATE"] != "1" || r["AVAILABLE"] != "1" {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	rs := onlyReplicaSet(t, k)
	prints(t, "get replicasets", k.run(t, "get", "replicasets"), `^NAME +DESIRED +CURRENT +READY +AGE$`, `^p4app-[a-z0-9]+ +1 +1 +1 +\d+m?\d*s$`)
	prints(t, "get pods", k.run(t, "get", "pods"), `^NAME +READY +STATUS +RESTARTS +AGE$`, `^`+rs+`-[a-z0-9]{5} +1/1 +Running +0 +\d+m?\d*s$`)

	all := tables(t, k.run(t, "get", "all"))
	if len(all) != 4 {
		t.Fatalf("get all shows %d tables, not pods, services, deployments and replicasets:\n%s", len(all), k.run(t, "get", "all"))
	}
	all[0].has(podColumns...)
	all[1].has(serviceColumns...).row("service/kubernetes")
	all[2].has(deploymentColumns...).row("deployment.apps/p4app")
	all[3].has(replicaSetColumns...).row("replicaset.apps/" + rs)
	prints(t, "get all", all[0].text, `^pod/`+rs+`-[a-z0-9]{5} +1/1`)
	for i, want := range []int{1, 1, 1, 1} {
		if len(all[i].rows) != want {
			t.Errorf("get all shows more than there is:\n%s", all[i].text)
		}
	}

	two := tables(t, k.run(t, "get", "replicasets,pods"))
	if len(two) != 2 {
		t.Fatalf("get replicasets,pods shows %d tables", len(two))
	}
	two[0].has(replicaSetColumns...).row("replicaset.apps/" + rs)
	prints(t, "get replicasets,pods", two[1].has(podColumns...).text, `^pod/`+rs)
}

// labPublish is "アプリケーションの公開". It returns the page at the EXTERNAL-IP, for which the article waits. Every node leads to
// the application, too.
func labPublish(t *testing.T, k cli) string {
	prints(t, "expose", k.run(t, "expose", "deployment", "p4app", "--type=LoadBalancer", "--port", "80", "--target-port", "8080"), `^service/p4app exposed$`)
	var row map[string]string
	eventually(t, settle, "EXTERNAL-IP is an address of the pool", func() error {
		row = table(t, k.run(t, "get", "services")).has(serviceColumns...).row("p4app")
		if ip, err := netip.ParseAddr(row["EXTERNAL-IP"]); err != nil || !netip.MustParsePrefix(lbPool).Contains(ip) {
			return fmt.Errorf("%v", row)
		}
		return nil
	})
	m := regexp.MustCompile(`^80:(3[0-2]\d{3})/TCP$`).FindStringSubmatch(row["PORT(S)"])
	if row["TYPE"] != "LoadBalancer" || m == nil {
		t.Fatalf("get services shows %v", row)
	}
	port, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	pod := podsReady(t, k, "app=p4app", 1)[0]["NAME"]
	url := "http://" + row["EXTERNAL-IP"] + "/"
	pageShows(t, beside(), url, "Served by: "+pod)
	for _, n := range cluster.Nodes() {
		pageShows(t, beside(), nodeURL(n, port), "Served by: "+pod)
	}
	return url
}

// labScale is "アプリケーションのスケール".
func labScale(t *testing.T, k cli, url string) {
	prints(t, "scale", k.run(t, "scale", "deployment", "p4app", "--replicas=2"), `^deployment.apps/p4app scaled$`)
	pods := values(podsReady(t, k, "app=p4app", 2), "NAME")
	eventually(t, settle, "READY is 2/2", func() error {
		if r := table(t, k.run(t, "get", "deployments")).row("p4app"); r["READY"] != "2/2" {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	prints(t, "get replicaset", k.run(t, "get", "replicaset"), `^p4app-[a-z0-9]+ +2 +2 +2 `)
	served := map[string]bool{}
	eventually(t, settle, "both pods have served the page", func() error {
		p, err := beside().get(t.Context(), url)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if p.shows("Served by: "+pod) == nil {
				served[pod] = true
			}
		}
		if len(served) < 2 {
			return fmt.Errorf("only %v of %v", served, pods)
		}
		return nil
	})
}

var visits = regexp.MustCompile(`Visits: (\d+)`)

// labRedis is "アプリケーションの完成": whichever pod serves, the counter goes on.
func labRedis(t *testing.T, k cli, url string) {
	k.run(t, "create", "deployment", "redis", "--image=redis:6.0", "--port", "6379")
	eventuallyPrinted(t, k, "get", "all", "-l", "app=redis")
	prints(t, "expose", k.run(t, "expose", "deployment", "redis", "--type=ClusterIP", "--port", "6379"), `^service/redis exposed$`)
	row := table(t, k.run(t, "get", "services")).row("redis")
	if row["TYPE"] != "ClusterIP" || row["PORT(S)"] != "6379/TCP" || row["EXTERNAL-IP"] != "<none>" {
		t.Errorf("get services shows %v", row)
	}
	podsReady(t, k, "app=redis", 1)
	last := 0
	read := func() error {
		p, err := beside().get(t.Context(), url)
		if err != nil {
			return err
		}
		m := visits.FindStringSubmatch(p.body)
		if m == nil {
			return fmt.Errorf("no counter: %s", p.body)
		}
		last, err = strconv.Atoi(m[1])
		return err
	}
	// The rules and both pods have to learn of the new Service first.
	streak := 0
	eventually(t, settle, "the counter works", func() error {
		if err := read(); err != nil {
			streak = 0
			return err
		}
		if streak++; streak < 8 {
			return fmt.Errorf("%d pages in a row had a counter", streak)
		}
		return nil
	})
	for range 20 {
		before := last
		if err := read(); err != nil {
			t.Fatal(err)
		}
		if last != before+1 {
			t.Errorf("the counter went from %d to %d", before, last)
		}
	}
}

// eventuallyPrinted repeats a command that lists until there is something to list.
func eventuallyPrinted(t testing.TB, k cli, args ...string) string {
	t.Helper()
	var out string
	eventually(t, settle, strings.Join(args, " ")+" lists something", func() error {
		r := k.try(t, args...)
		if r.err != nil || r.stdout == "" {
			return fmt.Errorf("%s%v", r.stderr, r.err)
		}
		out = r.stdout
		return nil
	})
	return out
}

// plain removes the colours of a text (ECMA-48, SGR).
func plain(s string) string { return regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(s, "") }
