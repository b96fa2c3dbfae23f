package pause

import (
	"bytes"
	delf "debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/whalepod/whalepod/node/runtime/docker/pause/elf"
)

// The committed bytes are what the source makes.
func TestBinaryIsGenerated(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		want, err := elf.Program(arch)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Binary(arch)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("pause-%s differs from its source: run go generate", arch)
		}
		f, err := delf.NewFile(bytes.NewReader(got))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if len(f.Progs) != 2 || f.Progs[1].Flags&delf.PF_X != 0 || f.Progs[0].Flags&delf.PF_W != 0 {
			t.Errorf("%s: unexpected segments %+v", arch, f.Progs)
		}
	}
	if _, err := Binary("riscv64"); err == nil {
		t.Error("an unknown architecture got a program")
	}
}

// An image's ID is the digest of its configuration; a change of the program without a change of Version would leave
// the old image in use.
func TestArchiveIsStable(t *testing.T) {
	for arch, want := range map[string]string{
		"amd64": "42c81e2f5436836593468b5a3e662d560bc6b89745aa49dfce81052885d7e952",
		"arm64": "ddb4d889695964e41ceb5aa4e9f5487ad214736883ed5fe5bb263f93c80e9851",
	} {
		a, err := Archive(arch)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(a); got != want {
			t.Errorf("%s: archive has digest %s, version %s had %s: raise Version", arch, got, Version, want)
		}
	}
}

func TestEndsAtSignal(t *testing.T) {
	bin, err := Binary(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := exec.Command(path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitAsleep(t, cmd.Process.Pid)
		if err := cmd.Process.Signal(syscall.SIGCHLD); err != nil { // reaps nothing and goes on
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
}

// waitAsleep returns when the process sleeps in its wait for a signal, its mask set.
func waitAsleep(t *testing.T, pid int) {
	t.Helper()
	status := filepath.Join("/proc", strconv.Itoa(pid), "status")
	for range 1_000_000 {
		b, err := os.ReadFile(status)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("State:\tS")) {
			return
		}
		runtime.Gosched()
	}
	t.Fatal("the program never came to wait")
}
