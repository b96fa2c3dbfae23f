// Package netnstest gives tests that run as root network namespaces of their own, which have no link but those that the test
// makes.
package netnstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Path is the file of a namespace.
func Path(name string) string { return filepath.Join("/run/netns", name) }

// Make makes a namespace whose lo is up. It goes with the test; one of the same name that an interrupted test left goes now.
func Make(t testing.TB, name string) {
	t.Helper()
	_ = exec.Command("ip", "netns", "del", name).Run()
	Run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	Run(t, "ip", "-n", name, "link", "set", "lo", "up")
}

// Run runs a program and returns what it says.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Enter is what stands before a command that runs in the namespace.
func Enter(name string) []string { return []string{"nsenter", "--net=" + Path(name)} }

// RunIn runs a program in the namespace.
func RunIn(t testing.TB, name string, args ...string) string {
	t.Helper()
	return Run(t, append(Enter(name), args...)...)
}

// Inside runs f in the namespace; sockets that it opens stay there.
func Inside(name string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and nobody else comes into the namespace
		ns, err := os.Open(Path(name))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			_ = ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}
