package main

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFailures(t *testing.T) {
	const two = `ok  	example.com/a	1.2s
--- FAIL: TestDrain (369.15s)
    --- FAIL: TestDrain/kubectl-1.36 (161.45s)
        drain_test.go:83: at the worst time 1 pods were ready
--- FAIL: TestOther (1.00s)
FAIL
FAIL	example.com/b	12.3s
ok  	example.com/c	1.2s
--- FAIL: TestOther (1.00s)
FAIL
FAIL	example.com/d	0.3s
FAIL
`
	for name, c := range map[string]struct {
		said string
		want []failure
	}{
		"all well":         {"ok  \texample.com/a\t1.2s\n", nil},
		"two packages":     {two, []failure{{"example.com/b", []string{"TestDrain", "TestOther"}}, {"example.com/d", []string{"TestOther"}}}},
		"a panic":          {two + "panic: oh\n", nil},
		"does not compile": {two + "FAIL\texample.com/e [build failed]\n", nil},
		"too long":         {"panic: test timed out after 1s\nFAIL\texample.com/e\t1s\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, step := range []int{1, 7, len(c.said)} { // in whatever parts it comes
				var f failures
				for rest := c.said; rest != ""; rest = rest[min(step, len(rest)):] {
					_, _ = fmt.Fprint(&f, rest[:min(step, len(rest))])
				}
				if d := cmp.Diff(c.want, f.all()); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

func TestParseProcessors(t *testing.T) {
	p, err := parseProcessors("cpu  10 1 2 100 5 0 1 31 4 0\ncpu0 1 2 3 4\n")
	if err != nil || p != (processors{150, 31}) {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := parseProcessors("intr 1"); err == nil {
		t.Error("what is not about processors is read")
	}
}

func TestWorst(t *testing.T) {
	// So many of 100 ticks are stolen between two looks.
	looks := func(stolen ...uint64) (seen []processors) {
		p := processors{1000, 50}
		seen = append(seen, p)
		for _, s := range stolen {
			p.all, p.stolen = p.all+100, p.stolen+s
			seen = append(seen, p)
		}
		return seen
	}
	calm := make([]uint64, 40)
	robbed := make([]uint64, 40)
	for i := 20; i < 32; i++ {
		robbed[i] = 60
	}
	moment := make([]uint64, 40)
	moment[20] = 60
	for name, c := range map[string]struct {
		seen []processors
		want float64
	}{
		"nothing seen": {nil, 0}, "one look": {looks(), 0}, "calm": {looks(calm...), 0}, "a minute": {looks(robbed...), 0.6}, "a moment": {looks(moment...), 0.05}, "a short run": {looks(10, 50), 0.3},
	} {
		if got := worst(c.seen); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
