package spec

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// seccompDir is where localhost profiles are looked for, as on a kubelet.
const seccompDir = "/var/lib/kubelet/seccomp/"

// security is the pod's security context with the container's on top.
type security struct {
	user, group *int64
	nonRoot     bool
}

func effective(in Input) security {
	var s security
	if p := in.Pod.Spec.SecurityContext; p != nil {
		s.user, s.group = p.RunAsUser, p.RunAsGroup
		s.nonRoot = p.RunAsNonRoot != nil && *p.RunAsNonRoot
	}
	if c := in.Container.SecurityContext; c != nil {
		if c.RunAsUser != nil {
			s.user = c.RunAsUser
		}
		if c.RunAsGroup != nil {
			s.group = c.RunAsGroup
		}
		if c.RunAsNonRoot != nil {
			s.nonRoot = *c.RunAsNonRoot
		}
	}
	return s
}

// verifyNonRoot refuses to run as root what must not. Only numbers can be judged: what a name means is in the image.
func verifyNonRoot(in Input) error {
	s := effective(in)
	if !s.nonRoot {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", Describe(in.Pod), in.Container.Name)
	if s.user != nil {
		if *s.user == 0 {
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		}
		return nil
	}
	name, _, _ := strings.Cut(in.Image.User, ":")
	uid, err := strconv.ParseInt(name, 10, 64)
	switch {
	case name != "" && err != nil:
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, where)
	case uid == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	return nil
}

// user in the engine's form. A group alone needs the image's user before it.
func user(in Input) string {
	s := effective(in)
	switch {
	case s.user == nil && s.group == nil:
		return ""
	case s.user == nil:
		name, _, _ := strings.Cut(in.Image.User, ":")
		if name == "" {
			name = "0"
		}
		return name + ":" + strconv.FormatInt(*s.group, 10)
	case s.group == nil:
		return strconv.FormatInt(*s.user, 10)
	}
	return strconv.FormatInt(*s.user, 10) + ":" + strconv.FormatInt(*s.group, 10)
}

func secure(s *runtime.ContainerSpec, in Input) {
	s.User = user(in)
	var seccomp *corev1.SeccompProfile
	var apparmor *corev1.AppArmorProfile
	if p := in.Pod.Spec.SecurityContext; p != nil {
		if p.FSGroup != nil {
			s.SupplementalGroups = append(s.SupplementalGroups, *p.FSGroup)
		}
		s.SupplementalGroups = append(s.SupplementalGroups, p.SupplementalGroups...)
		seccomp, apparmor = p.SeccompProfile, p.AppArmorProfile
	}
	if c := in.Container.SecurityContext; c != nil {
		s.Privileged = c.Privileged != nil && *c.Privileged
		s.ReadOnlyRootFS = c.ReadOnlyRootFilesystem != nil && *c.ReadOnlyRootFilesystem
		s.NoNewPrivileges = c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation
		s.MaskedPathsOff = c.ProcMount != nil && *c.ProcMount == corev1.UnmaskedProcMount
		if c.Capabilities != nil {
			s.CapAdd, s.CapDrop = names(c.Capabilities.Add), names(c.Capabilities.Drop)
		}
		if c.SeccompProfile != nil {
			seccomp = c.SeccompProfile
		}
		if c.AppArmorProfile != nil {
			apparmor = c.AppArmorProfile
		}
	}
	if seccomp != nil {
		s.SeccompProfile = profile(string(seccomp.Type), seccomp.LocalhostProfile, seccompDir)
	}
	if apparmor != nil {
		s.AppArmorProfile = profile(string(apparmor.Type), apparmor.LocalhostProfile, "")
	}
}

// profile in the words of the old annotations, which the engine's side understands.
func profile(kind string, name *string, dir string) string {
	switch {
	case kind == "Unconfined":
		return "unconfined"
	case kind == "Localhost" && name != nil:
		return "localhost/" + dir + *name
	}
	return "runtime/default"
}

func names(caps []corev1.Capability) []string {
	out := make([]string, len(caps))
	for i, c := range caps {
		out[i] = string(c)
	}
	return out
}
