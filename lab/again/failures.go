package main

import (
	"bytes"
	"regexp"
	"slices"
)

// failure is what failed in one package.
type failure struct {
	Package string
	Tests   []string
}

// failures reads what go test prints: the tests of a package that failed, and then the package. What failed without a test
// (it does not compile, it panics, it takes too long) makes the whole unfit to be run again in parts.
type failures struct {
	line  []byte // begun
	tests []string
	found []failure
	unfit bool
}

var (
	testFailed    = regexp.MustCompile(`^--- FAIL: (\w+) \(`)
	packageFailed = regexp.MustCompile(`^FAIL\t(\S+)( \[|\t|$)`)
)

// Write takes a part of the output.
func (f *failures) Write(p []byte) (int, error) {
	f.line = append(f.line, p...)
	for {
		line, rest, whole := bytes.Cut(f.line, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		f.read(line)
		f.line = slices.Clone(rest)
	}
}

func (f *failures) read(line []byte) {
	if m := testFailed.FindSubmatch(line); m != nil {
		if name := string(m[1]); !slices.Contains(f.tests, name) {
			f.tests = append(f.tests, name)
		}
		return
	}
	if bytes.HasPrefix(line, []byte("panic: ")) {
		f.unfit = true
	}
	if m := packageFailed.FindSubmatch(line); m != nil {
		if len(f.tests) == 0 {
			f.unfit = true
		}
		f.found = append(f.found, failure{string(m[1]), f.tests})
		f.tests = nil
	}
}

// all that failed; nothing if that is not to be run again in parts.
func (f *failures) all() []failure {
	if f.unfit {
		return nil
	}
	return f.found
}
