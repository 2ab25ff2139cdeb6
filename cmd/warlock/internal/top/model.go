package top

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

// A page is what fills the screen.
type page int

const (
	listPage page = iota // the locks
	lockPage             // the holders and the queue of one lock
	helpPage
)

// A model is the state of the program. Update returns the next one.
type model struct {
	inspect func(key string) (warlock.Status, error)
	every   time.Duration // between two looks at the open lock
	pattern string        // of the keys; empty: all locks

	width, height int // of the terminal; 0: not yet known

	picture   board.Snapshot // the last; its At is zero before the first
	filter    string         // what the shown locks have in their keys or holders
	filtering bool           // the filter is being typed
	key       string         // of the chosen lock, and of the open one; empty: none
	line      int            // of the chosen lock among those shown
	moved     bool           // a lock was chosen by hand; else the busiest is
	first     int            // the first of the locks in sight
	page      page
	back      page // where help goes back to

	opened int   // how often a lock was opened: answers about an earlier one are late
	open   *look // at the open lock; nil: none has come
	scroll int   // the first shown line of lockPage and helpPage
}

// A look is what Inspect said of the open lock.
type look struct {
	opened int
	status warlock.Status // the last that was read
	read   time.Time      // when it was; zero: never
	err    error          // of this look
}

// A tick asks for the next look at the open lock.
type tick struct{ opened int }

// Init implements tea.Model.
func (m model) Init() tea.Cmd { return nil }

// Update implements tea.Model.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case board.Snapshot:
		m.picture = msg
	case look:
		if m.page == listPage || msg.opened != m.opened {
			return m, nil
		}
		if msg.err != nil && m.open != nil {
			msg.status, msg.read = m.open.status, m.open.read
		}
		m.open = &msg
		cmd = tea.Tick(m.every, func(time.Time) tea.Msg { return tick{msg.opened} })
	case tick:
		if msg.opened == m.opened {
			cmd = m.look()
		}
	case tea.PasteMsg:
		if m.filtering {
			m.filter += printable(msg.Content)
		}
	case tea.KeyPressMsg:
		m, cmd = m.press(msg)
	}
	return m.settled(), cmd
}

// look returns a command that looks at the open lock.
func (m model) look() tea.Cmd {
	key, opened := m.key, m.opened
	return func() tea.Msg {
		status, err := m.inspect(key)
		if err != nil {
			return look{opened: opened, err: err}
		}
		return look{opened, status, time.Now(), nil}
	}
}

// press is for a key.
func (m model) press(msg tea.KeyPressMsg) (model, tea.Cmd) {
	if m.filtering && msg.String() != "ctrl+c" {
		return m.edit(msg), nil
	}
	switch msg.String() {
	case "q", "ctrl+c":
		return m, tea.Quit
	case "ctrl+z":
		return m, tea.Suspend
	case "?":
		if m.page != helpPage {
			m.page, m.back, m.scroll = helpPage, m.page, 0
			return m, nil
		}
		m.page, m.scroll = m.back, 0
	case "esc", "backspace", "left", "h":
		return m.goBack(msg.String()), nil
	case "enter", "right", "l":
		if m.page == listPage && m.key != "" {
			m.page, m.scroll, m.open, m.moved = lockPage, 0, nil, true
			m.opened++
			return m, m.look()
		}
	case "/":
		m.filtering = m.page == listPage
	default:
		return m.move(msg.String()), nil
	}
	return m, nil
}

// goBack leaves a page, or drops the filter.
func (m model) goBack(key string) model {
	switch m.page {
	case helpPage:
		m.page, m.scroll = m.back, 0
	case lockPage:
		m.page, m.opened = listPage, m.opened+1
	case listPage:
		if key == "esc" {
			m.filter = ""
		}
	}
	return m
}

// edit is for a key while the filter is being typed.
func (m model) edit(msg tea.KeyPressMsg) model {
	switch msg.String() {
	case "esc":
		m.filter, m.filtering = "", false
	case "enter":
		m.filtering = false
	case "backspace", "ctrl+h":
		_, last := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-last]
	case "ctrl+u":
		m.filter = ""
	case "up", "down", "pgup", "pgdown":
		return m.move(msg.String())
	default:
		m.filter += printable(msg.Text)
	}
	return m
}

// printable leaves characters out that are not printable.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}

// move is for a key that moves the choice, or scrolls.
func (m model) move(key string) model {
	by := map[string]int{
		"down": 1, "j": 1, "up": -1, "k": -1,
		"pgdown": m.room(), "space": m.room(), "ctrl+f": m.room(),
		"pgup": -m.room(), "ctrl+b": -m.room(),
		"end": maxLines, "G": maxLines, "home": -maxLines, "g": -maxLines,
	}[key]
	if m.page != listPage {
		m.scroll += by
		return m
	}
	if locks := m.locks(); len(locks) > 0 {
		at := m.chosen(locks) + by
		m.key = locks[max(0, min(at, len(locks)-1))].Key
		m.moved = by != -maxLines && (m.moved || by != 0)
	}
	return m
}

// maxLines is more than there are of anything.
const maxLines = 1 << 20

// locks returns the locks of the picture that the filter lets through.
func (m model) locks() []board.Lock {
	if m.filter == "" {
		return m.picture.Locks
	}
	return slices.DeleteFunc(slices.Clone(m.picture.Locks), func(l board.Lock) bool {
		return !m.passes(l)
	})
}

// passes reports whether the key or a holder of l has the filter in it.
func (m model) passes(l board.Lock) bool {
	if strings.Contains(quote(l.Key), m.filter) {
		return true
	}
	return slices.ContainsFunc(l.Holders, func(h warlock.Holder) bool {
		return strings.Contains(name(h.Owner, h.ID), m.filter)
	})
}

// chosen returns where the chosen lock is in locks, which are not empty.
func (m model) chosen(locks []board.Lock) int {
	return max(0, slices.IndexFunc(locks, func(l board.Lock) bool { return l.Key == m.key }))
}

// settled returns m with a lock chosen and in sight. On lockPage the open lock stays,
// also when it is free.
func (m model) settled() model {
	room := m.room()
	if m.page != listPage {
		lines := len(m.body())
		m.scroll = max(0, min(m.scroll, lines-room))
		return m
	}
	locks := m.locks()
	if len(locks) == 0 {
		m.key, m.first, m.moved = "", 0, false
		return m
	}
	at := 0
	if m.moved {
		at = slices.IndexFunc(locks, func(l board.Lock) bool { return l.Key == m.key })
	}
	if at < 0 { // it is gone: the lock that is now in its line is chosen
		at = max(0, min(m.line, len(locks)-1))
	}
	m.key, m.line = locks[at].Key, at
	m.first = max(0, min(m.first, at, len(locks)-room))
	m.first = max(m.first, at-room+1)
	return m
}
