//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestAutoscaling is autoscaling.yml, with what its comment says to look at.
func TestAutoscaling(t *testing.T) {
	k := newest.in(t, namespace(t))
	k.run(t, "apply", "-f", example("autoscaling.yml"))
	podsReady(t, k, "app=counter", 1)
	eventually(t, settle, "top shows the pod", func() error {
		r := k.try(t, "top", "pods", "-l", "app=counter")
		if r.err != nil || !strings.Contains(r.stdout, "counter-") || !strings.Contains(r.stdout, "Mi") {
			return fmt.Errorf("%s%s", r.stdout, r.stderr)
		}
		return nil
	})
	replicas := func(what string, want func(string) bool) {
		t.Helper()
		eventually(t, settle, what, func() error {
			if n := k.run(t, "get", "deployment", "counter", "-o", "jsonpath={.spec.replicas}"); !want(n) {
				return fmt.Errorf("%s replicas\n%s%s", n, k.run(t, "get", "hpa"), k.try(t, "top", "pods").stdout)
			}
			return nil
		})
	}
	k.run(t, "scale", "deployment", "load", "--replicas=1")
	replicas("more pods under load", func(n string) bool { return n == "4" })
	k.run(t, "scale", "deployment", "load", "--replicas=0")
	replicas("one pod without", func(n string) bool { return n == "1" })
	prints(t, "describe hpa", k.run(t, "describe", "hpa", "counter"),
		`SuccessfulRescale +.*New size: 4; reason: cpu resource utilization \(percentage of request\) above target`,
		`SuccessfulRescale +.*New size: 1; reason: All metrics below target`,
		`ScalingActive +True +ValidMetricFound`)
}

// TestTop: every form that people type, with nothing installed.
func TestTop(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.run(t, "run", "idle", "--image=busybox", "--labels=app=idle", "--command", "--", "sleep", "3600")
	podsReady(t, k, "app=idle", 1)
	eventually(t, settle, "the pod is measured", func() error {
		if r := k.try(t, "top", "pod", "idle"); r.err != nil {
			return fmt.Errorf("%s", r.stderr)
		}
		return nil
	})
	prints(t, "wpctl top", wpctl.in(t, currentNamespace(t, k)).run(t, "top", "pod"), `^idle +\d+m +\d+Mi`)
	withEach(t, func(t *testing.T, program cli) {
		k := program.in(t, currentNamespace(t, k))
		prints(t, "top node", k.run(t, "top", "node"), `^NAME +CPU\(cores\) +CPU`, `^\S+ +\d+m +\d+% +\d+Mi +\d+%`)
		if rows := strings.Count(strings.TrimSpace(k.run(t, "top", "nodes", "--no-headers")), "\n") + 1; rows != nodes {
			t.Errorf("top nodes shows %d of %d", rows, nodes)
		}
		prints(t, "top pod", k.run(t, "top", "pod"), `^NAME +CPU\(cores\) +MEMORY\(bytes\)`, `^idle +\d+m +\d+Mi`)
		prints(t, "top pod -A", k.run(t, "top", "pod", "-A", "--sort-by=cpu"), `^NAMESPACE +NAME`, ` idle +\d+m`)
		prints(t, "top pod --containers", k.run(t, "top", "pod", "idle", "--containers"), `^idle +idle +\d+m`)
		if out := k.try(t, "top", "pod", "-l", "app=other"); strings.Contains(out.stdout+out.stderr, "Metrics API not available") || strings.Contains(out.stdout, "idle") {
			t.Errorf("of other pods: %+v", out)
		}
		if out := k.fails(t, "top", "pod", "nosuch"); !strings.Contains(out, `nosuch" not found`) {
			t.Errorf("of no pod: %s", out)
		}
	})
}

// TestAutoscaleCommand: as posts have it, of pods that ask for nothing.
func TestAutoscaleCommand(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.run(t, "create", "deployment", "web", "--image=nginx")
		k.run(t, "scale", "deployment", "web", "--replicas=3")
		podsReady(t, k, "app=web", 3)
		prints(t, "autoscale", k.run(t, "autoscale", "deployment", "web", "--cpu-percent=50", "--min=1", "--max=6"), `^horizontalpodautoscaler.autoscaling/web autoscaled`)
		eventually(t, settle, "a figure beside the wanted one", func() error {
			row := table(t, k.run(t, "get", "hpa")).has("NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE").row("web")
			if row["REFERENCE"] != "Deployment/web" || !strings.HasSuffix(row["TARGETS"], "%/50%") || row["MINPODS"] != "1" || row["MAXPODS"] != "6" || row["REPLICAS"] != "3" {
				return fmt.Errorf("%v", row)
			}
			return nil
		})
	})
}
