//go:build e2e

package e2e

import (
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
	var typed, out string
	skip := false
	for line := range strings.Lines(strings.TrimSpace(transcript)) {
		line = strings.TrimRight(line, " \n")
		prompt, command, isCommand := strings.Cut(line, " ")
		if isCommand = isCommand && strings.HasPrefix(prompt, "$"); isCommand {
			typed = k.name + " " + command
			if skip = k.name == oldKubectl && strings.HasPrefix(prompt, "$new"); skip {
				continue
			}
			r := k.try(t, arguments(command, dir)...)
			if out = plain(r.stdout + r.stderr); (r.err != nil) != strings.HasSuffix(prompt, "!") {
				t.Fatalf("%s: %v\n%s", typed, r.err, out)
			}
			continue
		}
		pattern, isPattern := strings.CutPrefix(line, "~ ")
		switch {
		case skip || line == "":
		case line == "(nothing)":
			if out != "" {
				t.Errorf("%s prints:\n%s", typed, out)
			}
		case isPattern && !regexp.MustCompile(`(?m)`+pattern).MatchString(out),
			!isPattern && !slices.ContainsFunc(strings.Split(out, "\n"), func(s string) bool { return strings.TrimRight(s, " ") == line }):
			t.Errorf("%s prints nothing like %q:\n%s", typed, line, out)
		}
	}
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
