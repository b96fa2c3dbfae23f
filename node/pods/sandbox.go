package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

const (
	sandboxFirst = time.Second
	sandboxMost  = 10 * time.Second
)

// sandbox that runs, newest first; nil when none does.
func (w *worker) sandbox() *runtime.Sandbox {
	var best *runtime.Sandbox
	for i := range w.observed.Sandboxes {
		if s := &w.observed.Sandboxes[i]; s.Running && (best == nil || s.Attempt > best.Attempt) {
			best = s
		}
	}
	return best
}

func (w *worker) nextSandbox() int {
	next := 0
	for _, s := range w.observed.Sandboxes {
		next = max(next, s.Attempt+1)
	}
	return next
}

// ensureSandbox returns the running sandbox, on the network and with its files; nil while there is none.
func (w *worker) ensureSandbox(ctx context.Context) *runtime.Sandbox {
	sb := w.sandbox()
	if time.Now().Before(w.sandboxErr.at) && (sb == nil || w.attached != sb.ID) {
		w.wakeAt(w.sandboxErr.at)
		return nil
	}
	if sb == nil {
		if !w.clearForSandbox(ctx) {
			return nil
		}
		if sb = w.runSandbox(ctx); sb == nil {
			return nil
		}
	}
	if w.attached != sb.ID {
		if err := w.attach(ctx, sb); err != nil {
			w.sandboxFailed(ctx, fmt.Errorf("failed to set up network for sandbox %q: %w", sb.ID, err))
			if sb.PID == 0 {
				w.stale = true
			}
			return nil
		}
	}
	w.sandboxErr = retry{}
	return sb
}

func (w *worker) sandboxFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.warn("", "FailedCreatePodSandBox", "Failed to create pod sandbox: "+err.Error())
	w.wakeAt(w.sandboxErr.failed(sandboxFirst, sandboxMost))
}

// clearForSandbox ends what still runs in the namespaces of a sandbox that has died, and takes it off the network.
func (w *worker) clearForSandbox(ctx context.Context) bool {
	running := false
	for i := range w.observed.Containers {
		if c := &w.observed.Containers[i]; c.State == runtime.StateRunning {
			running = true
			w.kill(ctx, c, fmt.Sprintf("Stopping container %s", c.Name), w.grace(c.Name, killSandbox))
		}
	}
	if running {
		return false
	}
	if w.attached != "" {
		if err := w.m.cfg.Network.Detach(ctx, w.uid); err != nil {
			w.trouble(ctx, "the dead sandbox could not be taken off the network", err)
			return false
		}
		w.attached, w.podIPs = "", nil
	}
	return true
}

func (w *worker) runSandbox(ctx context.Context) *runtime.Sandbox {
	attempt := w.nextSandbox()
	if attempt > 0 && w.sandboxErr.delay == 0 {
		w.normal("", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	name, err := netfiles.UTSName(w.pod, w.m.cfg.Cluster().Domain)
	if err != nil {
		w.sandboxFailed(ctx, err)
		return nil
	}
	handler, err := w.runtimeHandler()
	if err != nil {
		w.sandboxFailed(ctx, err)
		return nil
	}
	release, err := w.m.acquire(ctx)
	if err != nil {
		return nil
	}
	defer release()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.seq.Add(1)
	sb, err := w.m.cfg.Engine.RunSandbox(call, spec.Sandbox(w.pod, attempt, name, handler))
	w.seq.Add(1)
	if err != nil {
		w.stale = true
		w.sandboxFailed(ctx, err)
		return nil
	}
	w.observed.Sandboxes = append([]runtime.Sandbox{sb}, w.observed.Sandboxes...)
	return &w.observed.Sandboxes[0]
}

// defaultHandler is the name of the runtime that Docker runs containers with unless it was told otherwise. It stands for
// the engine's default: on an engine that has another one, classes written for Kubernetes still work.
const defaultHandler = "runc"

// runtimeHandler is the engine's runtime that the pod's RuntimeClass names; empty for the default.
func (w *worker) runtimeHandler() (string, error) {
	name := w.pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return "", nil
	}
	class, ok := w.m.cfg.Desired.RuntimeClass(*name)
	if !ok {
		return "", fmt.Errorf("runtimeclass.node.k8s.io %q not found", *name)
	}
	if class.Handler == defaultHandler {
		return "", nil
	}
	return class.Handler, nil
}

func (w *worker) attach(ctx context.Context, sb *runtime.Sandbox) error {
	if w.pod.Spec.HostNetwork {
		w.attached, w.podIPs = sb.ID, nil
		return w.writeFiles()
	}
	want := w.last.PodIP
	ip, err := w.m.cfg.Network.Attach(ctx, w.ref, sb.PID, want, hostPorts(w.pod))
	if err != nil {
		return err
	}
	w.podIPs = []string{ip}
	if err := w.writeFiles(); err != nil {
		return err
	}
	w.attached = sb.ID
	return nil
}

func hostPorts(pod *corev1.Pod) []HostPort {
	var out []HostPort
	for _, c := range allContainers(pod) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				out = append(out, HostPort{p.HostIP, p.HostPort, p.ContainerPort, p.Protocol})
			}
		}
	}
	return out
}

