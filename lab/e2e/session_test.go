//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The oldest kubectl that the tests have.
const oldKubectl = "kubectl-1.20"

// atOnce runs a test with several programs at the same time, each in a namespace of its own.
func atOnce(t *testing.T, programs []cli, test func(t *testing.T, k cli)) {
	t.Parallel()
	for _, k := range programs {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			test(t, k.in(t, namespace(t)))
		})
	}
}

// session types commands and compares what is printed, on either output. A transcript has these lines:
//
//	$ get pods          must succeed
//	$! get whales       must fail
//	$new events         not with the old kubectl, which does not know it
//	$new! label ...     must fail, and not with the old kubectl
//	$~ get rs           is typed again until all its lines are as they should be: for what a controller does a moment later;
//	                    $~! and $new~ are of the same kind
//	NAME   READY        a line that is printed, but for blanks at its end
//	~ ^web +1/1         a pattern of what is printed
//	(nothing)           nothing is printed
//
// An argument can be put into single quotes; @NAME is the path of a file of the map.
func session(t *testing.T, k cli, files map[string]string, transcript string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	for _, s := range steps(transcript) {
		if k.name == oldKubectl && strings.HasPrefix(s.prompt, "$new") {
			continue
		}
		args := arguments(s.command, dir)
		if strings.Contains(s.prompt, "~") {
			eventually(t, settle, k.name+" "+s.command, func() error { return errors.Join(s.complaints(k, k.try(t, args...))...) })
			continue
		}
		r := k.try(t, args...)
		if s.ended(r) != nil {
			t.Fatal(s.complaints(k, r))
		}
		for _, err := range s.complaints(k, r) {
			t.Error(err)
		}
	}
}

// step is a command of a transcript, and the lines about what it prints.
type step struct {
	prompt, command string
	lines           []string
}

func steps(transcript string) (all []step) {
	for line := range strings.Lines(strings.TrimSpace(transcript)) {
		line = strings.TrimRight(line, " \n")
		if prompt, command, ok := strings.Cut(line, " "); ok && strings.HasPrefix(prompt, "$") {
			all = append(all, step{prompt: prompt, command: command})
		} else if line != "" {
			all[len(all)-1].lines = append(all[len(all)-1].lines, line)
		}
	}
	return all
}

// ended complains if the command succeeded and should not have, or the other way round.
func (s step) ended(r result) error {
	if (r.err != nil) == strings.HasSuffix(s.prompt, "!") {
		return nil
	}
	return fmt.Errorf("it ended with %v", r.err)
}

// complaints are about how the command ended and what it printed.
func (s step) complaints(k cli, r result) (all []error) {
	typed, out := k.name+" "+s.command, plain(r.stdout+r.stderr)
	if err := s.ended(r); err != nil {
		return []error{fmt.Errorf("%s: %w\n%s", typed, err, out)}
	}
	for _, line := range s.lines {
		pattern, isPattern := strings.CutPrefix(line, "~ ")
		switch {
		case line == "(nothing)":
			if out != "" {
				all = append(all, fmt.Errorf("%s prints:\n%s", typed, out))
			}
		case isPattern && !regexp.MustCompile(`(?m)`+pattern).MatchString(out),
			!isPattern && !slices.ContainsFunc(strings.Split(out, "\n"), func(s string) bool { return strings.TrimRight(s, " ") == line }):
			all = append(all, fmt.Errorf("%s prints nothing like %q:\n%s", typed, line, out))
		}
	}
	return all
}

// arguments splits a command at the blanks that are not between single quotes.
func arguments(command, dir string) (all []string) {
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range command + " " {
		switch {
		case r == '\'':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				all = append(all, strings.ReplaceAll(word.String(), "@", dir+"/"))
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	return all
}
