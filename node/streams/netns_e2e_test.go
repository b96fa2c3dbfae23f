//go:build e2e

package streams

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A port is forwarded to the loopback of the network namespace of a process, IPv4 or IPv6, and afterwards every thread
// of ours is at home. Needs root, unshare, ip and busybox.
func TestDialPod(t *testing.T) {
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--net", "sh", "-c",
		"ip link set lo up; busybox httpd -f -p 127.0.0.1:8081 -h /proc/self & busybox httpd -f -p [::1]:8082 -h /proc/self & "+
			"until busybox wget -qO- http://127.0.0.1:8081/status && busybox wget -qO- http://[::1]:8082/status; do :; done >/dev/null 2>&1; "+
			"echo ready; exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}()
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var wait sync.WaitGroup
	for i := range 50 {
		wait.Go(func() {
			conn, err := dialPod(ctx, cmd.Process.Pid, []uint16{8081, 8082}[i%2])
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
			if b, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(b), "HTTP/1.") {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wait.Wait()
	_, err = dialPod(ctx, cmd.Process.Pid, 1)
	if err == nil || !strings.Contains(err.Error(), "failed to connect to localhost:1 inside the pod, IPv4: dial tcp4 127.0.0.1:1: connect: connection refused") {
		t.Errorf("closed port: %v", err)
	}
	if _, err := dialPod(ctx, 1<<22+1, 80); err == nil || err.Error() != "the pod has ended" {
		t.Errorf("no such process: %v", err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range threads {
		if ns, err := os.Readlink("/proc/self/task/" + th.Name() + "/ns/net"); err == nil && ns != home {
			t.Errorf("thread %s is in %s, not at home in %s", th.Name(), ns, home)
		}
	}
}