func (w *worker) hostsFile() string  { return filepath.Join(w.m.volumes.PodDir(w.uid), "etc-hosts") }
func (w *worker) resolvFile() string { return filepath.Join(w.m.volumes.PodDir(w.uid), "resolv.conf") }

// writeFiles writes /etc/hosts and /etc/resolv.conf in place: containers have them mounted as files, so a file put in
// their place would not be seen. A restarted agent leaves them as they are (a container may have changed them), unless
// the pod's address is another.
func (w *worker) writeFiles() error {
	cluster := w.m.cfg.Cluster()
	host, domain, err := netfiles.Hostname(w.pod, cluster.Domain)
	if err != nil {
		return err
	}
	_, err = os.Stat(w.hostsFile())
	if err == nil && len(w.podIPs) > 0 && w.podIPs[0] == w.last.PodIP || err == nil && w.pod.Spec.HostNetwork {
		if _, err := os.Stat(w.resolvFile()); err == nil {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(w.hostsFile()), 0o750); err != nil {
		return err
	}
	var nodeHosts []byte
	if w.pod.Spec.HostNetwork {
		if nodeHosts, err = os.ReadFile(w.m.cfg.HostsFile); err != nil {
			return err
		}
	}
	if err := writeWhole(w.hostsFile(), netfiles.Hosts(w.pod, w.podIPs, host, domain, nodeHosts)); err != nil {
		return err
	}
	resolv := netfiles.ForPod(w.pod, nodeResolv(w.m.cfg.ResolvConf, systemdResolv), cluster)
	for _, omitted := range resolv.Omitted {
		w.m.cfg.Record.Event(w.pod, corev1.EventTypeWarning, "DNSConfigForming", omitted, "")
	}
	return writeWhole(w.resolvFile(), resolv.Bytes())
}

// writeWhole leaves no half of a file behind when the disk is full: that it is there says that it need not be written.
func writeWhole(path string, data []byte) error {
	err := os.WriteFile(path, data, 0o644)
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// systemdResolv is what systemd-resolved asks; /etc/resolv.conf then names only its stub, which pods do not reach.
const systemdResolv = "/run/systemd/resolve/resolv.conf"

// nodeResolv reads the node's resolver configuration from the first file that names more than a stub, or else the last.
func nodeResolv(files ...string) netfiles.Resolv {
	var r netfiles.Resolv
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		r = netfiles.ParseResolv(data)
		if len(r.Nameservers) != 1 || r.Nameservers[0] != "127.0.0.53" {
			break
		}
	}
	return r
}

// mayRestart tells whether any container of the pod is to run (again): if not, a dead sandbox is not made anew.
func (w *worker) mayRestart() bool {
	for i := range w.pod.Spec.Containers {
		c := &w.pod.Spec.Containers[i]
		attempts := status.Attempts(w.observed, c.Name)
		if len(attempts) == 0 {
			if code, ok := w.endedBefore(c); !ok || status.Restarts(w.pod, c, code) {
				return true
			}
			continue
		}
		if !status.Ended(attempts[0]) || status.Restarts(w.pod, c, int32(attempts[0].ExitCode)) {
			return true
		}
	}
	return false
}
