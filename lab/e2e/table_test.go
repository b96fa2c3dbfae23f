//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"
)

// printed is a table that kubectl printed.
type printed struct {
	t       testing.TB
	text    string
	columns []string
	rows    []map[string]string
}

// table reads what kubectl printed. Columns begin where their headers begin: a
// header may have a blank in it, a cell may be empty or have blanks.
func table(t testing.TB, text string) printed {
	t.Helper()
	p := printed{t: t, text: text}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) == 0 || lines[0] == "" {
		t.Fatalf("no table: %q", text)
	}
	head := lines[0]
	var starts []int
	for i := range head {
		// Two blanks at least are between columns.
		if head[i] != ' ' && (i == 0 || i > 1 && head[i-1] == ' ' && head[i-2] == ' ') {
			starts = append(starts, i)
		}
	}
	cell := func(line string, i int) string {
		if starts[i] >= len(line) {
			return ""
		}
		end := len(line)
		if i+1 < len(starts) {
			end = min(end, starts[i+1])
		}
		return strings.TrimSpace(line[starts[i]:end])
	}
	for i := range starts {
		p.columns = append(p.columns, cell(head, i))
	}
	for _, line := range lines[1:] {
		row := map[string]string{}
		for i, c := range p.columns {
			row[c] = cell(line, i)
		}
		p.rows = append(p.rows, row)
	}
	return p
}

// tables reads several tables with an empty line between them, as "get all" prints.
func tables(t testing.TB, text string) []printed {
	t.Helper()
	var all []printed
	for part := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		all = append(all, table(t, part))
	}
	return all
}

// has complains unless the columns are these, in this order.
func (p printed) has(columns ...string) printed {
	p.t.Helper()
	if !slices.Equal(p.columns, columns) {
		p.t.Errorf("the columns are %q, not %q:\n%s", p.columns, columns, p.text)
	}
	return p
}

// row returns the row whose NAME this is; it must be there.
func (p printed) row(name string) map[string]string {
	p.t.Helper()
	for _, r := range p.rows {
		if r["NAME"] == name {
			return r
		}
	}
	p.t.Fatalf("no row %q in:\n%s", name, p.text)
	return nil
}

// column returns the cells of one column.
func (p printed) column(name string) []string {
	p.t.Helper()
	if !slices.Contains(p.columns, name) {
		p.t.Fatalf("no column %q in:\n%s", name, p.text)
	}
	var cells []string
	for _, r := range p.rows {
		cells = append(cells, r[name])
	}
	return cells
}
