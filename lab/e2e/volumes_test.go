//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

// hostPathTypes are all that the API knows; has is what is at the path before, want the kubelet's complaint.
var hostPathTypes = []struct{ kind, has, want string }{
	{"", "directory", ""}, {"Directory", "directory", ""}, {"DirectoryOrCreate", "", ""}, {"File", "file", ""}, {"FileOrCreate", "", ""},
	{"Socket", "socket", ""}, {"CharDevice", "char", ""},
	{"Directory", "", "is not a directory"}, {"Directory", "file", "is not a directory"}, {"DirectoryOrCreate", "file", "is not a directory"},
	{"File", "", "is not a file"}, {"File", "directory", "is not a file"}, {"FileOrCreate", "directory", "is not a file"},
	{"Socket", "file", "is not a socket file"}, {"CharDevice", "file", "is not a character device"}, {"BlockDevice", "char", "is not a block device"},
}

// TestHostPathOfEachType: what is there is mounted, what may be made is made, and what is something else is refused in
// the kubelet's words.
func TestHostPathOfEachType(t *testing.T) {
	t.Parallel()
	k, n := newest.in(t, namespace(t)), cluster.Node(2)
	dir := filepath.Join(n.Dir(), "paths")
	must(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // it goes with the lab
	var pods, good, mounts strings.Builder
	bad := map[string]string{}
	for i, c := range hostPathTypes {
		at := filepath.Join(dir, fmt.Sprintf("%d", i))
		switch c.has {
		case "directory":
			must(t, os.Mkdir(at, 0o755))
		case "file":
			must(t, os.WriteFile(at, []byte("whale"), 0o644))
		case "socket":
			at = n.Socket()
		case "char":
			at = "/dev/null"
		}
		volume := fmt.Sprintf("  - {name: v%d, hostPath: {path: %s, type: %q}}\n", i, at, c.kind)
		if c.want == "" {
			good.WriteString(volume)
			fmt.Fprintf(&mounts, "    - {name: v%d, mountPath: /v%d}\n", i, i)
			continue
		}
		name := fmt.Sprintf("bad-%d", i)
		bad[name] = fmt.Sprintf(`MountVolume.SetUp failed for volume "v%d" : hostPath type check failed: %s %s`, i, at, c.want)
		fmt.Fprintf(&pods, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  nodeName: %s\n  containers:\n"+
			"  - {name: c, image: busybox, volumeMounts: [{name: v%d, mountPath: /v}]}\n  volumes:\n%s---\n", name, n.Name, i, volume)
	}
	fmt.Fprintf(&pods, "apiVersion: v1\nkind: Pod\nmetadata: {name: good}\nspec:\n  nodeName: %s\n  terminationGracePeriodSeconds: 1\n  containers:\n"+
		"  - name: c\n    image: busybox\n    command: [sleep, '4001']\n    volumeMounts:\n%s  volumes:\n%s", n.Name, &mounts, &good)
	k.feed(t, pods.String(), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/good", "--timeout", settle.String())
	prints(t, "what is mounted", k.run(t, "exec", "good", "--", "stat", "-c", "%n %F", "/v0", "/v1", "/v2", "/v3", "/v4", "/v5", "/v6"),
		`^/v0 directory$`, `^/v1 directory$`, `^/v2 directory$`, `^/v3 regular file$`, `^/v4 regular empty file$`, `^/v5 socket$`, `^/v6 character special file$`)
	for i, mode := range map[int]os.FileMode{2: 0o755, 4: 0o644} {
		if st, err := os.Stat(filepath.Join(dir, fmt.Sprint(i))); err != nil || st.Mode().Perm() != mode {
			t.Errorf("type %s made %v, %v", hostPathTypes[i].kind, st, err)
		}
	}
	eventually(t, settle, "the others are refused", func() error {
		text := k.run(t, "get", "events", "--field-selector", "reason=FailedMount", "-o", `jsonpath={range .items[*]}{.involvedObject.name}: {.message}{"\n"}{end}`)
		for name, want := range bad {
			if !strings.Contains(text, name+": "+want+"\n") {
				return fmt.Errorf("no %q for %s in:\n%s", want, name, text)
			}
		}
		return nil
	})
	for name := range bad {
		if row := table(t, k.run(t, "get", "pod", name)).row(name); row["STATUS"] != "ContainerCreating" || row["READY"] != "0/1" {
			t.Errorf("get pod shows %v", row)
		}
	}
}

const propagationManifest = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: slave
    image: busybox
    command: [sleep, "4002"]
    volumeMounts: [{name: tree, mountPath: /tree, mountPropagation: HostToContainer}]
  - name: private
    image: busybox
    command: [sleep, "4003"]
    volumeMounts: [{name: tree, mountPath: /tree}]
%[4]s
  volumes: [{name: tree, hostPath: {path: %[3]s, type: Directory}}]
`

const sharedContainer = `  - name: shared
    image: busybox
    command: [sleep, "4004"]
    securityContext: {privileged: %t}
    volumeMounts: [{name: tree, mountPath: /tree, mountPropagation: Bidirectional}]
`

// TestMountPropagation: what the node mounts later is seen by who asked for that, and what a privileged container mounts
// is seen by the node.
func TestMountPropagation(t *testing.T) {
	t.Parallel()
	k, n := newest.in(t, namespace(t)), cluster.Node(2)
	tree := filepath.Join(n.Dir(), "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "late"), 0o755))
	must(t, os.MkdirAll(filepath.Join(tree, "back"), 0o755))
	onNode(t, n, "mount", "--bind", tree, tree)
	onNode(t, n, "mount", "--make-shared", tree)
	t.Cleanup(func() { onNode(t, n, "umount", "-R", tree) })
	k.feed(t, fmt.Sprintf(propagationManifest, "mounts", n.Name, tree, fmt.Sprintf(sharedContainer, true)), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/mounts", "--timeout", settle.String())
	onNode(t, n, "mount", "-t", "tmpfs", "late", filepath.Join(tree, "late"))
	sees := func(container, what string) bool {
		return regexp.MustCompile(`(?m)^` + what + ` /tree/`).MatchString(k.run(t, "exec", "mounts", "-c", container, "--", "cat", "/proc/mounts"))
	}
	if !sees("slave", "late") || sees("private", "late") {
		t.Error("HostToContainer and None see the wrong mounts")
	}
	k.run(t, "exec", "mounts", "-c", "shared", "--", "mount", "-t", "tmpfs", "back", "/tree/back")
	if !sees("slave", "back") || sees("private", "back") {
		t.Error("what a container mounts is not where it should be")
	}
	if mounts, err := output(n.Command(t.Context(), "cat", "/proc/mounts")); err != nil || !strings.Contains(mounts, "back "+tree) {
		t.Errorf("the node does not see what the container mounted: %v\n%s", err, mounts)
	}
	// Without the rights of the node nobody mounts anything on it.
	r := k.input(t, fmt.Sprintf(propagationManifest, "refused", n.Name, tree, fmt.Sprintf(sharedContainer, false)), "create", "-f", "-")
	tells(t, "Bidirectional without privileges", r.stderr, "Bidirectional mount propagation is available only to privileged containers")
}

// TestPrivileged: such a container has all rights that the machine has to give, its devices, and no filters.
func TestPrivileged(t *testing.T) {
	t.Parallel()
	k, n := newest.in(t, namespace(t)), cluster.Node(2)
	k.feed(t, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: nfs}\nspec:\n  nodeName: %s\n  terminationGracePeriodSeconds: 1\n"+
		"  containers: [{name: nfs, image: busybox, command: [sleep, '4005'], securityContext: {privileged: true}}]\n", n.Name), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/nfs", "--timeout", settle.String())
	var name string
	var have, got uint64
	bounding, err := output(n.Command(t.Context(), "grep", "CapBnd", "/proc/self/status"))
	must(t, err)
	effective := k.run(t, "exec", "nfs", "--", "grep", "CapEff", "/proc/self/status")
	if _, err := fmt.Sscanf(bounding+effective, "%s %x\n%s %x", &name, &have, &name, &got); err != nil {
		t.Fatalf("%q %q: %v", bounding, effective, err)
	}
	// Where some are missing, only those are asked for whose names old engines know.
	if known := uint64(1)<<38 - 1; got&known != have&known || got&^have != 0 {
		t.Errorf("the machine has %x to give, the container has %x", have, got)
	}
	prints(t, "filters", k.run(t, "exec", "nfs", "--", "cat", "/proc/self/status"), `^Seccomp:\s+0$`)
	k.run(t, "exec", "nfs", "--", "test", "-c", "/dev/kmsg")
	k.run(t, "exec", "nfs", "--", "mount", "-t", "tmpfs", "own", "/tmp")
}

func onNode(t testing.TB, n *lab.Node, args ...string) {
	t.Helper()
	// A clean-up runs after the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	if out, err := n.Command(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

const updatesManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: pair}
data: {a: "0", b: "0", fixed: "0"}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: reader
    image: busybox
    command:
    - sh
    - -c
    - |
      cd /pair
      while :; do
        d=$(readlink -f ..data)
        if a=$(cat $d/a 2>/dev/null) && b=$(cat $d/b 2>/dev/null) && [ "$a" != "$b" ]; then echo "torn $a $b"; fi
        if [ "$a" != "$was" ]; then echo "is $a"; was=$a; fi
      done
    env: [{name: A, valueFrom: {configMapKeyRef: {name: pair, key: a}}}]
    volumeMounts: [{name: pair, mountPath: /pair}, {name: pair, mountPath: /fixed, subPath: fixed}]
    resources: {limits: {cpu: 200m}}
  volumes: [{name: pair, configMap: {name: pair}}]
`

// TestConfigMapReachesRunningPods: soon, all keys at once, and only where Kubernetes lets it.
func TestConfigMapReachesRunningPods(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.feed(t, fmt.Sprintf(updatesManifest, cluster.Node(2).Name), "create", "-f", "-")
	reader := start(t, k, "logs", "-f", "reader", "--pod-running-timeout", settle.String())
	reader.waitFor(t, `^is 0$`)
	for i := 1; i <= 5; i++ {
		begin := time.Now()
		k.run(t, "patch", "configmap", "pair", "-p", fmt.Sprintf(`{"data":{"a":"%[1]d","b":"%[1]d","fixed":"%[1]d","new%[1]d":"x"}}`, i))
		reader.waitFor(t, fmt.Sprintf(`^is %d$`, i))
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("it took %s", took)
		}
	}
	if text := reader.text(); strings.Contains(text, "torn") {
		t.Errorf("half of a change was seen: %s", text)
	}
	prints(t, "what is there now", k.run(t, "exec", "reader", "--", "sh", "-c", "ls /pair; cat /fixed; echo; echo env $A"), `^new5$`, `^0$`, `^env 0$`)
}
