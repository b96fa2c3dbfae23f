//go:build e2e

package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// testImage is what the daemons under test have: a static busybox and nothing else.
const testImage = "wpr/busybox:1"

// dockerd is a Docker Engine of its own in a network namespace of its own, without uplink.
type dockerd struct {
	dir, ns string
	flags   []string
	cmd     *exec.Cmd
}

// startDockerd needs root, dockerd, containerd, ip, nsenter and a static busybox.
func startDockerd(t testing.TB, flags ...string) *dockerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "wpr-")
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerd{dir: dir, ns: filepath.Base(dir), flags: flags}
	t.Cleanup(func() { d.remove(t) })
	command(t, "ip", "netns", "add", d.ns)
	d.inside(t, "ip", "link", "set", "lo", "up")
	d.start(t)
	d.importBusybox(t)
	return d
}

func (d *dockerd) host() string { return "unix://" + filepath.Join(d.dir, "docker.sock") }

func (d *dockerd) nsenter(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + d.ns}, args...)...)
}

func (d *dockerd) inside(t testing.TB, args ...string) {
	t.Helper()
	if out, err := d.nsenter(args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func (d *dockerd) start(t testing.TB) {
	t.Helper()
	logs, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	d.cmd = d.nsenter(append([]string{"dockerd", "--data-root", filepath.Join(d.dir, "data"),
		"--exec-root", filepath.Join(d.dir, "exec"), "-H", d.host(), "--pidfile", filepath.Join(d.dir, "pid"),
		"--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"}, d.flags...)...)
	d.cmd.Stdout, d.cmd.Stderr = logs, logs
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cli := d.client(t)
	defer cli.Close()
	for end := time.Now().Add(3 * time.Minute); ; {
		if _, err := cli.Ping(context.Background()); err == nil {
			return
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(logs.Name())
			t.Fatalf("dockerd does not answer:\n%s", log[max(0, len(log)-2000):])
		}
		d.waitSocket()
	}
}

// waitSocket gives the daemon a moment: a connection that fails at once or one that is answered.
func (d *dockerd) waitSocket() {
	<-time.After(50 * time.Millisecond)
	if conn, err := net.Dial("unix", filepath.Join(d.dir, "docker.sock")); err == nil {
		conn.Close()
	}
}

func (d *dockerd) stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	d.cmd.Wait()
	if sig == syscall.SIGKILL {
		// The daemon's containerd dies with it. Where process 1 reaps nothing it stays as a zombie, and the next
		// daemon would take its PID for one that lives.
		os.Remove(filepath.Join(d.dir, "exec/containerd/containerd.pid"))
		os.Remove(filepath.Join(d.dir, "pid"))
	}
}

func (d *dockerd) restart(t testing.TB, sig syscall.Signal) {
	t.Helper()
	d.stop(t, sig)
	d.start(t)
}

// remove leaves nothing behind: containers, mounts, namespace, files.
func (d *dockerd) remove(t testing.TB) {
	if d.cmd != nil && d.cmd.ProcessState == nil {
		d.removeContainers(t) // else the daemon gives each its ten seconds
		d.stop(t, syscall.SIGTERM)
	}
	d.killShims()
	mounts, _ := os.ReadFile("/proc/self/mounts")
	var points []string
	for line := range bytes.Lines(mounts) {
		if f := bytes.Fields(line); len(f) > 1 && bytes.HasPrefix(f[1], []byte(d.dir+"/")) {
			points = append([]string{string(f[1])}, points...)
		}
	}
	for _, p := range points {
		syscall.Unmount(p, syscall.MNT_DETACH)
	}
	exec.Command("ip", "netns", "del", d.ns).Run()
	if err := os.RemoveAll(d.dir); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// killShims ends what a daemon that could not start again left: shims that name its directory, and their containers.
func (d *dockerd) killShims() {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, []byte("containerd-shim")) || !bytes.Contains(line, []byte(d.dir+"/")) {
			continue
		}
		dir := filepath.Dir(path)
		children, _ := os.ReadFile(filepath.Join(dir, "task", filepath.Base(dir), "children"))
		for pid := range strings.FieldsSeq(string(children) + " " + filepath.Base(dir)) {
			if n, err := strconv.Atoi(pid); err == nil && n > 1 {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}

func (d *dockerd) removeContainers(t testing.TB) {
	cli := d.client(t)
	defer cli.Close()
	ctx := context.Background()
	list, err := cli.ContainerList(ctx, container.ListOptions{All: true})
	for _, c := range list {
		err = errors.Join(err, cli.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}))
	}
	if err != nil {
		t.Log("cleaning up: ", err)
	}
}

func (d *dockerd) client(t testing.TB) *client.Client {
	t.Helper()
	cli, err := client.NewClientWithOpts(client.WithHost(d.host()), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	return cli
}

func (d *dockerd) engine(t testing.TB, node string) *Engine {
	t.Helper()
	e, err := New(Config{Host: d.host(), Node: node})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func command(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func (d *dockerd) importBusybox(t testing.TB) {
	t.Helper()
	cli := d.client(t)
	defer cli.Close()
	body, err := cli.ImageImport(context.Background(), image.ImportSource{Source: busyboxTar(t), SourceName: "-"}, testImage,
		image.ImportOptions{Changes: []string{"ENV PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if out, err := io.ReadAll(body); err != nil || bytes.Contains(out, []byte("error")) {
		t.Fatalf("import: %v %s", err, out)
	}
}

// busyboxTar is a root file system of one binary and links to it.
func busyboxTar(t testing.TB) io.Reader {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox-static is needed: ", err)
	}
	bin, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h *tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "tmp/"} {
		add(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(&tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, bin)
	add(&tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/:/bin/sh\n"))
	for applet := range bytes.FieldsSeq(applets) {
		if name := string(applet); name != "busybox" {
			add(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func (d *dockerd) String() string { return fmt.Sprintf("dockerd in %s", d.ns) }
