package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// need is a program that a lab starts, and the packages it comes in.
type need struct {
	program string
	apt     string
	dnf     string // empty: not to be had there, and done without
	tests   bool   // of the tests only
}

var needs = []need{
	{program: "dockerd", apt: "docker.io", dnf: "moby-engine"},
	{program: "iptables", apt: "iptables", dnf: "iptables-nft"},
	{program: "ip", apt: "iproute2", dnf: "iproute"},
	{program: "nsenter", apt: "util-linux", dnf: "util-linux"},
	{program: "unshare", apt: "util-linux", dnf: "util-linux"},
	{program: "mmdebstrap", apt: "mmdebstrap"},
	{program: "docker-registry", apt: "docker-registry"},
	{program: "gcc", apt: "gcc libc6-dev", dnf: "gcc glibc-devel", tests: true}, // the race detector is linked by it
	{program: "busybox", apt: "busybox-static", dnf: "busybox", tests: true},
	{program: "htpasswd", apt: "apache2-utils", dnf: "httpd-tools", tests: true},
	{program: "nft", apt: "nftables", dnf: "nftables", tests: true}, // reads what the agents write without it
	{program: "hey", apt: "hey", tests: true},                       // a client that is not ours
}

// Install installs what a lab needs and the machine lacks, with apt or dnf and
// without a question; with tests, what this repository's tests need as well. It
// returns the packages that it installed.
func Install(ctx context.Context, tests bool) ([]string, error) {
	manager := ""
	for _, m := range []string{"apt-get", "dnf"} {
		if _, err := exec.LookPath(m); err == nil {
			manager = m
			break
		}
	}
	// The directories of system programs are not in everybody's PATH.
	if err := os.Setenv("PATH", withSbin(os.Getenv("PATH"))); err != nil {
		return nil, err
	}
	packages, err := missingPackages(manager, tests, func(p string) bool {
		_, err := exec.LookPath(p)
		return err == nil
	})
	if err != nil || len(packages) == 0 {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w; missing: %s", ErrNotRoot, strings.Join(packages, " "))
	}
	if manager == "apt-get" {
		return packages, aptInstall(ctx, packages)
	}
	return packages, install(ctx, "dnf", append([]string{"-y", "-q", "install"}, packages...)...)
}

func missingPackages(manager string, tests bool, has func(program string) bool) ([]string, error) {
	var packages, programs []string
	for _, n := range needs {
		if has(n.program) || n.tests && !tests {
			continue
		}
		p := n.apt
		if manager == "dnf" {
			p = n.dnf
		}
		if p == "" {
			continue
		}
		programs = append(programs, n.program)
		for _, name := range strings.Fields(p) {
			if !slices.Contains(packages, name) {
				packages = append(packages, name)
			}
		}
	}
	if len(packages) > 0 && manager == "" {
		return nil, fmt.Errorf("missing: %s; there is neither apt nor dnf here to install them with", strings.Join(programs, ", "))
	}
	return packages, nil
}

// aptInstall installs without starting anything: the lab starts engines of its
// own, and the machine may not want one.
func aptInstall(ctx context.Context, packages []string) error {
	const policy = "/usr/sbin/policy-rc.d" // invoke-rc.d(8)
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer os.Remove(policy)
	}
	args := append([]string{"-y", "-q", "--no-install-recommends", "install"}, packages...)
	if install(ctx, "apt-get", args...) == nil {
		return nil
	}
	// The lists may be old, or there may be none yet.
	if err := install(ctx, "apt-get", "-q", "update"); err != nil {
		return err
	}
	return install(ctx, "apt-get", args...)
}

// install runs a package manager; the end of what it says is in the error.
func install(ctx context.Context, manager string, args ...string) error {
	cmd := exec.CommandContext(ctx, manager, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", manager, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func withSbin(path string) string {
	have := strings.Split(path, ":")
	for _, d := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if !slices.Contains(have, d) {
			have = append(have, d)
		}
	}
	return strings.Join(have, ":")
}
