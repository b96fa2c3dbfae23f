package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// figures of one benchmark by their units, as in "writes/s".
type figures map[string]float64

// goBench runs Go benchmarks of a package in this repository and returns their
// figures by name (without "Benchmark" and the number of processors).
func goBench(ctx context.Context, pkg, pattern string, flags ...string) (map[string]figures, error) {
	return goBenchWith(ctx, nil, pkg, pattern, flags...)
}

// goBenchWith gives them environment variables too.
func goBenchWith(ctx context.Context, env []string, pkg, pattern string, flags ...string) (map[string]figures, error) {
	args := append([]string{"test", "-run", "^$", "-bench", pattern, "-timeout", "10m"}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second // for what the test has to clear away
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	found, readErr := readBench(io.TeeReader(out, os.Stdout))
	if err := cmd.Wait(); err != nil {
		return found, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	if readErr == nil && len(found) == 0 {
		readErr = fmt.Errorf("%s: no benchmark %s", pkg, pattern)
	}
	return found, readErr
}

var benchLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// readBench reads the lines of "go test -bench".
func readBench(r io.Reader) (map[string]figures, error) {
	found := map[string]figures{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m := benchLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		f := figures{}
		words := strings.Fields(m[2])
		for i := 0; i+1 < len(words); i += 2 {
			v, err := strconv.ParseFloat(words[i], 64)
			if err != nil {
				break
			}
			f[words[i+1]] = v
		}
		found[m[1]] = f
	}
	return found, lines.Err()
}
