//go:build e2e

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

const (
	nodes = 3
	// childDir tells the child of TestMain where the lab is.
	childDir = "WP_E2E_CHILD"
	// upLimit is for a lab whose images are still to be built.
	upLimit   = 15 * time.Minute
	downLimit = 2 * time.Minute
	// sideBySide is how many of the tests that say t.Parallel run at a time: they mostly wait, and not for the processor.
	sideBySide = "-test.parallel=8"
)

// cluster is the lab that all tests share.
var cluster *lab.Lab

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if list := flag.Lookup("test.list"); list != nil && list.Value.String() != "" {
		return m.Run()
	}
	if dir := os.Getenv(childDir); dir != "" {
		return runTests(m, dir)
	}
	code, err := ownLab()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return code
}

// runTests is the child: the lab is there.
func runTests(m *testing.M, dir string) int {
	var err error
	if cluster, err = lab.New(labConfig(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if err := findClients(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// ownLab is the parent: it makes the lab, lets a child run the tests, and takes the
// lab down whatever became of the child. A test that panics or outlives -timeout
// ends its process without a chance to clean up.
func ownLab() (code int, err error) {
	start := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	dir, keep := os.Getenv("WP_E2E_LAB"), true
	if dir == "" {
		keep = false
		// Its path must leave room for the sockets below (see lab.Config).
		if dir, err = os.MkdirTemp("", "e2e"); err != nil {
			return 1, err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return 1, err
	}
	if !keep {
		defer func() {
			if downErr := takeDown(dir); downErr != nil {
				code, err = 1, errors.Join(err, downErr)
			}
			if logs := filepath.Join(dir, "log"); (code != 0 || err != nil) && exists(logs) {
				fmt.Fprintln(os.Stderr, "e2e: the logs are in", logs)
				return
			}
			err = errors.Join(err, os.RemoveAll(dir))
		}()
	}
	if err := bringUp(ctx, dir); err != nil {
		return 1, err
	}
	spent := time.Since(start)
	if !keep {
		spent += downLimit
	}
	code, err = runChild(ctx, dir, spent)
	if ctx.Err() != nil {
		return 1, errors.New("interrupted")
	}
	return code, err
}

func labConfig(dir string) lab.Config {
	prefix := os.Getenv("WP_E2E_PREFIX")
	if prefix == "" {
		prefix = "wpe-"
	}
	bin := os.Getenv("WP_BIN")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin")
	}
	return lab.Config{Nodes: nodes, Dir: dir, Bin: bin, Prefix: prefix, Images: "lab", MasterArgs: []string{"--lb-pool", lbPool}, Log: func(s lab.Step) {
		switch {
		case s.Done:
			fmt.Fprintf(os.Stderr, "e2e: %s: %s (%s)\n", s.Name, s.Note, s.Took.Round(100*time.Millisecond))
		case s.Name == "":
			fmt.Fprintf(os.Stderr, "e2e:   %s\n", s.Note)
		}
	}}
}

func bringUp(ctx context.Context, dir string) error {
	l, err := lab.New(labConfig(dir))
	if err != nil {
		return err
	}
	if missing := l.Missing(); len(missing) > 0 {
		return fmt.Errorf("%s: missing in %s (make build makes them)", strings.Join(missing, ", "), l.Config().Bin)
	}
	up, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	if !l.Running() {
		if err := l.Up(up, nodes); err != nil {
			return err
		}
	}
	if err := prepareClients(up, l); err != nil || !willRun("TestHelm") {
		return err
	}
	return buildHelms(ctx, l.Config().Cache)
}

// takeDown reads the lab's state anew: the tests may have started processes since.
func takeDown(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	l, err := lab.New(labConfig(dir))
	if err != nil {
		return err
	}
	return l.Down(ctx)
}

// runChild runs this program once more, for the tests themselves, and returns its
// exit code. spent is the part of -timeout that is not the tests'.
func runChild(ctx context.Context, dir string, spent time.Duration) (int, error) {
	args := append([]string{sideBySide}, os.Args[1:]...)
	if f := flag.Lookup("test.timeout"); f != nil {
		limit, err := time.ParseDuration(f.Value.String())
		if err == nil && limit > 0 {
			left := max(limit-spent, time.Second)
			args = append(args, "-test.timeout="+left.String())
		}
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	// Not even our own violent death leaves it running.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		err = <-ended
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}
