package top

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is when the pictures of these tests are of.
var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func writer(key, owner string, held time.Duration, waits ...time.Duration) board.Lock {
	l := board.Lock{Since: noon.Add(-held)}
	l.Key, l.Mode, l.Fence = key, warlock.ModeWrite, 1794000000000000
	const left = 8200 * time.Millisecond
	l.Holders = []warlock.Holder{{ID: "018f3c2a-77aa/" + owner, Owner: owner, Remaining: left}}
	for i, wait := range waits {
		w := warlock.Waiter{ID: fmt.Sprintf("w%d-aa", i), Mode: warlock.ModeWrite, For: wait}
		if i > 0 {
			w.Owner, w.Mode = fmt.Sprintf("web-%d/4711", i), warlock.ModeRead
		}
		l.Waiting = append(l.Waiting, w)
	}
	return l
}

// picture is one with locks of all kinds.
func picture() board.Snapshot {
	free := board.Lock{Since: noon}
	free.Key = "left"
	free.Waiting = []warlock.Waiter{{ID: "x-1", Mode: warlock.ModeWrite, For: time.Second}}
	shared := writer("price-list", "api-1/30", 90*time.Minute)
	shared.Mode, shared.MoreHolders = warlock.ModeRead, 2
	setnx := writer("cron", "", 26*time.Hour)
	setnx.Holders = []warlock.Holder{{ID: "host-7", Remaining: -1}}
	return board.Snapshot{At: noon, Found: noon, Locks: []board.Lock{
		writer("invoice:42", "web-3/4711", 135*time.Second, 65*time.Second, 3*time.Second),
		free,
		shared,
		writer("evil\x1b[2J\u202ekey", "web-1/30", 2*time.Second),
		writer("日本語のとても長いキー:請求書:四十二",
			"server-with-a-long-name.example.com/48213", time.Second),
		setnx,
	}}
}

// press is a key as the terminal sends it.
func press(name string) tea.KeyPressMsg {
	codes := map[string]rune{
		"up": tea.KeyUp, "down": tea.KeyDown, "pgup": tea.KeyPgUp, "pgdown": tea.KeyPgDown,
		"enter": tea.KeyEnter, "esc": tea.KeyEscape, "backspace": tea.KeyBackspace,
		"end": tea.KeyEnd, "home": tea.KeyHome,
	}
	if code, ok := codes[name]; ok {
		return tea.KeyPressMsg{Code: code}
	}
	if rest, ok := strings.CutPrefix(name, "ctrl+"); ok {
		return tea.KeyPressMsg{Code: rune(rest[0]), Mod: tea.ModCtrl}
	}
	return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
}

// after returns m after messages, of which a string is a key, and the last command.
func after(t *testing.T, m model, msgs ...any) (model, tea.Cmd) {
	t.Helper()
	var cmd tea.Cmd
	for _, msg := range msgs {
		if key, ok := msg.(string); ok {
			msg = press(key)
		}
		var next tea.Model
		next, cmd = m.Update(msg)
		m = next.(model)
		check(t, m)
	}
	return m, cmd
}

// check fails the test if the screen of m does not fit the terminal, or has an escape
// sequence that is not of colours.
func check(t *testing.T, m model) {
	t.Helper()
	if m.width <= 0 || m.height <= 0 {
		return
	}
	content := m.View().Content
	lines := strings.Split(content, "\n")
	if len(lines) != m.height {
		t.Errorf("%d lines on a terminal of %dx%d:\n%s", len(lines), m.width, m.height, screen(m))
	}
	for _, l := range lines {
		if w := ansi.StringWidth(l); w > m.width {
			t.Errorf("a line of %d cells on a terminal of %dx%d: %q", w, m.width, m.height, l)
		}
	}
	for _, r := range ansi.Strip(content) {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e') {
			t.Errorf("the screen has the character %U", r)
		}
	}
}

