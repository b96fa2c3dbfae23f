package docker

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker/pause"
)

const (
	// sandboxOOMScore keeps the pause process alive when memory runs out (the kubelet's defaultSandboxOOMAdj).
	sandboxOOMScore = -998
	// sandboxShares is the least weight: pause does nothing.
	sandboxShares = 2

	// Logs are kept by the engine and rotated; --previous and --tail read them there.
	logDriver  = "json-file"
	logMaxSize = "10m"
	logMaxFile = "3"
)

// sandboxRequest is what Docker is asked for a sandbox. With noneName as network Docker makes a network namespace and
// leaves it alone.
func sandboxRequest(node string, spec runtime.SandboxSpec, f features) (*container.Config, *container.HostConfig) {
	i := identity{spec.Pod, sandboxName, spec.Attempt}
	noInit := false
	cfg := &container.Config{
		Image:       pause.Image,
		Labels:      i.labels(node, spec.Labels),
		Hostname:    spec.Hostname,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	host := &container.HostConfig{
		NetworkMode: "none",
		Sysctls:     spec.Sysctls,
		ShmSize:     spec.ShmSize,
		OomScoreAdj: sandboxOOMScore,
		LogConfig:   container.LogConfig{Type: "none"},
		Runtime:     spec.RuntimeHandler,
		SecurityOpt: securityOptions(f, true),
		Init:        &noInit,
		Resources:   container.Resources{CPUShares: sandboxShares, CgroupParent: spec.CgroupParent},
	}
	host.RestartPolicy.Name = container.RestartPolicyDisabled
	if f.shareable {
		host.IpcMode = container.IPCModeShareable
	}
	if spec.HostNetwork {
		host.NetworkMode, host.UTSMode, cfg.Hostname = "host", "host", ""
	}
	if spec.HostPID {
		host.PidMode = "host"
	}
	if spec.HostIPC {
		host.IpcMode = container.IPCModeHost
	}
	return cfg, host
}

// containerRequest is what Docker is asked for an app container. It joins the sandbox's network, and so gets its
// hostname too; IPC (with /dev/shm); and PIDs if asked for.
func containerRequest(node string, spec runtime.ContainerSpec, f features) (*container.Config, *container.HostConfig, error) {
	i := identity{spec.Pod, spec.Name, spec.Attempt}
	cfg := &container.Config{
		Image:      spec.Image,
		Labels:     i.labels(node, spec.Labels),
		Entrypoint: spec.Command,
		Cmd:        spec.Args,
		Env:        spec.Env,
		WorkingDir: spec.WorkingDir,
		User:       spec.User,
		OpenStdin:  spec.Stdin,
		StdinOnce:  spec.Stdin && spec.StdinOnce,
		Tty:        spec.TTY,
		StopSignal: spec.StopSignal,
		// Probes are the agent's business; an image's HEALTHCHECK would run beside them.
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
	joined := "container:" + spec.SandboxID
	host := &container.HostConfig{
		NetworkMode:    container.NetworkMode(joined),
		IpcMode:        container.IpcMode(joined),
		Privileged:     spec.Privileged,
		ReadonlyRootfs: spec.ReadOnlyRootFS,
		CapAdd:         spec.CapAdd,
		CapDrop:        spec.CapDrop,
		Tmpfs:          spec.Tmpfs,
		OomScoreAdj:    spec.Resources.OOMScoreAdj,
		Runtime:        spec.RuntimeHandler,
		LogConfig: container.LogConfig{Type: logDriver, Config: map[string]string{
			"max-size": logMaxSize, "max-file": logMaxFile,
		}},
		SecurityOpt: securityOptions(f, spec.NoNewPrivileges),
		Resources:   resources(spec),
	}
	host.RestartPolicy.Name = container.RestartPolicyDisabled
	if spec.HostNetwork {
		host.UTSMode = "host"
	}
	switch {
	case spec.HostPID:
		host.PidMode = "host"
	case spec.PIDTarget != "":
		host.PidMode = container.PidMode("container:" + spec.PIDTarget)
	case spec.SharePID:
		host.PidMode = container.PidMode(joined)
	}
	if spec.HostIPC {
		host.IpcMode = container.IPCModeHost
	}
	for _, g := range spec.SupplementalGroups {
		host.GroupAdd = append(host.GroupAdd, strconv.FormatInt(g, 10))
	}
	for _, m := range spec.Mounts {
		b, err := bind(m, f)
		if err != nil {
			return nil, nil, err
		}
		host.Mounts = append(host.Mounts, b)
	}
	if spec.MaskedPathsOff { // empty, not nil: nil asks for the engine's defaults
		host.MaskedPaths, host.ReadonlyPaths = []string{}, []string{}
	}
	profiles, err := profileOptions(spec.SeccompProfile, spec.AppArmorProfile)
	host.SecurityOpt = append(host.SecurityOpt, profiles...)
	if spec.Privileged && f.given != nil {
		allThatThereIs(host, f.given)
	}
	return cfg, host, err
}

func resources(spec runtime.ContainerSpec) container.Resources {
	r := spec.Resources
	out := container.Resources{
		CgroupParent: spec.CgroupParent,
		Memory:       r.MemoryBytes,
		// The limit is the limit: without this Docker adds as much swap again.
		MemorySwap: r.MemoryBytes,
		CPUShares:  r.CPUShares,
		CPUQuota:   r.CPUQuota,
		CPUPeriod:  r.CPUPeriod,
	}
	if r.PidsLimit > 0 {
		out.PidsLimit = &r.PidsLimit
	}
	for _, dev := range spec.Devices {
		out.Devices = append(out.Devices, container.DeviceMapping{
			PathOnHost: dev.HostPath, PathInContainer: dev.ContainerPath, CgroupPermissions: dev.Permissions,
		})
	}
	return out
}

// bind uses the mount API and not the older Binds, which make a missing source a directory. From Engine 25.0 on a read-only
// mount holds for what is below it wherever the kernel can, unless told not to; Kubernetes wants that only when asked.
func bind(m runtime.Mount, f features) (mount.Mount, error) {
	out := mount.Mount{Type: mount.TypeBind, Source: m.HostPath, Target: m.ContainerPath, ReadOnly: m.ReadOnly}
	options := mount.BindOptions{Propagation: mount.Propagation(m.Propagation)}
	switch {
	case !m.ReadOnly:
	case m.Below == runtime.RecursiveAlways && !f.recursive:
		return out, mark(runtime.ErrInvalid, fmt.Errorf("%s is to be read-only recursively, which this engine cannot do (Docker Engine 25.0 can)", m.ContainerPath))
	case f.recursive:
		options.ReadOnlyNonRecursive = m.Below == runtime.RecursiveNever
		options.ReadOnlyForceRecursive = m.Below == runtime.RecursiveAlways
	}
	if options != (mount.BindOptions{}) {
		out.BindOptions = &options
	}
	return out, nil
}

func securityOptions(f features, noNewPrivileges bool) []string {
	var out []string
	if f.selinux {
		out = append(out, "label=disable")
	}
	if noNewPrivileges {
		out = append(out, "no-new-privileges")
	}
	return out
}

// Words for profiles, as in the annotations of Kubernetes before there were fields.
const (
	profileDefault   = "runtime/default"
	profileNone      = "unconfined"
	profileLocalhost = "localhost/"
)

// profileOptions translates "", runtime/default, unconfined and localhost/<name or path>. Docker wants the text of a
// seccomp profile, not its path, and the name of a loaded AppArmor profile.
func profileOptions(seccomp, apparmor string) ([]string, error) {
	var out []string
	switch path, local := strings.CutPrefix(seccomp, profileLocalhost); {
	case seccomp == "" || seccomp == profileDefault:
	case seccomp == profileNone:
		out = append(out, "seccomp="+profileNone)
	case local:
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, mark(runtime.ErrInvalid, fmt.Errorf("cannot load seccomp profile: %w", err))
		}
		out = append(out, "seccomp="+string(text))
	default:
		return nil, mark(runtime.ErrInvalid, fmt.Errorf("unknown seccomp profile %q", seccomp))
	}
	switch name, local := strings.CutPrefix(apparmor, profileLocalhost); {
	case apparmor == "" || apparmor == profileDefault:
	case apparmor == profileNone:
		out = append(out, "apparmor="+profileNone)
	case local:
		out = append(out, "apparmor="+name)
	default:
		return nil, mark(runtime.ErrInvalid, fmt.Errorf("unknown AppArmor profile %q", apparmor))
	}
	return out, nil
}
