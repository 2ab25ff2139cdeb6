package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

// A line of the screen, and how it looks.
type line struct {
	text  string
	style *lipgloss.Style // nil: plain
}

var (
	bold   = lipgloss.NewStyle().Bold(true)
	faint  = lipgloss.NewStyle().Faint(true)
	choice = lipgloss.NewStyle().Reverse(true)
	alarm  = lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true)
)

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.View{AltScreen: true}
	if m.width <= 0 || m.height <= 0 {
		return v
	}
	above, below := m.frame()
	lines := append(above, m.middle()...)
	lines = append(lines, below...)
	texts := make([]string, len(lines))
	for i, l := range lines {
		texts[i] = cut(l.text, m.width)
		if l.style != nil {
			texts[i] = l.style.Render(fit(l.text, m.width, false))
		}
	}
	v.SetContent(strings.Join(texts, "\n"))
	if m.filtering {
		at := ansi.StringWidth("/" + m.shownFilter())
		v.Cursor = tea.NewCursor(min(at, m.width-1), len(lines)-1)
	}
	return v
}

// room returns how many lines stand between those of frame.
func (m model) room() int {
	above, below := m.frame()
	return max(1, m.height-len(above)-len(below))
}

// From these heights on there is room for a part of frame.
const (
	titleHeight  = 3
	statusHeight = 4
	headerHeight = 5
	footerHeight = 7
	blankHeight  = 10
)

// frame returns the lines above and below the locks, or below the text of a page.
func (m model) frame() (above, below []line) {
	status, bad := m.status()
	if m.height >= titleHeight {
		title := line{m.title(), &bold}
		if bad && m.height < statusHeight {
			title = line{status, &alarm}
		}
		above = append(above, title)
	}
	if m.height >= blankHeight {
		above = append(above, line{})
	}
	if m.height >= headerHeight && m.page == listPage && len(m.locks()) > 0 {
		t, _ := m.table()
		above = append(above, line{t.header(), &faint})
	}
	if m.height >= statusHeight {
		l := line{status, &faint}
		if bad {
			l.style = &alarm
		}
		below = append(below, l)
	}
	if m.height >= footerHeight || m.filtering && m.height > 1 {
		below = append(below, line{m.footer(), nil})
	}
	return above, below
}

// middle returns the lines between those of frame, as many as there is room for.
func (m model) middle() []line {
	room := m.room()
	lines := make([]line, 0, room)
	if m.page == listPage {
		lines = append(lines, m.list(room)...)
	} else {
		body := m.body()
		from := min(m.scroll, len(body))
		lines = append(lines, body[from:min(len(body), from+room)]...)
	}
	for len(lines) < room {
		lines = append(lines, line{})
	}
	return lines
}

// title returns the first line: what is shown, and of when.
func (m model) title() string {
	left, at := "warlock top", m.picture.Found
	switch {
	case m.page == helpPage:
		return left + "  help"
	case m.page == lockPage:
		left += "  " + quote(m.key)
		if m.open != nil && !m.open.read.IsZero() {
			at = m.open.read
		}
	case !at.IsZero():
		waiters := 0
		for _, l := range m.picture.Locks {
			waiters += l.Waiters()
		}
		left += "  " + count(len(m.picture.Locks)+m.picture.More, "lock", "locks") + ", " +
			count(waiters, "waiter", "waiters")
		if m.pattern != "" {
			left += "  keys like " + quote(m.pattern)
		}
		if m.filter != "" {
			left += "  with " + quote(m.filter)
		}
	}
	if at.IsZero() {
		return left
	}
	right := at.Format(time.TimeOnly)
	space := m.width - ansi.StringWidth(left) - len(right)
	if space < gap {
		return left
	}
	return left + strings.Repeat(" ", space) + right
}

// status returns the line above the last, and whether it is about an error.
func (m model) status() (text string, bad bool) {
	err, of := m.picture.Err, m.picture.Found
	if m.page == lockPage && m.open != nil {
		err, of = m.open.err, m.open.read
	}
	switch {
	case err != nil && !of.IsZero():
		return "The picture is of " + of.Format(time.TimeOnly) + ". " + clean(err), true
	case err != nil:
		return clean(err), true
	case m.page == listPage && m.picture.More > 0:
		return count(m.picture.More, "quieter lock is", "quieter locks are") +
			" left out: give a PATTERN of keys", false
	}
	return "", false
}

