//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// otherMaster runs wp-master beside the nodes, on a data directory that is not the
// lab's. It looks for nodes where there are none, so that it does not meddle.
func otherMaster(ctx context.Context, dir string, args ...string) *exec.Cmd {
	at := cluster.Config().Subnet.Addr().Next().String()
	args = append([]string{"--data-dir", dir, "--advertise-address", at, "--bind", at, "--node-gossip-port", "17946"}, args...)
	cmd := cluster.Command(ctx, filepath.Join(cluster.Config().Bin, "wp-master"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// refuses runs a master that must not start, and returns what it says.
func refuses(t *testing.T, dir string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	out, err := otherMaster(ctx, dir, args...).CombinedOutput()
	if err == nil || ctx.Err() != nil {
		t.Errorf("it started: %v\n%s", err, out)
	}
	return string(out)
}

func checksum(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes, %x", len(data), sha256.Sum256(data))
}

// TestBackupAndRestore takes a copy of the running cluster, damages what it can, and
// starts a master from the copy.
func TestBackupAndRestore(t *testing.T) {
	w := startWeb(t, 30098)
	w.k.run(t, "create", "configmap", "kept", "--from-literal=key=value")
	w.k.run(t, "create", "secret", "generic", "kept", "--from-literal=key=value")
	dir := t.TempDir()
	copied := filepath.Join(dir, "backup")
	tells(t, "backup", wpctl.run(t, "cluster", "backup", copied), "cluster backup written to "+copied)
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy holds Secrets, and its mode is %v (%v)", info.Mode(), err)
	}
	list := func(k cli) string {
		return k.run(t, "get", "nodes,namespaces,deployments,replicasets,pods,services,configmaps,secrets,serviceaccounts", "-A",
			"-o", "custom-columns=KIND:.kind,NS:.metadata.namespace,NAME:.metadata.name,UID:.metadata.uid", "--sort-by=.metadata.uid")
	}
	want := list(newest)

	t.Run("second master on the same directory", func(t *testing.T) {
		tells(t, "it says", refuses(t, filepath.Dir(cluster.Kubeconfig())), "state.db is in use", "another wp-master", "Stop that one first")
	})
	t.Run("truncated", func(t *testing.T) {
		for _, size := range []int64{0, 3000, 100_000} {
			data := filepath.Join(dir, fmt.Sprint("cut", size))
			must(t, os.Mkdir(data, 0o700))
			file := filepath.Join(data, "state.db")
			whole, err := os.ReadFile(copied)
			if err != nil {
				t.Fatal(err)
			}
			must(t, os.WriteFile(file, whole[:size], 0o600))
			before := checksum(t, file)
			said := refuses(t, data)
			tells(t, fmt.Sprintf("%d bytes", size), said, file+" is damaged", "Nothing was changed", "wp-master --restore FILE")
			if after := checksum(t, file); after != before {
				t.Errorf("the file was changed: %s, before %s", after, before)
			}
			tells(t, "restore over it", refuses(t, data, "--restore", copied), "exists already; move it away")
			if after := checksum(t, file); after != before {
				t.Errorf("the file was changed: %s, before %s", after, before)
			}
		}
	})
	t.Run("damaged copy", func(t *testing.T) {
		data, half := filepath.Join(dir, "empty"), filepath.Join(dir, "half")
		whole, err := os.ReadFile(copied)
		if err != nil {
			t.Fatal(err)
		}
		must(t, os.WriteFile(half, whole[:len(whole)/2], 0o600))
		tells(t, "half a copy", refuses(t, data, "--restore", half), "cannot be used", "Nothing was put in place")
		tells(t, "no copy", refuses(t, data, "--restore", filepath.Join(dir, "none")), "no such file")
		if exists(filepath.Join(data, "state.db")) {
			t.Error("a state was made all the same")
		}
	})
	t.Run("restored", func(t *testing.T) {
		data := filepath.Join(dir, "restored")
		ctx, cancel := context.WithCancel(t.Context())
		var log bytes.Buffer
		cmd := otherMaster(ctx, data, "--restore", copied)
		cmd.Stdout, cmd.Stderr = &log, &log
		must(t, cmd.Start())
		defer func() {
			cancel()
			_ = cmd.Wait()
			if t.Failed() {
				t.Log(log.String())
			}
		}()
		k := newest
		k.kubeconfig = filepath.Join(data, "admin.kubeconfig")
		eventually(t, settle, "the restored master serves", func() error {
			if !exists(k.kubeconfig) {
				return os.ErrNotExist
			}
			return k.try(t, "get", "--raw", "/readyz").err
		})
		for _, file := range []string{"ca.crt", "gossip.key"} {
			if checksum(t, filepath.Join(data, "pki", file)) != checksum(t, filepath.Join(filepath.Dir(cluster.Kubeconfig()), "pki", file)) {
				t.Errorf("%s is not the cluster's: no node would trust this master", file)
			}
		}
		if got := list(k); got != want {
			t.Errorf("restored:\n%s\nwas:\n%s", got, want)
		}
		if v := k.run(t, "get", "secret", "kept", "-n", w.ns, "-o", "jsonpath={.data.key}"); v != "dmFsdWU=" {
			t.Errorf("the Secret's value is %q", v)
		}
		// It goes on from there.
		k.run(t, "create", "configmap", "new", "-n", w.ns)
	})
	if strings.Contains(w.k.run(t, "get", "configmaps"), "new") {
		t.Error("the restored master wrote to the running cluster")
	}
	pageShows(t, beside(), w.url(cluster.Node(1)), "It works!")
}
