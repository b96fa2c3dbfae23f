//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExec: one command, its input, its exit code, and a shell at a terminal.
func TestExec(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.run(t, "create", "-f", manifest(t, webPod))
		podsReady(t, k, "app=web", 1)

		prints(t, "exec hostname", k.run(t, "exec", "web", "--", "hostname"), `^web$`)
		prints(t, "exec id", k.run(t, "exec", "web", "-c", "nginx", "--", "id", "-un"), `^root$`)
		prints(t, "exec env", k.run(t, "exec", "web", "--", "env"), `^COLOR=red$`, `^KUBERNETES_SERVICE_HOST=10\.254\.0\.1$`)
		prints(t, "resolv.conf", k.run(t, "exec", "web", "--", "cat", "/etc/resolv.conf"),
			`^search `+nameOf(t, k)+`\.svc\.cluster\.local svc\.cluster\.local cluster\.local`, `^nameserver 10\.254\.254\.1$`, `^options .*ndots:5`)
		prints(t, "a name of the cluster", k.run(t, "exec", "web", "--", "getent", "hosts", "kube-dns.kube-system"), `^10\.254\.254\.1 +kube-dns\.kube-system\.svc\.cluster\.local`)
		big := strings.Repeat("0123456789abcde\n", 1<<16)
		if got := k.feed(t, big, "exec", "-i", "web", "--", "cat"); got != big {
			t.Errorf("a megabyte through cat came back as %d bytes", len(got))
		}
		r := k.try(t, "exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
		var exit *exec.ExitError
		if r.stdout != "out\n" || !strings.HasPrefix(r.stderr, "err\n") || !errors.As(r.err, &exit) || exit.ExitCode() != 3 {
			t.Errorf("stdout %q, stderr %q, %v", r.stdout, r.stderr, r.err)
		}
		prints(t, "exec into nobody", k.fails(t, "exec", "nobody", "--", "true"), `pods "nobody" not found`)
		prints(t, "exec into no container", k.fails(t, "exec", "web", "-c", "nobody", "--", "true"), `container`)
		prints(t, "exec of nothing", k.fails(t, "exec", "web", "--", "/no/such"), `no such file`)
		shellAtTerminal(t, k)
	})
}

// shellAtTerminal is "kubectl exec -it POD -- bash" with a window that is resized.
func shellAtTerminal(t *testing.T, k cli) {
	t.Helper()
	term := startAtTerminal(t, k, 31, 97, "exec", "-it", "web", "--", "bash", "--norc")
	term.waitFor(t, `[#$] \S*$`)
	// A size takes its own way; the shell answers until it is there.
	hasSize := func(size string) {
		t.Helper()
		eventually(t, settle, "the shell has the size "+size, func() error {
			term.enter(t, "stty size")
			if !strings.Contains(term.text(), size+"\r") {
				return errors.New(term.text())
			}
			return nil
		})
	}
	hasSize("31 97")
	term.enter(t, "tty")
	term.waitFor(t, `/dev/pts/\d+\r`)
	term.resize(t, 52, 131)
	hasSize("52 131")
	term.enter(t, "exit 7")
	var exit *exec.ExitError
	if err := term.wait(t); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit 7 in the shell became %v: %s", err, term.text())
	}
}

// TestLogs: follow, tail, previous, of several pods.
func TestLogs(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.run(t, "create", "-f", manifest(t, `apiVersion: v1
kind: Pod
metadata: {name: counter, labels: {app: counter}}
spec:
  restartPolicy: Never
  containers:
  - name: count
    image: busybox
    command: [sh, -c, "i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); sleep 1; done; echo to stderr >&2"]
---
apiVersion: v1
kind: Pod
metadata: {name: crash, labels: {app: crash}}
spec:
  containers:
  - name: crash
    image: busybox
    command: [sh, -c, "echo life of $HOSTNAME; exit 4"]
`))
		all := "line 0\nline 1\nline 2\nline 3\nline 4\nto stderr\n"
		eventuallyStarted(t, k, "counter")
		follow := start(t, k, "logs", "-f", "counter")
		if err := follow.wait(t); err != nil || follow.text() != all {
			t.Errorf("logs -f: %v, %q", err, follow.text())
		}
		if got := k.run(t, "logs", "counter"); got != all {
			t.Errorf("logs: %q", got)
		}
		if got := k.run(t, "logs", "counter", "--tail=2"); got != "line 4\nto stderr\n" {
			t.Errorf("logs --tail: %q", got)
		}
		prints(t, "logs -l", k.run(t, "logs", "-l", "app=counter", "-c", "count"), `^line 4$`)
		prints(t, "logs --timestamps", k.run(t, "logs", "counter", "--timestamps"), `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z line 0$`)
		if got := k.run(t, "logs", "counter", "--limit-bytes=6"); got != "line 0" {
			t.Errorf("logs --limit-bytes: %q", got)
		}
		eventuallyPrints(t, k, "get pod counter", `^counter +0/1 +Completed +0 `)
		eventually(t, settle, "logs --previous", func() error {
			if r := k.try(t, "logs", "--previous", "crash"); r.err != nil || r.stdout != "life of crash\n" {
				return fmt.Errorf("%s%s", r.stdout, r.stderr)
			}
			return nil
		})
		eventuallyPrints(t, k, "describe pod crash", `^ +Exit Code: +4$`, `^ +Restart Count: +[1-9]`)
		prints(t, "logs of nobody", k.fails(t, "logs", "nobody"), `pods "nobody" not found`)
	})
}

