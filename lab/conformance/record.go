package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// passed is the status that everybody wants.
const passed = "passed"

// test is one of the kit's list.
type test struct{ Name, Sig, Area string }

// result of one test in one run, as the kit's runner writes it.
type result struct {
	Name    string  `json:"name"`
	Sig     string  `json:"sig"`
	Area    string  `json:"area"`
	Status  string  `json:"status"`
	Seconds float64 `json:"seconds"`
	Message string  `json:"message"`
}

// entry of the record: how a test ended when it was run last.
type entry struct {
	Status  string `json:"status"`
	Runs    int    `json:"runs"`
	Message string `json:"message,omitempty"`
	Date    string `json:"date"`
}

// record by test name.
type record map[string]entry

func readTests(file string) ([]test, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, errors.Join(fmt.Errorf("%s is no list of tests", file), err)
	}
	var tests []test
	for _, row := range rows[1:] {
		tests = append(tests, test{Name: row[0], Sig: row[1], Area: row[2]})
	}
	return tests, nil
}

func readRecord(file string) (record, error) {
	r := record{}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

func (r record) write(file string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func readResults(file string) ([]result, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var results []result
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		results = append(results, one)
	}
	return results, lines.Err()
}

// maxMessage is what the record keeps of why a test failed.
const maxMessage = 300

// add takes the results of one or more runs into the record and returns the worst result of each test.
func (r record) add(results []result, now time.Time) map[string]result {
	worst, runs := map[string]result{}, map[string]int{}
	for _, one := range results {
		runs[one.Name]++
		if have, ok := worst[one.Name]; !ok || have.Status == passed {
			worst[one.Name] = one
		}
	}
	for name, one := range worst {
		e := entry{Status: one.Status, Runs: runs[name], Date: now.Format(time.DateOnly)}
		if one.Status != passed {
			e.Message = one.Message[:min(len(one.Message), maxMessage)]
		}
		r[name] = e
	}
	return worst
}

// byArea groups names by "sig: area", sorted.
func byArea(tests []test) (areas []string, names map[string][]string) {
	names = map[string][]string{}
	for _, t := range tests {
		area := t.Sig + ": " + t.Area
		names[area] = append(names[area], t.Name)
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return slices.Sorted(maps.Keys(names)), names
}

// summary prints passed and failed by area.
func summary(worst map[string]result) string {
	var tests []test
	for _, one := range worst {
		tests = append(tests, test{one.Name, one.Sig, one.Area})
	}
	var b strings.Builder
	areas, names := byArea(tests)
	fmt.Fprintf(&b, "\n%-40s %6s %6s\n", "", "passed", "failed")
	total := [2]int{}
	for _, area := range areas {
		good := 0
		for _, name := range names[area] {
			if worst[name].Status == passed {
				good++
			}
		}
		bad := len(names[area]) - good
		total[0], total[1] = total[0]+good, total[1]+bad
		fmt.Fprintf(&b, "%-40s %6d %6d\n", area, good, bad)
	}
	fmt.Fprintf(&b, "%-40s %6d %6d\n", "total", total[0], total[1])
	return b.String()
}

// page is docs/CONFORMANCE.md.
func (r record) page(tests []test) []byte {
	var b bytes.Buffer
	good := 0
	for _, t := range tests {
		if r[t.Name].Status == passed {
			good++
		}
	}
	fmt.Fprintf(&b, `# Conformance

Kubernetes' own conformance tests (v1.36.3, unmodified) on the demo cluster, as they ended when they were run last: %d of %d pass.
This page is written by `+"`make conformance`"+` from lab/conformance/record.json. "Runs" says how many runs in a row that was; one
failure among them counts as failed.
`, good, len(tests))
	areas, names := byArea(tests)
	for _, area := range areas {
		fmt.Fprintf(&b, "\n## %s\n\n| test | result | runs | date | why not |\n|---|---|---|---|---|\n", area)
		for _, name := range names[area] {
			e, ok := r[name]
			if !ok {
				e = entry{Status: "not run"}
			}
			fmt.Fprintf(&b, "| %s | %s | %d | %s | %s |\n", cell(name), e.Status, e.Runs, e.Date, cell(e.Message))
		}
	}
	return b.Bytes()
}

// cell keeps a text from breaking a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", ">", "&gt;").Replace(s)
}