// footer returns the last line.
func (m model) footer() string {
	switch {
	case m.filtering:
		return fit("/"+m.shownFilter(), 20, false) + "  enter keep  esc drop"
	case m.page == helpPage:
		return "esc back  q quit"
	case m.page == lockPage:
		return "esc back  up/down scroll  ? help  q quit"
	}
	return "enter open  / filter  ? help  q quit"
}

// shownFilter returns the end of the filter, for which there is room.
func (m model) shownFilter() string {
	const most = 18
	return ansi.TruncateLeft(m.filter, max(0, ansi.StringWidth(m.filter)-most), "")
}

// columns are those of the list. HELD counts from when the lock was first seen here.
var columns = []column{
	{title: "KEY", least: 12},
	{title: "MODE", rank: 4},
	{title: "HOLDER", least: 10, rank: 2},
	{title: "HELD", right: true, rank: 5},
	{title: "LEASE", right: true, rank: 6},
	{title: "WAITING", right: true, rank: 1},
	{title: "LONGEST WAIT", short: "LONGEST", right: true, rank: 3},
}

// table returns the layout of the list, and its rows.
func (m model) table() (table, [][]string) {
	var rows [][]string
	for _, l := range m.locks() {
		rows = append(rows, m.cells(l))
	}
	return layout(columns, rows, m.width), rows
}

// cells returns the cells of a lock, one for each of columns.
func (m model) cells(l board.Lock) []string {
	held, left, waiting, longest := "-", "-", "-", "-"
	if len(l.Holders) > 0 {
		held, left = span(m.picture.Found.Sub(l.Since)), lease(l.Holders[0])
	}
	if n := l.Waiters(); n > 0 {
		waiting, longest = strconv.Itoa(n), span(l.LongestWait())
	}
	return []string{quote(l.Key), l.Mode.String(), holders(l.Status), held, left, waiting, longest}
}

// list returns the lines of the locks in sight.
func (m model) list(room int) (lines []line) {
	t, rows := m.table()
	if len(rows) == 0 {
		return m.nothing()
	}
	for i := m.first; i < min(len(rows), m.first+room); i++ {
		if i == m.line {
			lines = append(lines, line{t.row(">", rows[i]), &choice})
		} else {
			lines = append(lines, line{t.row("", rows[i]), nil})
		}
	}
	return lines
}

// nothing returns the lines of a list without locks. They say why it is empty.
func (m model) nothing() []line {
	switch {
	case m.picture.Found.IsZero() && m.picture.Err != nil:
		return []line{{text: "Redis has not answered yet."}}
	case m.picture.Found.IsZero():
		return []line{{text: "Looking for locks."}}
	case m.filter != "":
		text := "No key or holder has " + quote(m.filter) + " in it. esc drops the filter."
		return []line{{text: text}}
	case m.pattern != "":
		text := "No lock is held or waited for whose key is like " + quote(m.pattern) + "."
		return []line{{text: text}}
	}
	return []line{
		{text: "No lock is held or waited for. To take one:"},
		{},
		{text: "  warlock run KEY -- command"},
	}
}

// body returns the lines of lockPage or helpPage, of which some are in sight.
func (m model) body() []line {
	if m.page == helpPage {
		return help
	}
	status, since := m.openLock()
	if status == nil {
		return []line{{text: "Looking for the lock."}}
	}
	lines := []line{{text: summary(*status, since)}, {}}
	lines = append(lines, holderLines(*status, m.width)...)
	return append(lines, queueLines(*status, m.width)...)
}

