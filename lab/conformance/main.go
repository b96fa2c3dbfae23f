// Command conformance runs Kubernetes' official conformance tests (e2e.test, unmodified) on the demo cluster, prints what
// passed and failed by area, and keeps the record from which docs/CONFORMANCE.md is written.
//
// The tests, their images and the program that runs them one by one are a kit that stands beside this repository, because
// they are Kubernetes' and large: see -kit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Where the kit's scripts put what they build.
const (
	built  = "/var/tmp/conformance"
	images = built + "/e2e-images.tar"
)

// Of the demo, as seen from the repository's root.
const (
	demoDir    = ".demo"
	demoConfig = demoDir + "/node1/master/admin.kubeconfig"
	demoNetNS  = "wp-lab"
	wpctl      = "bin/wpctl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := runner{}
	flag.StringVar(&r.kit, "kit", "../shared/conformance", "directory of the kit: build-e2e.sh, build-images.sh, run.sh, tests.csv")
	flag.IntVar(&r.runs, "runs", 1, "how many times each test is run; one failure counts")
	flag.IntVar(&r.jobs, "jobs", 1, "tests at a time")
	flag.StringVar(&r.record, "record", "lab/conformance/record.json", "the last result of every test")
	flag.StringVar(&r.page, "page", "docs/CONFORMANCE.md", "the page that is written from the record")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: conformance [flags] [selection]   (open, sig=sig-node, area=probes, re=REGEX, a file of names; see the kit's README)")
		flag.PrintDefaults()
	}
	flag.Parse()
	r.selection = "open"
	if flag.NArg() > 0 {
		r.selection = flag.Arg(0)
	}
	ok, err := r.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

type runner struct {
	kit, selection, record, page string
	runs, jobs                   int
}

// run says whether all that was selected passed in every run.
func (r runner) run(ctx context.Context) (ok bool, err error) {
	tests, err := readTests(filepath.Join(r.kit, "tests.csv"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("there is no conformance kit in %s: give its directory with -kit (make conformance KIT=DIR)", r.kit)
	}
	if err != nil {
		return false, err
	}
	record, err := readRecord(r.record)
	if err != nil {
		return false, err
	}
	if err := r.prepare(ctx); err != nil {
		return false, err
	}
	var all []result
	for i := range r.runs {
		results, err := r.once(ctx, fmt.Sprintf("%s, run %d of %d", r.selection, i+1, r.runs))
		all = append(all, results...)
		if err != nil {
			return false, err
		}
	}
	worst := record.add(all, time.Now().UTC())
	if err := record.write(r.record); err != nil {
		return false, err
	}
	if err := os.WriteFile(r.page, record.page(tests), 0o644); err != nil {
		return false, err
	}
	fmt.Print(summary(worst))
	for _, w := range worst {
		if w.Status != passed {
			return false, nil
		}
	}
	return true, nil
}

// prepare builds what is not built yet, brings the demo up if it is down, and puts the tests' images on its nodes.
func (r runner) prepare(ctx context.Context) error {
	if err := r.build(ctx, "build-e2e.sh", built+"/bin/e2e.test"); err != nil {
		return err
	}
	// The images' script builds in a module like the tests', and looks for it here.
	for _, file := range []string{"go.mod", "go.sum", "tools.go"} {
		if err := copyNew(filepath.Join(built, "mod", file), filepath.Join(built, "work", "gomod", file)); err != nil {
			return err
		}
	}
	if err := r.build(ctx, "build-images.sh", images); err != nil {
		return err
	}
	if _, err := os.Stat(demoConfig); errors.Is(err, fs.ErrNotExist) {
		if err := command(ctx, nil, wpctl, "demo", "up"); err != nil {
			return err
		}
	}
	return loadImages(ctx)
}

// build runs a script of the kit unless what it makes is there.
func (r runner) build(ctx context.Context, script, makes string) error {
	if _, err := os.Stat(makes); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Println("building", makes, "(once, some minutes)")
	return command(ctx, nil, filepath.Join(r.kit, script))
}

// copyNew copies a file unless there is one already.
func copyNew(from, to string) error {
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// loadImages onto the nodes, unless they are the ones loaded last.
func loadImages(ctx context.Context) error {
	info, err := os.Stat(images)
	if err != nil {
		return err
	}
	mark, now := filepath.Join(demoDir, "conformance-images"), info.ModTime().String()
	if have, err := os.ReadFile(mark); err == nil && string(have) == now {
		return nil
	}
	if err := command(ctx, []string{"KUBECONFIG=" + demoDir + "/kubeconfig"}, wpctl, "image", "load", images); err != nil {
		return err
	}
	return os.WriteFile(mark, []byte(now), 0o644)
}

// once runs the selection. That tests failed is in the results, not an error.
func (r runner) once(ctx context.Context, what string) ([]result, error) {
	out, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return nil, err
	}
	fmt.Printf("== %s (output in %s)\n", what, out)
	failed := command(ctx, []string{"NETNS=" + demoNetNS, "JOBS=" + strconv.Itoa(r.jobs)}, filepath.Join(r.kit, "run.sh"), demoConfig, r.selection, out)
	results, err := readResults(filepath.Join(out, "results.jsonl"))
	if errors.Is(err, fs.ErrNotExist) && failed != nil {
		return nil, failed // not even begun
	}
	return results, errors.Join(err, ctx.Err())
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
