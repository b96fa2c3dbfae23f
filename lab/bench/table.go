package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// row is one line of the table.
type row struct {
	section string
	what    string
	ours    string
	budget  string  // "" where there is none
	missed  bool    // the budget
	others  float64 // percent of the processors
}

// bound is a budget: at most or at least so much.
type bound struct {
	limit float64
	least bool
	text  string
}

func atMost(limit float64, unit string) bound {
	return bound{limit, false, "at most " + figure(limit) + " " + unit}
}

func atLeast(limit float64, unit string) bound {
	return bound{limit, true, "at least " + figure(limit) + " " + unit}
}

// add notes a figure without a budget.
func (b *bench) add(what, format string, args ...any) {
	b.rows = append(b.rows, row{what: what, ours: fmt.Sprintf(format, args...)})
}

// hold notes a figure that a budget holds for. more is text behind the figure.
func (b *bench) hold(what string, value float64, unit string, budget bound, more ...string) {
	ours := strings.Join(append([]string{figure(value) + " " + unit}, more...), ", ")
	b.rows = append(b.rows, row{what: what, ours: ours, budget: budget.text, missed: budget.missed(value)})
}

func (b bound) missed(value float64) bool {
	if b.text == "" {
		return false
	}
	if b.least {
		return value < b.limit
	}
	return value > b.limit
}

// figure writes a number as precisely as anybody wants to read it.
func figure(v float64) string {
	switch {
	case v >= 1_000_000:
		return fmt.Sprintf("%.3g million", v/1e6)
	case v >= 1000:
		return fmt.Sprintf("%d,%03d", int(v+0.5)/1000, int(v+0.5)%1000)
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// printTable writes the rows as a table that reads well in a terminal and is one in
// Markdown too.
func printTable(w io.Writer, rows []row) {
	lines := [][]string{{"what", "ours", "budget", "verdict", "others"}}
	last := ""
	for _, r := range rows {
		if r.section != last {
			last = r.section
			lines = append(lines, []string{"**" + r.section + "**", "", "", "", fmt.Sprintf("%.0f %%", r.others)})
		}
		verdict := ""
		if r.missed {
			verdict = "missed"
		} else if r.budget != "" {
			verdict = "met"
		}
		lines = append(lines, []string{r.what, r.ours, r.budget, verdict, ""})
	}
	widths := make([]int, len(lines[0]))
	for _, l := range lines {
		for i, cell := range l {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, l := range lines {
		for i, cell := range l {
			fmt.Fprintf(w, "| %s%s ", cell, strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
		}
		fmt.Fprintln(w, "|")
		if n == 0 {
			for _, width := range widths {
				fmt.Fprintf(w, "|%s", strings.Repeat("-", width+2))
			}
			fmt.Fprintln(w, "|")
		}
	}
}