// openLock returns the status of the open lock, and for how long its holder was seen.
func (m model) openLock() (status *warlock.Status, held time.Duration) {
	if m.open != nil && !m.open.read.IsZero() {
		status = &m.open.status
	}
	for _, l := range m.picture.Locks {
		if l.Key != m.key {
			continue
		}
		if status == nil {
			return &l.Status, m.picture.Found.Sub(l.Since)
		}
		still := func(h warlock.Holder) bool { return len(l.Holders) > 0 && h.ID == l.Holders[0].ID }
		if slices.ContainsFunc(status.Holders, still) {
			return status, m.open.read.Sub(l.Since)
		}
	}
	return status, 0
}

// summary returns a sentence about a lock.
func summary(s warlock.Status, held time.Duration) string {
	text := "Free: nobody holds it"
	switch s.Mode {
	case warlock.ModeRead:
		text = "Held by " + count(len(s.Holders)+s.MoreHolders, "reader", "readers")
	case warlock.ModeWrite:
		text = "Held by a writer"
	}
	if s.Mode != warlock.ModeFree && held > 0 {
		text += " for at least " + span(held)
	}
	if s.Fence > 0 {
		text += fmt.Sprintf(", last token %d", s.Fence)
	}
	return text + "."
}

// The columns of the tables of lockPage.
var (
	holderColumns = []column{
		{title: "HOLDER", least: 10},
		{title: "LEASE", right: true, rank: 1},
		{title: "ID", least: 8, rank: 2},
	}
	queueColumns = []column{
		{title: "#", right: true, rank: 3},
		{title: "WAITER", least: 10},
		{title: "MODE", rank: 2},
		{title: "WAIT", right: true, rank: 1},
		{title: "ID", least: 8, rank: 4},
	}
)

func holderLines(s warlock.Status, width int) (lines []line) {
	if len(s.Holders) == 0 {
		return nil
	}
	// Redis names readers in an order that changes.
	inOrder := slices.SortedFunc(slices.Values(s.Holders), func(a, b warlock.Holder) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.ID, b.ID))
	})
	var rows [][]string
	for _, h := range inOrder {
		rows = append(rows, []string{name(h.Owner, h.ID), lease(h), quote(h.ID)})
	}
	lines = tableLines(holderColumns, rows, width)
	if s.MoreHolders > 0 {
		lines = append(lines, line{text: fmt.Sprintf("  and %d more", s.MoreHolders)})
	}
	return append(lines, line{})
}

func queueLines(s warlock.Status, width int) (lines []line) {
	if len(s.Waiting) == 0 {
		return []line{{text: "Nobody waits for it."}}
	}
	var rows [][]string
	for i, w := range s.Waiting {
		rows = append(rows, []string{
			strconv.Itoa(i + 1), name(w.Owner, w.ID), w.Mode.String(), span(w.For), quote(w.ID),
		})
	}
	lines = tableLines(queueColumns, rows, width)
	if s.MoreWaiting > 0 {
		text := fmt.Sprintf("  and %d more, of whom some may be dead", s.MoreWaiting)
		lines = append(lines, line{text: text})
	}
	return lines
}

// tableLines returns a table with its header.
func tableLines(columns []column, rows [][]string, width int) []line {
	t := layout(columns, rows, width)
	lines := []line{{t.header(), &faint}}
	for _, row := range rows {
		lines = append(lines, line{t.row("", row), nil})
	}
	return lines
}

// help is the text of helpPage.
var help = []line{
	{text: "up, down, j, k     choose a lock, or scroll"},
	{text: "pgup, pgdown       the same by a screen"},
	{text: "g, G               the first, the last"},
	{text: "enter              open the lock: its holders and its queue"},
	{text: "esc                back; in the list, drop the filter"},
	{text: "/                  show locks with a text in their key or holder"},
	{text: "ctrl+z             stop, until the shell's fg"},
	{text: "q, ctrl+c          quit"},
	{},
	{text: "HOLDER  the owner of the holder, or the beginning of its ID"},
	{text: "HELD    how long this list has seen the holder; it may be longer"},
	{text: "LEASE   the rest of the lease, which the holder renews; never: no end"},
	{text: "LONGEST WAIT  how long the first waiter has waited"},
	{},
	{text: "Locks with the most waiters come first. A lock that was taken by SET NX"},
	{text: "alone is listed while it is waited for: see warlock show KEY."},
}
