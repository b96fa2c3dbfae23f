//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

const (
	// commandLimit is for one command that does not wait for the cluster.
	commandLimit = 2 * time.Minute
	// settle is for what the cluster does by itself: pulls, starts, graceful ends.
	// Far longer than it takes, for machines that are busy with other things.
	settle    = 4 * time.Minute
	pollEvery = 150 * time.Millisecond
)

// cli is a command line program that runs in the lab's network, where the master's
// address means the master, in the way of a user: with a kubeconfig.
type cli struct {
	name, path string
	home       string // holds its caches, and the kubeconfigs of namespaces
	kubeconfig string // empty: the administrator's
	env        []string
}

// in returns the program for a user whose context names this namespace.
func (c cli) in(t testing.TB, namespace string) cli {
	t.Helper()
	data, err := os.ReadFile(cluster.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	c.kubeconfig = filepath.Join(c.home, "kubeconfig-"+namespace)
	if err := os.WriteFile(c.kubeconfig, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(t, "config", "set-context", "--current", "--namespace", namespace)
	return c
}

// with adds a variable of the environment, as in KUBE_EDITOR=vi.
func (c cli) with(env ...string) cli {
	c.env = append(append([]string{}, c.env...), env...)
	return c
}

// command prepares the program.
func (c cli) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := cluster.Command(ctx, c.path, args...)
	config := c.kubeconfig
	if config == "" {
		config = cluster.Kubeconfig()
	}
	cmd.Env = append(os.Environ(), "HOME="+c.home, "KUBECONFIG="+config)
	cmd.Env = append(cmd.Env, c.env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// result is what a program said.
type result struct {
	stdout, stderr string
	err            error // it did not end with 0
}

// try runs the program to its end.
func (c cli) try(t testing.TB, args ...string) result {
	t.Helper()
	return c.input(t, "", args...)
}

// input is try with something to read.
func (c cli) input(t testing.TB, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settle)
	defer cancel()
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("%w after %s", ctx.Err(), settle)
	}
	return result{stdout.String(), stderr.String(), err}
}

// run runs the program, which must succeed, and returns what it printed.
func (c cli) run(t testing.TB, args ...string) string {
	t.Helper()
	return c.must(t, c.try(t, args...), args)
}

// feed is run with something to read.
func (c cli) feed(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	return c.must(t, c.input(t, stdin, args...), args)
}

func (c cli) must(t testing.TB, r result, args []string) string {
	t.Helper()
	if r.err != nil {
		t.Fatalf("%s %s: %v\n%s%s", c.name, strings.Join(args, " "), r.err, r.stdout, r.stderr)
	}
	return r.stdout
}

// fails runs the program, which must not succeed, and returns what it complained of.
func (c cli) fails(t testing.TB, args ...string) string {
	t.Helper()
	r := c.try(t, args...)
	var exit *exec.ExitError
	if !errors.As(r.err, &exit) {
		t.Fatalf("%s %s should fail: %v\n%s%s", c.name, strings.Join(args, " "), r.err, r.stdout, r.stderr)
	}
	return r.stderr
}

// kubectl runs the newest kubectl as the administrator, in the namespace default.
func kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return newest.run(t, args...)
}

// withEach runs a test with every kubectl there is.
func withEach(t *testing.T, test func(t *testing.T, k cli)) {
	for _, k := range every {
		t.Run(k.name, func(t *testing.T) { test(t, k) })
	}
}

// eventually waits until fn has no complaint any more.
func eventually(t testing.TB, limit time.Duration, what string, fn func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || t.Context().Err() != nil {
			t.Fatalf("%s: not within %s: %v\n%s", what, limit, err, situation())
		}
		time.Sleep(pollEvery)
	}
}

// situation describes the cluster, for the report of a failure.
func situation() string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "nodes"},
		{"get", "pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.metadata.creationTimestamp"},
	} {
		out, err := newest.command(ctx, args...).CombinedOutput()
		if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); len(lines) > 40 {
			out = []byte(strings.Join(lines[len(lines)-40:], "\n"))
		}
		fmt.Fprintf(&b, "--- kubectl %s (%v)\n%s\n", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return b.String()
}

// namespace makes a namespace for this test alone and returns its name. It goes,
// with all that is in it, when the test ends.
func namespace(t testing.TB) string {
	t.Helper()
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, t.Name()), "-")
	if len(name) > 60 {
		name = strings.Trim(name[len(name)-60:], "-")
	}
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() { cleanUp(t, "delete", "namespace", name, "--timeout=3m") })
	return name
}

// emptyDefault removes what a test made in the namespace default, when it ends. A controller may make a pod after kubectl has
// listed those that it deletes, so it looks again.
func emptyDefault(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		for deadline := time.Now().Add(settle); ; {
			cleanUp(t, "delete", "deployments,replicasets,pods,configmaps,secrets", "--all", "--timeout=3m")
			cleanUp(t, "delete", "services", "--field-selector", "metadata.name!=kubernetes", "--timeout=3m")
			ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
			out, err := newest.command(ctx, "get", "deployments,replicasets,pods", "-o", "name").CombinedOutput()
			if cancel(); err == nil && len(bytes.TrimSpace(out)) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("the namespace default is not empty: %v\n%s", err, out)
				return
			}
		}
	})
}

// cleanUp runs kubectl after a test, whose own context has ended.
func cleanUp(t testing.TB, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	if out, err := newest.command(ctx, args...).CombinedOutput(); err != nil {
		t.Errorf("kubectl %s: %v\n%s\n%s", strings.Join(args, " "), err, out, situation())
	}
}

// nodeNamed returns the lab's node.
func nodeNamed(t testing.TB, name string) *lab.Node {
	t.Helper()
	for _, n := range cluster.Nodes() {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node is called %q", name)
	return nil
}

// dockerPS returns the names of the containers that run on a node, as "docker ps"
// lists them.
func dockerPS(t testing.TB, n *lab.Node) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	var all []struct{ Names []string }
	if err := n.Engine(ctx, "GET", "/containers/json", nil, &all); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range all {
		for _, name := range c.Names {
			names = append(names, strings.TrimPrefix(name, "/"))
		}
	}
	return names
}