// screen returns the text on the screen of m, without trailing spaces.
func screen(m model) string {
	lines := strings.Split(ansi.Strip(m.View().Content), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// golden compares the screen of m with a file.
func golden(t *testing.T, m model, name string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	got := screen(m)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: the screen is\n%swant\n%s", name, got, want)
	}
}

func size(width, height int) tea.WindowSizeMsg {
	return tea.WindowSizeMsg{Width: width, Height: height}
}

// start is a model that has inspected.
func start(status warlock.Status, err error) model {
	inspect := func(string) (warlock.Status, error) { return status, err }
	return model{every: time.Hour, inspect: inspect}
}

func TestScreens(t *testing.T) {
	failed := picture()
	failed.At = noon.Add(3 * time.Second)
	failed.Err = errors.New("warlock: list \"*\": dial tcp: refused\x1b[2J")
	many := picture()
	many.More = 200
	opened := look{opened: 1, status: picture().Locks[0].Status, read: noon.Add(time.Second)}
	opened.status.MoreWaiting = 12
	lost := look{opened: 1, err: errors.New("warlock: dial tcp: refused")}
	for name, c := range map[string]struct {
		size tea.WindowSizeMsg
		msgs []any
	}{
		"before":      {size(80, 12), nil},
		"empty":       {size(80, 12), []any{board.Snapshot{At: noon, Found: noon}}},
		"100x16":      {size(100, 16), []any{picture()}},
		"80x24":       {size(80, 24), []any{many, "down", "down"}},
		"60x10":       {size(60, 10), []any{picture()}},
		"40x8":        {size(40, 8), []any{picture()}},
		"20x5":        {size(20, 5), []any{picture(), "end"}},
		"8x3":         {size(8, 3), []any{picture()}},
		"error":       {size(80, 12), []any{picture(), failed}},
		"error-first": {size(80, 12), []any{board.Snapshot{At: noon, Err: failed.Err}}},
		"filter":      {size(80, 12), []any{picture(), "/", "w", "e", "b"}},
		"filter-none": {size(80, 12), []any{picture(), "/", "x", "y", "z", "enter"}},
		"lock":        {size(80, 14), []any{picture(), "enter", opened}},
		"lock-40x8":   {size(40, 8), []any{picture(), "enter", opened, "down", "down"}},
		"lock-error":  {size(80, 14), []any{picture(), "enter", opened, lost}},
		"lock-free":   {size(80, 12), []any{picture(), "enter", look{opened: 1, read: noon}}},
		"help":        {size(80, 24), []any{picture(), "?"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := after(t, start(warlock.Status{}, nil), append([]any{c.size}, c.msgs...)...)
			golden(t, m, name)
		})
	}
}

func TestEverySizeFits(t *testing.T) {
	failed := picture()
	failed.Err, failed.More = errors.New(strings.Repeat("failed ", 50)), 10
	m, _ := after(t, start(picture().Locks[0].Status, nil), size(80, 24), picture())
	for _, msgs := range [][]any{
		{}, {"end"}, {failed}, {"/", "w"}, {"enter", "enter"}, {"end"}, {"?"}, {"end"},
	} {
		m, _ = after(t, m, msgs...)
		for width := 1; width < 130; width += 3 {
			for height := 1; height < 30; height++ {
				m, _ = after(t, m, size(width, height))
			}
		}
	}
}

func TestNoColourIsNeededToSeeTheChoice(t *testing.T) {
	m, _ := after(t, start(warlock.Status{}, nil), size(80, 24), picture(), "down")
	if !strings.Contains(screen(m), "\n> left ") {
		t.Errorf("the chosen lock has no mark:\n%s", screen(m))
	}
}

func TestTheChoiceFollowsItsLock(t *testing.T) {
	m, _ := after(t, start(warlock.Status{}, nil), size(80, 24), picture())
	if m.key != "invoice:42" {
		t.Errorf("at first, %q is chosen", m.key)
	}
	turned := picture()
	turned.Locks[0], turned.Locks[2] = turned.Locks[2], turned.Locks[0]
	if m, _ := after(t, m, turned); m.key != "price-list" {
		t.Errorf("where nobody has moved, %q is chosen, not the busiest", m.key)
	}
	m, _ = after(t, m, "down", "j", "k", "up", "up", "down")
	if m.key != "left" {
		t.Errorf("after moving, %q is chosen", m.key)
	}
	turned.Locks[1], turned.Locks[4] = turned.Locks[4], turned.Locks[1]
	m, _ = after(t, m, turned)
	if m.key != "left" || m.line != 4 {
		t.Errorf("the choice is %q in line %d, not where its lock is now", m.key, m.line)
	}
	turned.Locks = turned.Locks[:4]
	m, _ = after(t, m, turned)
	if m.key != turned.Locks[3].Key {
		t.Errorf("when its lock is gone, %q is chosen, not the last", m.key)
	}
	m, _ = after(t, m, board.Snapshot{At: noon, Found: noon}, "down", "enter", picture())
	if m.key != "invoice:42" || m.page != listPage {
		t.Errorf("after a picture without locks, %q is chosen", m.key)
	}
	m, _ = after(t, m, "G", "g", turned)
	if m.key != "price-list" {
		t.Errorf("after g, %q is chosen, not the busiest", m.key)
	}
}

func TestFilter(t *testing.T) {
	m, _ := after(t, start(warlock.Status{}, nil), size(80, 24), picture())
	m, _ = after(t, m, "/", "a", "backspace", "q", "?", "ctrl+u", "4", "2")
	if m.filter != "42" || len(m.locks()) != 1 || m.page != listPage {
		t.Errorf("filter %q lets %d locks through", m.filter, len(m.locks()))
	}
	m, _ = after(t, m, tea.PasteMsg{Content: "\x1b[2J\n"}, "enter", "esc")
	if m.filter != "" || m.filtering {
		t.Errorf("after esc the filter is %q", m.filter)
	}
	m, _ = after(t, m, "/", tea.PasteMsg{Content: "api\x1b\n-1"}, "enter")
	if m.filter != "api-1" || m.key != "price-list" {
		t.Errorf("filter %q, chosen %q", m.filter, m.key)
	}
	if m, _ = after(t, m, "/", "esc"); m.filter != "" || m.filtering {
		t.Errorf("after esc while typing the filter is %q", m.filter)
	}
}

func TestOpenLock(t *testing.T) {
	status := picture().Locks[0].Status
	m, cmd := after(t, start(status, nil), size(80, 24), picture(), "enter")
	if m.page != lockPage || cmd == nil || !strings.Contains(screen(m), "web-1/4711") {
		t.Fatalf("enter opens no lock:\n%s", screen(m))
	}
	answer := cmd()
	m, cmd = after(t, m, answer)
	if m.open == nil || !reflect.DeepEqual(m.open.status, status) || cmd == nil {
		t.Fatal("the answer is not shown, or no other look is to come")
	}
	m, cmd = after(t, m, tick{m.opened})
	if cmd == nil {
		t.Error("a tick asks for no look")
	}
	m, _ = after(t, m, "?", answer, "?", "esc")
	if m.page != listPage {
		t.Errorf("esc leaves page %v", m.page)
	}
	if _, cmd = after(t, m, answer); cmd != nil {
		t.Error("a late answer asks for another look")
	}
	if _, cmd = after(t, m, tick{1}); cmd != nil {
		t.Error("a late tick asks for a look")
	}
	m.inspect = func(string) (warlock.Status, error) { return warlock.Status{}, errors.New("away") }
	m, cmd = after(t, m, "enter")
	m, cmd = after(t, m, cmd())
	if cmd == nil || !strings.Contains(screen(m), "away") {
		t.Errorf("an error is not shown, or ends the looks:\n%s", screen(m))
	}
}

func TestQuit(t *testing.T) {
	m, _ := after(t, start(warlock.Status{}, nil), size(80, 24), picture())
	filtering, _ := after(t, m, "/")
	lock, _ := after(t, m, "enter")
	for name, c := range map[string]struct {
		m   model
		key string
	}{
		"q": {m, "q"}, "ctrl+c": {m, "ctrl+c"},
		"q in a lock": {lock, "q"}, "ctrl+c in the filter": {filtering, "ctrl+c"},
	} {
		_, cmd := after(t, c.m, c.key)
		if cmd == nil || cmd() != (tea.QuitMsg{}) {
			t.Errorf("%s does not quit", name)
		}
	}
	if _, cmd := after(t, m, "ctrl+z"); cmd == nil || cmd() != (tea.SuspendMsg{}) {
		t.Error("ctrl+z does not suspend")
	}
}