// eventuallyStarted waits until a pod has left Pending.
func eventuallyStarted(t testing.TB, k cli, pod string) {
	t.Helper()
	eventually(t, settle, pod+" has started", func() error {
		if phase := k.run(t, "get", "pod", pod, "-o", "jsonpath={.status.phase}"); phase == "Pending" {
			return errors.New(phase)
		}
		return nil
	})
}

// TestCopy: files and directories, both ways, unharmed.
func TestCopy(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.run(t, "create", "-f", manifest(t, webPod))
		podsReady(t, k, "app=web", 1)
		dir := t.TempDir()
		data := make([]byte, 3<<20)
		random := rand.NewChaCha8([32]byte{1})
		_, _ = random.Read(data) // never fails
		if err := os.MkdirAll(filepath.Join(dir, "tree", "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"tree/whale.bin": data, "tree/sub/empty": nil, "tree/name with blank": []byte("x")} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		k.run(t, "cp", filepath.Join(dir, "tree"), "web:/tmp/tree")
		prints(t, "sha256sum", k.run(t, "exec", "web", "--", "sha256sum", "/tmp/tree/whale.bin"), fmt.Sprintf(`^%x `, sha256.Sum256(data)))
		k.run(t, "cp", "web:/tmp/tree", filepath.Join(dir, "back"))
		back, err := os.ReadFile(filepath.Join(dir, "back", "whale.bin"))
		if err != nil || !bytes.Equal(back, data) {
			t.Errorf("what came back is different: %v, %d bytes", err, len(back))
		}
		if got, err := os.ReadFile(filepath.Join(dir, "back", "name with blank")); err != nil || string(got) != "x" {
			t.Errorf("%v %q", err, got)
		}
		if !exists(filepath.Join(dir, "back", "sub", "empty")) {
			t.Error("the empty file did not come back")
		}
	})
}

// TestPortForward: to a pod and to a Deployment's Service, several times at once.
func TestPortForward(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.run(t, "create", "-f", manifest(t, webPod))
		podsReady(t, k, "app=web", 1)
		k.run(t, "expose", "pod", "web", "--port=80", "--name=front")
		for _, target := range []string{"pod/web", "service/front"} {
			forward := start(t, k, "port-forward", target, ":80")
			line := forward.waitFor(t, `^Forwarding from 127\.0\.0\.1:(\d+) -> 80$`)
			port := strings.Fields(strings.TrimPrefix(line, "Forwarding from 127.0.0.1:"))[0]
			var errs [4]error
			fetchAll(t, "http://127.0.0.1:"+port+"/", errs[:])
			if err := errors.Join(errs[:]...); err != nil {
				t.Errorf("port-forward %s: %v\n%s", target, err, forward.text())
			}
		}
		forward := start(t, k, "port-forward", "pod/web", ":81")
		line := forward.waitFor(t, `^Forwarding from 127\.0\.0\.1:(\d+) -> 81$`)
		port := strings.Fields(strings.TrimPrefix(line, "Forwarding from 127.0.0.1:"))[0]
		if p, err := beside().get(t.Context(), "http://127.0.0.1:"+port+"/"); err == nil {
			t.Errorf("a port where nobody listens answers %+v", p)
		}
		forward.waitFor(t, `(?i)error|lost connection`)
	})
}

// fetchAll fetches a page as often as there are errors to note, at the same time.
func fetchAll(t testing.TB, url string, errs []error) {
	t.Helper()
	done := make(chan struct{})
	for i := range errs {
		go func() {
			defer func() { done <- struct{}{} }()
			p, err := beside().get(t.Context(), url)
			if err == nil {
				err = p.shows("nginx")
			}
			errs[i] = err
		}()
	}
	for range errs {
		<-done
	}
}

// TestRunAndAttach: a pod from the command line, with and without somebody at it.
func TestRunAndAttach(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		prints(t, "run", k.run(t, "run", "web", "--image=nginx", "--port=80", "--labels=app=web"), `^pod/web created$`)
		got := k.feed(t, "a line\n", "run", "once", "--image=busybox", "--restart=Never", "--rm", "-i", "--quiet", "--", "sed", "s/line/whale/")
		prints(t, "run --rm -i", got, `^a whale`)
		if r := k.try(t, "get", "pod", "once"); r.err == nil {
			t.Error("run --rm left its pod")
		}
		term := startAtTerminal(t, k, 24, 80, "run", "shell", "--image=busybox", "--restart=Never", "-it", "--", "sh")
		term.enter(t, "echo $((6*7)) fish")
		term.waitFor(t, `^42 fish\r`)
		term.enter(t, "exit")
		if err := term.wait(t); err != nil {
			t.Errorf("run -it: %v\n%s", err, term.text())
		}
		podsReady(t, k, "app=web", 1)
		eventuallyPrints(t, k, "get pod shell", `^shell +0/1 +Completed `)
		k.run(t, "delete", "pod", "shell", "--now")
	})
}
