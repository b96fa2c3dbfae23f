package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Interface names within the namespaces, where they cannot meet others.
const (
	bridge = "switch"
	uplink = "eth0"
)

func netnsPath(name string) string { return filepath.Join("/run/netns", name) }

// createSwitch makes the namespace with the bridge that all nodes hang on. It is
// the nodes' default gateway, as real servers have one, but leads nowhere: what
// it does not know it answers with "unreachable" at once, so that nothing in the
// lab waits for a timeout to learn that there is no Internet.
func (l *Lab) createSwitch(ctx context.Context) error {
	ns := l.cfg.labName()
	steps := [][]string{
		{"netns", "add", ns},
		{"-n", ns, "link", "set", "lo", "up"},
		{"-n", ns, "link", "add", bridge, "type", "bridge"},
		{"-n", ns, "addr", "add", l.switchCIDR(), "dev", bridge},
		{"-n", ns, "link", "set", bridge, "up"},
		{"-n", ns, "route", "add", "unreachable", "default"},
	}
	for _, s := range steps {
		if err := run(ctx, "ip", s...); err != nil {
			return err
		}
	}
	return run(ctx, "nsenter", "--net="+netnsPath(ns), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
}

func (l *Lab) switchCIDR() string {
	return fmt.Sprintf("%s/%d", l.cfg.address(1), l.cfg.Subnet.Bits())
}

// plugIn makes a node's network namespace and its cable to the switch.
func (n *Node) plugIn(ctx context.Context) error {
	ns, lab := n.Name, n.lab.cfg.labName()
	steps := [][]string{
		{"netns", "add", ns},
		{"-n", ns, "link", "set", "lo", "up"},
		{"-n", lab, "link", "add", n.port(), "type", "veth", "peer", "name", uplink, "netns", ns},
		{"-n", lab, "link", "set", n.port(), "master", switchOf(n.Link()), "up"},
	}
	for _, s := range append(steps, n.addressing()...) {
		if err := run(ctx, "ip", s...); err != nil {
			return err
		}
	}
	return nil
}

// port is the switch's end of the node's cable.
func (n *Node) port() string { return fmt.Sprintf("node%d", n.index) }

// CutLink pulls the node's network cable.
func (n *Node) CutLink(ctx context.Context) error {
	return run(ctx, "ip", "-n", n.lab.cfg.labName(), "link", "set", n.port(), "down")
}

// HealLink puts the cable back.
func (n *Node) HealLink(ctx context.Context) error {
	return run(ctx, "ip", "-n", n.lab.cfg.labName(), "link", "set", n.port(), "up")
}

// Command prepares a client that runs in the lab's network, at the switch: from
// there it reaches every node's address, as a machine beside the servers would.
func (l *Lab) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + netnsPath(l.cfg.labName()), name}, args...)...)
}

// HTTPClient returns a client whose connections begin in the lab's network.
// Redirects are not followed.
func (l *Lab) HTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DialContext: l.Dial, MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Dial connects from within the lab's network namespace.
func (l *Lab) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return DialIn(ctx, netnsPath(l.cfg.labName()), network, addr)
}

// DialIn connects from within the network namespace pinned at path. The address
// must be numeric: a name would be looked up where this process is.
func DialIn(ctx context.Context, path, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s: the address must be numeric", addr)
	}
	var conn net.Conn
	err = In(path, func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// In runs f in the network namespace at path. Sockets that f opens stay there.
func In(path string, f func() error) error {
	target, err := os.Open(path)
	if err != nil {
		return err
	}
	defer target.Close()
	done := make(chan error, 1)
	// A goroutine of its own, because it may have to leave its thread behind: a
	// socket belongs to the namespace of the thread that made it.
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer own.Close()
		if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter %s: %w", path, err)
			return
		}
		err = f()
		// Where the way back is barred the thread stays locked and ends with
		// this goroutine, so no one else ever runs on it.
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// NetNS is the path of the node's network namespace.
func (n *Node) NetNS() string { return netnsPath(n.Name) }

// PodNetNS is the path of the network namespace of a pod on this node, as seen from
// outside of it.
func (n *Node) PodNetNS(ctx context.Context, namespace, pod string) (string, error) {
	var all []struct {
		ID    string `json:"Id"`
		Names []string
	}
	if err := n.Engine(ctx, http.MethodGet, "/containers/json", nil, &all); err != nil {
		return "", err
	}
	for _, c := range all {
		// k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT; POD is the sandbox.
		if len(c.Names) == 0 || !strings.Contains(c.Names[0], "k8s_POD_"+pod+"_"+namespace+"_") {
			continue
		}
		var info struct{ State struct{ Pid int } }
		if err := n.Engine(ctx, http.MethodGet, "/containers/"+c.ID+"/json", nil, &info); err != nil {
			return "", err
		}
		// The number is that of the node's own process namespace, whose /proc is below the engine's root.
		return fmt.Sprintf("/proc/%d/root/proc/%d/ns/net", n.PID(engine), info.State.Pid), nil
	}
	return "", fmt.Errorf("no sandbox of pod %s/%s on %s", namespace, pod, n.Name)
}

// deleteNamespace removes a pinned network namespace, and with its last process
// all links, addresses and rules in it.
func deleteNamespace(ctx context.Context, name string) error {
	if _, err := os.Stat(netnsPath(name)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return run(ctx, "ip", "netns", "del", name)
}
