package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "tests.csv")
	if err := os.WriteFile(list, []byte("name,sig,area\n\"a, with comma\",node,pods\nb,node,probes\nc,apps,job\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests, err := readTests(list)
	if err != nil || len(tests) != 3 {
		t.Fatal(tests, err)
	}
	lines := filepath.Join(dir, "results.jsonl")
	if err := os.WriteFile(lines, []byte(`{"name":"a, with comma","sig":"node","area":"pods","status":"passed"}
{"name":"b","sig":"node","area":"probes","status":"failed","message":"1 | 2"}
{"name":"b","sig":"node","area":"probes","status":"passed"}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	results, err := readResults(lines)
	if err != nil {
		t.Fatal(err)
	}
	r := record{}
	worst := r.add(results, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))
	if worst["b"].Status != "failed" || r["b"].Runs != 2 {
		t.Errorf("one failure of two runs counts: %+v, %+v", worst["b"], r["b"])
	}
	if s := summary(worst); !strings.Contains(s, "node: pods                                    1      0") || !strings.Contains(s, "total                                         1      1") {
		t.Error(s)
	}
	file := filepath.Join(dir, "record.json")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	again, err := readRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	page := string(again.page(tests))
	for _, want := range []string{"1 of 3 pass", "| a, with comma | passed | 1 | 2026-01-02 |  |", `| b | failed | 2 | 2026-01-02 | 1 \| 2 |`, "| c | not run | 0 |  |  |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}

func TestNoRecordYet(t *testing.T) {
	r, err := readRecord(filepath.Join(t.TempDir(), "none"))
	if err != nil || len(r) != 0 {
		t.Error(r, err)
	}
}
