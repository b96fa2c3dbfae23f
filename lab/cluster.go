package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Kubeconfig is the administrator's kubeconfig as the master wrote it: for clients
// in the lab's network (see Command).
func (l *Lab) Kubeconfig() string { return l.path("node1", "master", "admin.kubeconfig") }

// API is the address of the API within the lab.
func (l *Lab) API() string { return fmt.Sprintf("https://%s:%d", l.Node(1).Address, apiPort) }

// masterArgs is the command line of wp-master. It also answers on the loopback
// address, by which the demo's forwarder is reached.
func (l *Lab) masterArgs() []string {
	args := []string{
		filepath.Join(l.cfg.Bin, "wp-master"),
		"--data-dir", l.path("node1", "master"),
		"--advertise-address", l.Node(1).Address.String(),
		"--bind", "0.0.0.0",
		"--extra-sans", "127.0.0.1,localhost",
	}
	return append(args, l.cfg.MasterArgs...)
}

// StartMaster starts wp-master in the first node and waits until it is ready.
func (l *Lab) StartMaster(ctx context.Context) error {
	n := l.Node(1)
	p, err := l.start(ctx, daemon{name: n.daemon(master), argv: n.enter(l.masterArgs()), fork: true})
	if err != nil {
		return err
	}
	if err := l.remember(n.daemon(master), p); err != nil {
		return err
	}
	client := l.HTTPClient(2 * time.Second)
	defer client.CloseIdleConnections()
	// Whether it is ready is no secret, and its CA may not be written yet.
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return l.until(ctx, n.daemon(master), p, 30*time.Second, func(ctx context.Context) error {
		return get(ctx, client, l.API()+"/readyz")
	})
}

// KillMaster kills wp-master (kill -9).
func (l *Lab) KillMaster(ctx context.Context) error {
	return l.process(l.Node(1).daemon(master)).kill(ctx)
}

// StopMaster ends wp-master in order.
func (l *Lab) StopMaster(ctx context.Context) error {
	return l.process(l.Node(1).daemon(master)).stop(ctx, 30*time.Second)
}

