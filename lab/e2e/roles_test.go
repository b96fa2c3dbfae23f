//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const shopPort = 30081

var orderTaken = regexp.MustCompile(`^Order (\d+), taken by (shop-web-\S+), release (\d+)`)

// order something from the shop; it tells which pod took it, in which release.
func order(t testing.TB) (number int, pod, release string) {
	t.Helper()
	p, err := beside().get(t.Context(), nodeURL(cluster.Node(1), shopPort))
	if err != nil || p.status != http.StatusOK {
		t.Fatalf("no order was taken: %v %+v", err, p)
	}
	m := orderTaken.FindStringSubmatch(p.body)
	if m == nil {
		t.Fatalf("the shop says %q", p.body)
	}
	number, _ = strconv.Atoi(m[1])
	return number, m[2], m[3]
}

// TestOneImageFourRoles is app-roles.yml and what its comment says to look at.
func TestOneImageFourRoles(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.run(t, "apply", "-f", example("app-roles.yml"))
	for _, d := range []string{"shop-redis", "shop-web", "shop-admin", "shop-worker", "shop"} {
		k.run(t, "rollout", "status", "deployment/"+d, "--timeout", settle.String())
	}
	for line := range strings.Lines(k.run(t, "apply", "-f", example("app-roles.yml"))) {
		if !strings.HasSuffix(line, " unchanged\n") {
			t.Errorf("applied again: %s", line)
		}
	}
	images := map[string]bool{}
	for _, role := range []string{"web", "admin", "worker"} {
		images[k.run(t, "get", "pods", "-l", "role="+role, "-o", "jsonpath={.items[0].spec.containers[0].image}")] = true
	}
	if len(images) != 1 {
		t.Error("the roles have images of their own:", images)
	}

	eventually(t, settle, "the shop is open", func() error { // each node has its rules a moment after the pods are ready
		for _, n := range cluster.Nodes() {
			p, err := beside().get(t.Context(), nodeURL(n, shopPort))
			if err == nil && !orderTaken.MatchString(p.body) {
				err = fmt.Errorf("status %d: %q", p.status, p.body)
			}
			if err != nil {
				return fmt.Errorf("at %s: %w", n.Name, err)
			}
		}
		return nil
	})
	pods, last := map[string]bool{}, 0
	for range 20 {
		n, pod, _ := order(t)
		if n <= last {
			t.Errorf("order %d after %d", n, last)
		}
		pods[pod], last = true, n
	}
	if len(pods) != 2 {
		t.Error("orders were taken by", pods)
	}
	k.run(t, "create", "job", "--from=cronjob/shop-report", "report-now")
	k.run(t, "wait", "--for=condition=Complete", "job/report-now", "--timeout", settle.String())
	eventually(t, settle, "the workers do what was ordered, and the report", func() error {
		p, err := beside().get(t.Context(), nodeURL(cluster.Node(2), shopPort)+"admin/")
		if err != nil {
			return err
		}
		want := regexp.MustCompile(fmt.Sprintf(`(?m)^orders %d\ndone:order %d\ndone:report [1-9]`, last, last))
		if !want.MatchString(p.body) {
			return fmt.Errorf("%q", p.body)
		}
		return nil
	})
	prints(t, "what the workers say", k.run(t, "logs", "-l", "role=worker", "--tail=-1", "--prefix"), `shop-worker-\S+ did order-1$`, `did report-`)

	l := startLoad(t, beside(), nodeURL(cluster.Node(1), shopPort), 5, func(p page) error {
		if !orderTaken.MatchString(p.body) {
			return fmt.Errorf("%q", p.body)
		}
		return nil
	})
	k.run(t, "set", "env", "deployment/shop-web", "deployment/shop-worker", "RELEASE=2")
	k.run(t, "scale", "deployment", "shop-worker", "--replicas=4")
	for _, d := range []string{"shop-web", "shop-worker"} {
		k.run(t, "rollout", "status", "deployment/"+d, "--timeout", settle.String())
	}
	l.lostNone(t)
	for inARow := 0; inARow < 5; { // rules may follow the last pod's end a moment later
		eventually(t, settle, "orders are taken in the new release", func() error {
			if _, _, release := order(t); release != "2" {
				inARow = 0
				return fmt.Errorf("one is taken in release %s", release)
			}
			inARow++
			return nil
		})
	}
}
