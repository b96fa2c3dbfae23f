//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// talkers are a pod whose containers have each something else to say, and one that has not begun.
const talkers = `apiVersion: v1
kind: Pod
metadata: {name: talk}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: busybox, command: [echo, from the first]}
  containers:
  - {name: main, image: busybox, command: [sh, -c, "echo one; echo to stderr >&2; sleep 2; echo two; exec sleep 600"]}
  - {name: crash, image: busybox, command: [sh, -c, "echo life; exit 3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: slow}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: busybox, command: [sleep, "600"]}
  containers:
  - {name: main, image: busybox}
`

// TestLogsOfEveryKind: of which container, from when on, which stream, and the kubelet's words when there is none; an
// agent that starts anew changes nothing.
func TestLogsOfEveryKind(t *testing.T) {
	k := newest.in(t, namespace(t))
	k.run(t, "create", "-f", manifest(t, talkers))
	eventually(t, settle, "everything was said", func() error {
		if r := k.try(t, "logs", "talk", "-c", "main"); !strings.HasSuffix(r.stdout, "two\n") {
			return errors.New(r.stdout + r.stderr)
		}
		r := k.try(t, "logs", "talk", "-c", "crash", "-p")
		if r.stdout != "life\n" {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	stamped := k.run(t, "logs", "talk", "-c", "main", "--timestamps")
	m := regexp.MustCompile(`(?m)^(\S+) two$`).FindStringSubmatch(stamped)
	if m == nil {
		t.Fatalf("no timestamp: %s", stamped)
	}
	raw := "/api/v1/namespaces/" + nameOf(t, k) + "/pods/talk/log?container=main&stream="
	check := func(t *testing.T) {
		for want, args := range map[string][]string{
			"from the first\n": {"logs", "talk", "-c", "first"},
			"two\n":            {"logs", "talk", "-c", "main", "--since-time", m[1]},
			"tw":               {"logs", "talk", "-c", "main", "--tail", "1", "--limit-bytes", "2"}, // stdout and stderr race
			"life\n":           {"logs", "talk", "-c", "crash", "--previous"},
			"to stderr\n":      {"get", "--raw", raw + "Stderr"},
			"one\ntwo\n":       {"get", "--raw", raw + "Stdout"},
		} {
			// The container that crashes is started again now and then, and the one before it goes just then.
			eventually(t, settle, strings.Join(args, " "), func() error {
				if r := k.try(t, args...); r.stdout != want {
					return fmt.Errorf("%q, not %q: %s", r.stdout, want, r.stderr)
				}
				return nil
			})
		}
		if got := k.run(t, "logs", "talk", "-c", "main", "--since=1h"); strings.Count(got, "\n") != 3 {
			t.Errorf("--since: %q", got)
		}
		for want, args := range map[string][]string{
			`Error from server (BadRequest): container "main" in pod "slow" is waiting to start: PodInitializing`: {"logs", "slow", "-c", "main"},
			`Error from server (BadRequest): previous terminated container "main" in pod "talk" not found`:        {"logs", "talk", "-c", "main", "-p"},
			`Error from server (BadRequest): previous terminated container "first" in pod "slow" not found`:       {"logs", "slow", "-c", "first", "-p"},
			`container not found ("main")`:               {"exec", "slow", "-c", "main", "--", "true"},
			`container nobody is not valid for pod talk`: {"logs", "talk", "-c", "nobody"},
			`a container name must be specified for pod talk, choose one of: [main crash] or one of the init conta`: {"get", "--raw", strings.SplitN(raw, "?", 2)[0]},
		} {
			tells(t, strings.Join(args, " "), k.fails(t, args...), want)
		}
	}
	check(t)
	n := nodeNamed(t, k.run(t, "get", "pod", "talk", "-o", "jsonpath={.spec.nodeName}"))
	afterwards(t, n)
	must(t, n.RestartAgent(t.Context()))
	eventually(t, settle, "the agent is back", func() error { return k.try(t, "logs", "talk", "-c", "first").err })
	check(t)
}

// sleeper is a pod that does nothing but tick.
const sleeper = `apiVersion: v1
kind: Pod
metadata: {name: tick, labels: {app: tick}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: busybox, command: [sh, -c, "while true; do echo tick; sleep 1; done"]}
`

// commandsIn counts processes in the pod by their command line.
func commandsIn(t testing.TB, k cli, text string) int {
	t.Helper()
	return strings.Count(k.run(t, "exec", "tick", "--", "ps", "-o", "args"), text)
}

// TestFiftyStreams: as many commands at once, each with an end of its own.
func TestFiftyStreams(t *testing.T) {
	k := newest.in(t, namespace(t))
	k.run(t, "create", "-f", manifest(t, sleeper))
	podsReady(t, k, "app=tick", 1)
	var streams []*running
	for i := range 50 {
		streams = append(streams, start(t, k, "exec", "tick", "--", "sh", "-c",
			fmt.Sprintf("echo here; until [ -e /tmp/go ]; do sleep 0.5; done; echo %d; exit %d", i, i)))
	}
	for _, s := range streams {
		s.waitFor(t, "^here$")
	}
	k.run(t, "exec", "tick", "--", "touch", "/tmp/go")
	for i, s := range streams {
		var exit *exec.ExitError
		err := s.wait(t)
		if i == 0 && err != nil || i > 0 && (!errors.As(err, &exit) || exit.ExitCode() != i) || !strings.HasPrefix(s.text(), fmt.Sprintf("here\n%d\n", i)) {
			t.Errorf("command %d: %v, %s", i, err, s.text())
		}
	}
	if left := commandsIn(t, k, "until"); left != 0 {
		t.Errorf("%d commands are left", left)
	}
}

// goroutines of the master.
func goroutines(t testing.TB) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^go_goroutines (\d+)$`).FindStringSubmatch(kubectl(t, "get", "--raw", "/metrics"))
	if m == nil {
		t.Fatal("the master does not tell its goroutines")
	}
	n, _ := strconv.Atoi(m[1]) // digits
	return n
}

// TestAgentDiesUnderStreams: every client hears of it soon, and nothing of their streams stays, neither in the master nor
// on the node.
func TestAgentDiesUnderStreams(t *testing.T) {
	k := newest.in(t, namespace(t))
	k.run(t, "create", "-f", manifest(t, sleeper))
	podsReady(t, k, "app=tick", 1)
	n := nodeNamed(t, k.run(t, "get", "pod", "tick", "-o", "jsonpath={.spec.nodeName}"))
	afterwards(t, n)
	before := goroutines(t)
	var streams []*running
	for _, c := range every {
		c = c.in(t, nameOf(t, k))
		command := start(t, c, "exec", "tick", "--", "sh", "-c", "echo begun; exec sleep 3456")
		command.waitFor(t, "^begun")
		term := startAtTerminal(t, c, 24, 80, "exec", "-it", "tick", "--", "sh")
		term.enter(t, "echo $((6*7)) fish; sleep 3456")
		term.waitFor(t, `^42 fish\r`)
		logs := start(t, c, "logs", "-f", "tick", "--tail=1")
		logs.waitFor(t, "^tick")
		attached := start(t, c, "attach", "tick")
		attached.waitFor(t, "^tick")
		forward := start(t, c, "port-forward", "tick", ":80")
		forward.waitFor(t, `^Forwarding from 127\.0\.0\.1:\d+`)
		streams = append(streams, command, term.running, logs, attached, forward)
	}
	if got := commandsIn(t, k, "sleep 3456"); got < 2*len(every) {
		t.Errorf("%d commands run", got)
	}
	must(t, n.KillAgent(t.Context()))
	died := time.Now()
	for _, s := range streams {
		select {
		case <-s.ended:
		case <-time.After(30*time.Second - time.Since(died)):
			t.Errorf("%s goes on although its agent is dead: %s", s.name, s.text())
			continue
		}
		// An old kubectl takes a broken connection for an end, as SPDY has no word for it.
		if s.err == nil && strings.HasPrefix(s.name, newest.name+" ") {
			t.Errorf("%s ended as if all was well: %s", s.name, s.text())
		}
	}
	must(t, n.StartAgent(t.Context()))
	awaitNode(t, n)
	eventually(t, settle, "the dead agent's commands end", func() error {
		r := k.try(t, "exec", "tick", "--", "ps", "-o", "args")
		if r.err != nil || strings.Contains(r.stdout, "sleep 3456") {
			return errors.New(r.stdout + r.stderr)
		}
		return nil
	})
	const slack = 12 // connections of kubectl that ended a moment ago
	eventually(t, settle, "the master lets go of the streams", func() error {
		if now := goroutines(t); now > before+slack {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})
}