// Wpctl runs wpctl as the administrator, in the lab's network.
func (l *Lab) Wpctl(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"--kubeconfig", l.Kubeconfig()}, args...)
	cmd := l.Command(ctx, filepath.Join(l.cfg.Bin, "wpctl"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("wpctl %s: %w: %s", strings.Join(args[2:], " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// StartAgents lets every node join and waits until all are ready.
func (l *Lab) StartAgents(ctx context.Context) (string, error) {
	if err := l.eachNode(ctx, func(ctx context.Context, n *Node) error { return n.StartAgent(ctx) }); err != nil {
		return "", err
	}
	for _, n := range l.nodes {
		if err := n.WaitReady(ctx, 60*time.Second); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d nodes ready", len(l.nodes)), nil
}

// WaitReady waits until the API shows the node as Ready, and without the marks of one that is not.
func (n *Node) WaitReady(ctx context.Context, limit time.Duration) error {
	return n.lab.until(ctx, n.daemon(agent), n.lab.process(n.daemon(agent)), limit, n.isReady)
}

func (n *Node) isReady(ctx context.Context) error {
	out, err := n.lab.Wpctl(ctx, "get", "node", n.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.spec.taints[*].key}`)
	if err != nil {
		return err
	}
	status, taints, _ := strings.Cut(strings.TrimSpace(out), " ")
	if status != "True" || strings.Contains(taints, "node.kubernetes.io/not-ready") || strings.Contains(taints, "node.kubernetes.io/unreachable") {
		return fmt.Errorf("the node is not Ready: %s", out)
	}
	return nil
}

// WaitSteady is WaitReady for a node that was away: it may be found lost once more while the witnesses' news of its absence
// are still on their way, so it must be Ready in two looks, one second apart.
func (n *Node) WaitSteady(ctx context.Context, limit time.Duration) error {
	var since time.Time
	return n.lab.until(ctx, n.daemon(agent), n.lab.process(n.daemon(agent)), limit, func(ctx context.Context) error {
		if err := n.isReady(ctx); err != nil {
			since = time.Time{}
			return err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < time.Second {
			return errors.New("the node is Ready only since a moment ago")
		}
		return nil
	})
}

// StartAgent starts the node's wp-agent: with a fresh token the first time, with
// the identity on the node's disk from then on.
func (n *Node) StartAgent(ctx context.Context) error {
	n.lab.mu.Lock()
	joined := n.lab.state.Joined[n.Name]
	n.lab.mu.Unlock()
	var join joinLine
	if !joined {
		out, err := n.lab.Wpctl(ctx, "token", "create", "--ttl", "1h", "--print-join-command")
		if err != nil {
			return err
		}
		if join, err = parseJoin(out); err != nil {
			return err
		}
		// The agent answers for the master's address as the nodes see it, whatever
		// the kubeconfig says.
		join.master = fmt.Sprintf("%s:%d", n.lab.Node(1).Address, agentPort)
	}
	p, err := n.lab.start(ctx, daemon{name: n.daemon(agent), argv: n.enter(n.agentArgs(join)), fork: true})
	if err != nil {
		return err
	}
	return n.lab.record(func(s *state) {
		s.Processes[n.daemon(agent)] = p
		s.Joined[n.Name] = true
	})
}

// evictionHard counts in bytes: the nodes share the disk of a machine that is somebody's, may be large and nearly full, and
// is not theirs to tidy up.
const evictionHard = "nodefs.available<300Mi,imagefs.available<300Mi,nodefs.inodesFree<1%,imagefs.inodesFree<1%"

// agentArgs is the command line of wp-agent; join is empty for a node that has its
// identity.
func (n *Node) agentArgs(join joinLine) []string {
	args := []string{filepath.Join(n.lab.cfg.Bin, "wp-agent"), "run"}
	if join != (joinLine{}) {
		args = []string{args[0], "join", "--master", join.master, "--token", join.token, "--ca-hash", join.caHash, "--node-name", n.Name}
	}
	args = append(args, "--node-ip", n.Address.String(),
		"--data-dir", filepath.Join(n.Dir(), "agent"), "--docker-host", engineSocket,
		"--eviction-hard", evictionHard, "--image-gc-high-threshold", "100")
	return append(args, n.lab.cfg.AgentArgs...)
}

// KillAgent kills the node's wp-agent (kill -9). Its containers stay.
func (n *Node) KillAgent(ctx context.Context) error {
	return n.lab.process(n.daemon(agent)).kill(ctx)
}

// AgentLog is what the node's wp-agents have logged.
func (n *Node) AgentLog() (string, error) {
	data, err := os.ReadFile(n.lab.logPath(n.daemon(agent)))
	return string(data), err
}

// RestartAgent ends the node's wp-agent in order and starts it again.
func (n *Node) RestartAgent(ctx context.Context) error {
	if err := n.lab.process(n.daemon(agent)).stop(ctx, 30*time.Second); err != nil {
		return err
	}
	return n.StartAgent(ctx)
}

// UninstallAgent ends the node's wp-agent and lets it remove what it made on the node.
// StartAgent joins anew.
func (n *Node) UninstallAgent(ctx context.Context) error {
	if err := n.lab.process(n.daemon(agent)).stop(ctx, 30*time.Second); err != nil {
		return err
	}
	out, err := n.Command(ctx, filepath.Join(n.lab.cfg.Bin, "wp-agent"), "uninstall",
		"--data-dir", filepath.Join(n.Dir(), "agent"), "--docker-host", engineSocket).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: wp-agent uninstall: %w: %s", n.Name, err, bytes.TrimSpace(out))
	}
	return n.lab.record(func(s *state) { s.Joined[n.Name] = false })
}

// joinLine is what "wpctl token create --print-join-command" prints.
type joinLine struct{ master, token, caHash string }

func parseJoin(out string) (joinLine, error) {
	var j joinLine
	f := strings.Fields(out)
	for i := 0; i+1 < len(f); i++ {
		switch f[i] {
		case "--master":
			j.master = f[i+1]
		case "--token":
			j.token = f[i+1]
		case "--ca-hash":
			j.caHash = f[i+1]
		}
	}
	if j.master == "" || j.token == "" || j.caHash == "" {
		return j, fmt.Errorf("no join command in %q", out)
	}
	return j, nil
}

var serverLine = regexp.MustCompile(`(?m)^(\s*server:\s*)https://\S+$`)

// WriteKubeconfig writes a copy of the administrator's kubeconfig for another
// address of the API.
func (l *Lab) WriteKubeconfig(file, server string) error {
	data, err := os.ReadFile(l.Kubeconfig())
	if err != nil {
		return err
	}
	changed, err := withServer(data, server)
	if err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, changed, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func withServer(kubeconfig []byte, server string) ([]byte, error) {
	if len(serverLine.FindAll(kubeconfig, -1)) != 1 {
		return nil, errors.New("the master's kubeconfig does not name one server")
	}
	return serverLine.ReplaceAll(kubeconfig, []byte("${1}"+server)), nil
}

// Missing returns the programs that the lab starts and that are not in Config.Bin.
func (l *Lab) Missing() []string {
	var missing []string
	for _, name := range []string{"wp-master", "wp-agent", "wpctl", "p4app"} {
		if _, err := exec.LookPath(filepath.Join(l.cfg.Bin, name)); err != nil {
			missing = append(missing, name)
		}
	}
	return missing
}

// StartForwarder starts a process that listens on this machine's loopback address
// and leads into the lab, and waits until it listens.
func (l *Lab) StartForwarder(ctx context.Context, forwards ...Forward) error {
	argv := []string{filepath.Join(l.cfg.Bin, "wpctl"), "demo", "forward", "--netns", netnsPath(l.cfg.labName())}
	for _, f := range forwards {
		argv = append(argv, f.Listen+"="+f.To)
	}
	p, err := l.start(ctx, daemon{name: "forward", argv: argv})
	if err != nil {
		return err
	}
	if err := l.remember("forward", p); err != nil {
		return err
	}
	return l.until(ctx, "forward", p, 10*time.Second, func(ctx context.Context) error {
		for _, f := range forwards {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", f.Listen)
			if err != nil {
				return err
			}
			conn.Close()
		}
		return nil
	})
}

// Process describes something that the lab runs, for a status.
type Process struct {
	Name  string
	PID   int
	Alive bool
	RSS   int64 // bytes
}

// Processes lists what the lab started, in order of names.
func (l *Lab) Processes() []Process {
	l.mu.Lock()
	known := maps.Clone(l.state.Processes)
	l.mu.Unlock()
	var all []Process
	for _, name := range slices.Sorted(maps.Keys(known)) {
		p := known[name]
		all = append(all, Process{Name: name, PID: p.PID, Alive: p.alive(), RSS: residentSize(p.PID)})
	}
	return all
}

// residentSize reads a process's resident memory, 0 if it is gone.
func residentSize(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(data), &total, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
