// Again runs go test, and runs those tests once more that failed while the machine was not its own: a virtual machine whose host
// takes its processors away for seconds keeps no promise about seconds, and tests on a real cluster check many. On a machine that
// had its processors all the time a failure is a failure.
//
//	go run ./lab/again -flags "-tags e2e -count=1" ./lab/e2e
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	flags := flag.String("flags", "", "the flags of go test, separated by spaces")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, strings.Fields(*flags), flag.Args())
	stop()
	os.Exit(code)
}

// run returns the exit code.
func run(ctx context.Context, flags, packages []string) int {
	robbed := watchTheft(ctx, readProcessors)
	failed, err := goTest(ctx, append(flags, packages...))
	share := robbed()
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil || share < robbery:
	case len(failed) == 0 || len(failed) > atMost:
		fmt.Printf("the host took up to %.0f %% of the processors' time for a minute; not run again, since it is not a few tests that failed\n", 100*share)
	default:
		fmt.Printf("the host took up to %.0f %% of the processors' time for a minute; run again:\n", 100*share)
		if err = again(ctx, flags, failed); err == nil {
			return 0
		}
	}
	fmt.Println(err)
	return 1
}

// atMost so many tests are run again: more have another reason.
const atMost = 5

// again runs the tests that failed, package by package.
func again(ctx context.Context, flags []string, failed []failure) error {
	var all error
	for _, f := range failed {
		fmt.Printf("%s: %s\n", f.Package, strings.Join(f.Tests, ", "))
		_, err := goTest(ctx, append(append([]string{}, flags...), "-run", "^("+strings.Join(f.Tests, "|")+")$", f.Package))
		all = errors.Join(all, err)
	}
	return all
}

// goTest runs it, shows what it says, and returns what failed.
func goTest(ctx context.Context, args []string) ([]failure, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test"}, args...)...)
	// The tests take down what they set up when they are interrupted.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Minute
	var seen failures
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &seen), os.Stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("go test: %w", err)
	}
	return seen.all(), err
}
