package docker

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// capabilities by number (capabilities(7), linux/capability.h). Those after the last one here came with Linux 5.8, and
// older engines refuse their names.
var capabilities = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
	CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK
	CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT
	CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL
	CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ`)

// machineCapabilities are those that this machine can give, when it lacks some that its kernel knows: a virtual server that is
// a container itself. nil when it has them all, or when that cannot be found out.
func machineCapabilities() []string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return nil
	}
	given, err := someCapabilities(string(status), string(last))
	if err != nil {
		return nil
	}
	return given
}

// someCapabilities reads the bounding set (proc_pid_status(5)) and the number of the kernel's last capability.
func someCapabilities(status, last string) ([]string, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(last), 10, 6)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(status) {
		hex, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil || set == 1<<(n+1)-1 {
			return nil, err
		}
		given := []string{}
		for i, name := range capabilities {
			if set&(1<<i) != 0 {
				given = append(given, name)
			}
		}
		return given, nil
	}
	return nil, fmt.Errorf("no CapBnd in the status of a process")
}

// allThatThereIs makes a container as privileged as a machine can that lacks capabilities itself. Engines before 23.0 ask for
// all that the kernel knows when they are told "privileged", and runc then fails: "unable to apply caps: operation not
// permitted". What is left out: /sys stays read-only.
func allThatThereIs(host *container.HostConfig, given []string) {
	host.Privileged, host.CapAdd, host.CapDrop = false, given, nil
	host.SecurityOpt = []string{"label=disable", "seccomp=unconfined", "apparmor=unconfined"}
	host.MaskedPaths, host.ReadonlyPaths = []string{}, []string{}
	host.DeviceCgroupRules = []string{"a *:* rwm"}
	// Of a directory the engine takes all devices below it.
	host.Devices = append(host.Devices, container.DeviceMapping{PathOnHost: "/dev", PathInContainer: "/dev", CgroupPermissions: "rwm"})
}
