//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/whalepod/whalepod/lab"
)

// The programs that the tests use the cluster with.
var (
	newest cli   // kubectl of the Kubernetes release that go.mod names
	wpctl  cli   // ours
	every  []cli // it, and the distribution's, years older, where there is one
)

// prepareClients puts both kubectls into the cache, where they are not yet.
func prepareClients(ctx context.Context, l *lab.Lab) error {
	if err := buildKubectl(ctx, l.Config().Cache); err != nil {
		return fmt.Errorf("kubectl of go.mod: %w", err)
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: NOT RUN: the tests with an old kubectl: it comes from Debian's package kubernetes-client, and there is no apt here")
		return nil
	}
	if err := unpackKubectl(ctx, l.Config().Cache); err != nil {
		return fmt.Errorf("kubectl of the package kubernetes-client: %w", err)
	}
	return nil
}

// willRun tells whether -run and -skip let a test run, as far as that can be told from its name alone.
func willRun(test string) bool {
	matches := func(name string) (matched, given bool) {
		f := flag.Lookup(name)
		if f == nil || f.Value.String() == "" {
			return false, false
		}
		pattern, _, sub := strings.Cut(f.Value.String(), "/")
		re, err := regexp.Compile(pattern)
		return err != nil || re.MatchString(test) && !(sub && name == "test.skip"), true
	}
	run, chosen := matches("test.run")
	skip, _ := matches("test.skip")
	return (run || !chosen) && !skip
}

// kubectlDir is where the kubectl that is to be had now is cached.
func kubectlDir(cache, version string) string { return filepath.Join(cache, "kubectl", version) }

func kubernetesVersion(ctx context.Context) (string, error) {
	out, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"))
	return strings.TrimSpace(out), err
}

// buildKubectl builds Kubernetes' own kubectl, unmodified, from the module proxy.
func buildKubectl(ctx context.Context, cache string) error {
	version, err := kubernetesVersion(ctx)
	if err != nil {
		return err
	}
	dir := kubectlDir(cache, version)
	if _, err := os.Stat(filepath.Join(dir, "kubectl")); err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "e2e:   building kubectl %s\n", version)
	return intoCache(dir, func(tmp string) error {
		flags := fmt.Sprintf("-s -w -X k8s.io/component-base/version.gitVersion=%[1]s -X k8s.io/client-go/pkg/version.gitVersion=%[1]s", version)
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", flags, "-o", filepath.Join(tmp, "kubectl"), "k8s.io/kubernetes/cmd/kubectl")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		_, err := output(cmd)
		return err
	})
}

// unpackKubectl takes kubectl out of Debian's package without installing it.
func unpackKubectl(ctx context.Context, cache string) error {
	dir := kubectlDir(cache, "kubernetes-client")
	if _, err := os.Stat(filepath.Join(dir, "kubectl")); err == nil {
		return nil
	}
	return intoCache(dir, func(tmp string) error {
		download := func() error {
			cmd := exec.CommandContext(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "kubernetes-client")
			cmd.Dir = tmp
			_, err := output(cmd)
			return err
		}
		if err := download(); err != nil {
			// The lists may be old, or there may be none yet.
			if _, err := output(exec.CommandContext(ctx, "apt-get", "-q", "update")); err != nil {
				return err
			}
			if err := download(); err != nil {
				return err
			}
		}
		debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
		if err != nil || len(debs) != 1 {
			return fmt.Errorf("one package expected, not %v", debs)
		}
		if _, err := output(exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], filepath.Join(tmp, "root"))); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(tmp, "root/usr/bin/kubectl"), filepath.Join(tmp, "kubectl")); err != nil {
			return err
		}
		return errors.Join(os.Remove(debs[0]), os.RemoveAll(filepath.Join(tmp, "root")))
	})
}

// intoCache makes a directory of the cache whole or not at all.
func intoCache(dir string, fill func(tmp string) error) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "new")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := fill(tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// findClients sets the programs up for the tests.
func findClients(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	version, err := kubernetesVersion(ctx)
	if err != nil {
		return err
	}
	cfg := cluster.Config()
	if newest, err = newCLI(ctx, dir, filepath.Join(kubectlDir(cfg.Cache, version), "kubectl")); err != nil {
		return err
	}
	every = []cli{newest}
	if path := filepath.Join(kubectlDir(cfg.Cache, "kubernetes-client"), "kubectl"); exists(path) {
		old, err := newCLI(ctx, dir, path)
		if err != nil {
			return err
		}
		every = append(every, old)
	}
	wpctl, err = newCLI(ctx, dir, filepath.Join(cfg.Bin, "wpctl"))
	return err
}

// newCLI asks a program for its version, and gives it a home of its own: releases
// may not understand each other's caches.
func newCLI(ctx context.Context, dir, path string) (cli, error) {
	out, err := output(exec.CommandContext(ctx, path, "version", "--client", "-o", "json"))
	if err != nil {
		return cli{}, err
	}
	var v struct {
		ClientVersion struct{ Major, Minor, GitVersion string } `json:"clientVersion"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return cli{}, fmt.Errorf("%s version: %w", path, err)
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(v.ClientVersion.GitVersion, "v"), "+")
	if parts := strings.SplitN(name, ".", 3); len(parts) == 3 {
		name = parts[0] + "." + parts[1]
	}
	c := cli{name: filepath.Base(path) + "-" + name, path: path}
	c.home = filepath.Join(dir, "home", c.name)
	return c, os.MkdirAll(c.home, 0o755)
}

// output runs a command of the machine; what it complains of is in the error.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, exit.Stderr)
	}
	return string(out), err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
