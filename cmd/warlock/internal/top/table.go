package top

import (
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// A column of a table.
type column struct {
	title, short string // short: the title where room is short; empty: title
	right        bool   // its cells stand at the right
	least        int    // cells to which it may be narrowed; 0: it is never narrowed
	rank         int    // columns of a higher rank are left out first; 0: never
}

// gutter is the room at the left of a table, where the chosen row is marked; gap is
// the room between two columns.
const gutter, gap = 2, 2

// A table has columns that fit into a width.
type table struct {
	columns []column
	titles  []string
	index   []int // of each column, in the rows
	widths  []int
}

// layout chooses the columns that fit into width cells, and the width of each. Where
// room is short, it shortens titles, then narrows columns, then leaves columns out.
func layout(columns []column, rows [][]string, width int) table {
	t := table{columns: slices.Clone(columns)}
	for i, c := range columns {
		t.titles, t.index = append(t.titles, c.title), append(t.index, i)
	}
	t.measure(rows)
	if t.excess(width) > 0 {
		for i, c := range t.columns {
			if c.short != "" {
				t.titles[i] = c.short
			}
		}
		t.measure(rows)
	}
	for t.narrow(width); t.excess(width) > 0 && t.leaveOut(); t.narrow(width) {
		t.measure(rows)
	}
	if over := t.excess(width); over > 0 { // one column is left
		last := len(t.widths) - 1
		t.widths[last] = max(t.widths[last]-over, 1)
	}
	return t
}

// measure gives each column the width of its widest cell or title.
func (t *table) measure(rows [][]string) {
	t.widths = t.widths[:0]
	for i, title := range t.titles {
		w := ansi.StringWidth(title)
		for _, row := range rows {
			w = max(w, ansi.StringWidth(row[t.index[i]]))
		}
		t.widths = append(t.widths, w)
	}
}

// excess returns by how much the table is too wide.
func (t *table) excess(width int) int {
	total := gutter + gap*(len(t.widths)-1)
	for _, w := range t.widths {
		total += w
	}
	return total - width
}

// narrow takes the excess from the widest columns that may be narrowed.
func (t *table) narrow(width int) {
	for over := t.excess(width); over > 0; over-- {
		widest := -1
		for i, c := range t.columns {
			if c.least > 0 && t.widths[i] > c.least && (widest < 0 || t.widths[i] > t.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		t.widths[widest]--
	}
}

// leaveOut takes the column of the highest rank out, and reports whether there was
// one.
func (t *table) leaveOut() bool {
	out := 0
	for i, c := range t.columns {
		if c.rank > t.columns[out].rank {
			out = i
		}
	}
	if t.columns[out].rank == 0 {
		return false
	}
	t.columns, t.titles = slices.Delete(t.columns, out, out+1), slices.Delete(t.titles, out, out+1)
	t.index = slices.Delete(t.index, out, out+1)
	return true
}

// header returns the line with the titles.
func (t *table) header() string { return t.line("", t.titles) }

// row returns the line of a row, after mark.
func (t *table) row(mark string, cells []string) string {
	chosen := make([]string, len(t.index))
	for i, index := range t.index {
		chosen[i] = cells[index]
	}
	return t.line(mark, chosen)
}

func (t *table) line(mark string, cells []string) string {
	fitted := make([]string, len(cells))
	for i, cell := range cells {
		fitted[i] = fit(cell, t.widths[i], t.columns[i].right)
	}
	return fit(mark, gutter, false) + strings.Join(fitted, strings.Repeat(" ", gap))
}
