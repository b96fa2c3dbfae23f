package main

import (
	"strings"
	"testing"
)

func TestReadBench(t *testing.T) {
	const out = `goos: linux
BenchmarkUpdate/writes=1-2         	     500	   2124 ns/op	      1130 disk-syncs/s	         3.5 p99-ms
BenchmarkBinding 	10000	 61 ns/op	3655 pods/s
--- BENCH: BenchmarkX
PASS
`
	found, err := readBench(strings.NewReader(out))
	if err != nil || len(found) != 2 {
		t.Fatalf("%v, %v", found, err)
	}
	if f := found["Update/writes=1"]; f["ns/op"] != 2124 || f["disk-syncs/s"] != 1130 || f["p99-ms"] != 3.5 {
		t.Errorf("Update: %v", f)
	}
	if f := found["Binding"]; f["pods/s"] != 3655 {
		t.Errorf("Binding: %v", f)
	}
}

func TestTable(t *testing.T) {
	b := &bench{}
	b.hold("memory", 12.34, "MB", atMost(12, "MB"), "and more")
	b.hold("rate", 12345, "pods/s", atLeast(3600, "pods/s"))
	b.hold("small", 0.1234, "s", bound{})
	b.add("other", "%d ms", 5)
	var out strings.Builder
	printTable(&out, b.rows)
	const want = `| what   | ours              | budget                | verdict | others |
|--------|-------------------|-----------------------|---------|--------|
| memory | 12.3 MB, and more | at most 12 MB         | missed  |        |
| rate   | 12,345 pods/s     | at least 3,600 pods/s | met     |        |
| small  | 0.123 s           |                       |         |        |
| other  | 5 ms              |                       |         |        |
`
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}
