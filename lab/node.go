package lab

import (
	"context"
	_ "embed" // for init.sh
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed init.sh
var initScript string

// Node is one server of the lab.
type Node struct {
	Name    string
	Address netip.Addr

	lab   *Lab
	index int // from 1
}

// names of a node's processes in the state and of their logs
func (n *Node) daemon(what string) string { return fmt.Sprintf("node%d-%s", n.index, what) }

const (
	engine = "docker"
	agent  = "agent"
	master = "master"
)

// Dir is the node's own directory; its engine's data is elsewhere (see Config.Cache).
func (n *Node) Dir() string { return n.lab.path(fmt.Sprintf("node%d", n.index)) }

// Socket is where the node's engine can be reached from anywhere on the machine.
func (n *Node) Socket() string { return filepath.Join(n.Dir(), "docker.sock") }

func (n *Node) holder() process { return n.lab.process(fmt.Sprintf("node%d", n.index)) }

// PID returns the process of the node's "docker", "agent" or "master", 0 if it
// does not run.
func (n *Node) PID(what string) int {
	p := n.lab.process(n.daemon(what))
	if !p.alive() {
		return 0
	}
	return p.PID
}

// Running reports whether the node is switched on.
func (n *Node) Running() bool { return n.holder().alive() }

// Command prepares a command that runs on the node, in all its namespaces.
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := n.enter(append([]string{name}, args...))
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

func (n *Node) enter(argv []string) []string {
	return append([]string{"nsenter", "--target", strconv.Itoa(n.holder().PID), "--net", "--mount", "--uts", "--pid", "--"}, argv...)
}

// boot plugs the node in and starts its first process.
func (n *Node) boot(ctx context.Context) error {
	if err := n.plugIn(ctx); err != nil {
		return err
	}
	etc, ready := filepath.Join(n.Dir(), "etc"), filepath.Join(n.Dir(), "ready")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for name, content := range n.etcFiles() {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("node%d", n.index)
	p, err := n.lab.start(ctx, daemon{
		name: name,
		argv: []string{"nsenter", "--net=" + netnsPath(n.Name), "unshare", "--mount", "--uts", "--pid", "--fork",
			"--mount-proc", "--propagation", "private", "sh", "-c", initScript},
		env:  []string{"NAME=" + n.Name, "ETC=" + etc, "READY=" + ready},
		fork: true,
	})
	if err != nil {
		return fmt.Errorf("first process of %s: %w", n.Name, err)
	}
	if err := n.lab.remember(name, p); err != nil {
		return err
	}
	return n.lab.until(ctx, name, p, 10*time.Second, func(context.Context) error {
		_, err := os.Stat(ready)
		return err
	})
}

// etcFiles are the node's own files in /etc: all nodes know each other by name,
// and ask a name server that refuses at once, since there is none.
func (n *Node) etcFiles() map[string]string {
	var hosts strings.Builder
	hosts.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, o := range n.lab.nodes {
		fmt.Fprintf(&hosts, "%s %s\n", o.Address, o.Name)
	}
	return map[string]string{
		"hosts":       hosts.String(),
		"resolv.conf": fmt.Sprintf("nameserver %s\noptions timeout:1 attempts:1\n", n.lab.cfg.address(1)),
	}
}

// Stop cuts the node's power: cable and all processes in one go, without a word
// to any of them. What a machine keeps in memory (links, rules, /run) is lost,
// its disk stays.
func (n *Node) Stop(ctx context.Context) error {
	if _, err := os.Stat(netnsPath(n.Name)); err != nil {
		return fmt.Errorf("%s is off already: %w", n.Name, err)
	}
	if err := n.CutLink(ctx); err != nil {
		return err
	}
	return n.powerOff(ctx)
}

// powerOff kills everything in the node and removes its namespace.
func (n *Node) powerOff(ctx context.Context) error {
	if err := n.holder().kill(ctx); err != nil {
		return err
	}
	// Usually nothing is left by now. After a crash of ours, something that we
	// have no record of may be.
	if err := killNamespace(ctx, n.Name); err != nil {
		return err
	}
	// The kernel takes a namespace apart some time after it was removed; the cable
	// must be gone before a new one of its name comes.
	if err := run(ctx, "ip", "-n", n.lab.cfg.labName(), "link", "del", n.port()); err != nil {
		return err
	}
	return deleteNamespace(ctx, n.Name)
}

// killNamespace kills what is left in a network namespace.
func killNamespace(ctx context.Context, name string) error {
	for range 10 {
		left, err := inNamespace(netnsPath(name))
		if err != nil || len(left) == 0 {
			return err
		}
		for _, p := range left {
			if err := p.kill(ctx); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("processes in %s cannot be ended", name)
}

// Start switches the node on again: engine, master (on the first node) and agent.
func (n *Node) Start(ctx context.Context) error {
	if n.Running() {
		return fmt.Errorf("%s is on already", n.Name)
	}
	if err := n.boot(ctx); err != nil {
		return err
	}
	if err := n.startEngine(ctx); err != nil {
		return err
	}
	if n.index == 1 {
		if err := n.lab.StartMaster(ctx); err != nil {
			return err
		}
	}
	return n.StartAgent(ctx)
}

// Reboot shuts the node down in order and starts it again.
func (n *Node) Reboot(ctx context.Context) error {
	const grace = 10 * time.Second
	for _, what := range []string{agent, master, engine} {
		if err := n.lab.process(n.daemon(what)).stop(ctx, grace); err != nil {
			return err
		}
	}
	if err := n.Stop(ctx); err != nil {
		return err
	}
	return n.Start(ctx)
}
