package serve

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
	"github.com/warlock-go/warlock/cmd/warlock/internal/span"
)

const (
	mostText = 200     // characters of a key or ID that a page shows
	mostNews = 600     // characters of an error that a page shows
	mostRef  = 4 << 10 // bytes of a key or ID to which a page can refer
	mostRows = 200     // holders and waiters of one lock that a page names
)

// A listView is what the page of all locks shows. Times are texts, as people read
// them.
type listView struct {
	At    int64     `json:"at"` // when Locks were found (Unix, ms)
	Locks []lockRow `json:"locks"`
	More  int       `json:"more"`            // locks beside these
	Error string    `json:"error,omitempty"` // of the newest look
	Old   bool      `json:"old,omitempty"`   // it was broken off: Locks are of an earlier one
}

// A lockRow is a row of a listView.
type lockRow struct {
	Ref     string `json:"ref"` // for URLs; empty: the key is too long
	Key     string `json:"key"`
	Mode    string `json:"mode"`
	Holder  string `json:"holder"` // empty: the lock is free
	Held    string `json:"held"`
	Lease   string `json:"lease"`
	Waiting int    `json:"waiting"`
	Longest string `json:"longest"` // empty: no waiter is named
}

// A lockView is what the page of one lock shows.
type lockView struct {
	At          int64       `json:"at"` // when the rest was found (Unix, ms); 0: never
	Key         string      `json:"key"`
	Mode        string      `json:"mode"`
	Fence       string      `json:"fence"` // empty: none is known
	Holders     []holderRow `json:"holders"`
	MoreHolders int         `json:"moreHolders"` // beside these
	Waiting     []waiterRow `json:"waiting"`
	MoreWaiting int         `json:"moreWaiting"`     // beside these
	Error       string      `json:"error,omitempty"` // of the newest look
	Old         bool        `json:"old,omitempty"`   // it failed: the rest is of an earlier one
}

// A holderRow is a holder in a lockView.
type holderRow struct {
	Ref   string `json:"ref"` // the ID, to break the lock by; empty: the ID is too long
	ID    string `json:"id"`
	Owner string `json:"owner"`
	Held  string `json:"held"`
	Lease string `json:"lease"`
}

// A waiterRow is a waiter in a lockView.
type waiterRow struct {
	ID    string `json:"id"`
	Owner string `json:"owner"`
	Mode  string `json:"mode"`
	For   string `json:"for"`
}

// viewOfList returns the view of a snapshot. Its times are as of when the locks were
// found.
func viewOfList(s board.Snapshot) listView {
	view := listView{
		At: s.Found.UnixMilli(), Locks: make([]lockRow, len(s.Locks)), More: s.More,
		Error: errorText(s.Err), Old: !s.Found.Equal(s.At),
	}
	if s.Found.IsZero() {
		view.At = 0
	}
	for i, l := range s.Locks {
		view.Locks[i] = rowOf(l, s.Found)
	}
	return view
}

func rowOf(l board.Lock, now time.Time) lockRow {
	row := lockRow{Ref: ref(l.Key), Key: text(l.Key), Mode: l.Mode.String(), Waiting: l.Waiters()}
	if len(l.Holders) > 0 {
		first := l.Holders[0]
		row.Holder = owner(first.ID, first.Owner)
		if more := len(l.Holders) - 1 + l.MoreHolders; more > 0 {
			row.Holder += fmt.Sprintf(" and %d more", more)
		}
		row.Held, row.Lease = span.Text(now.Sub(l.Since)), lease(first.Remaining)
	}
	if len(l.Waiting) > 0 {
		row.Longest = span.Text(l.LongestWait())
	}
	return row
}

// viewOfLock returns the view of a lock. since has the time at which each holder was
// first seen.
func viewOfLock(s warlock.Status, since map[string]time.Time, now time.Time) lockView {
	view := lockView{At: now.UnixMilli(), Key: text(s.Key), Mode: s.Mode.String()}
	if s.Fence != 0 {
		view.Fence = strconv.FormatInt(s.Fence, 10)
	}
	holders, more := firstRows(s.Holders)
	view.MoreHolders = s.MoreHolders + more
	for _, h := range holders {
		view.Holders = append(view.Holders, holderRow{
			Ref: ref(h.ID), ID: text(h.ID), Owner: owner(h.ID, h.Owner),
			Held: span.Text(now.Sub(since[h.ID])), Lease: lease(h.Remaining),
		})
	}
	waiting, more := firstRows(s.Waiting)
	view.MoreWaiting = s.MoreWaiting + more
	for _, w := range waiting {
		view.Waiting = append(view.Waiting, waiterRow{
			ID: text(w.ID), Owner: owner(w.ID, w.Owner), Mode: w.Mode.String(), For: span.Text(w.For),
		})
	}
	return view
}

// firstRows returns the rows that a page shows, and the number of the others.
func firstRows[T any](rows []T) (first []T, more int) {
	n := min(len(rows), mostRows)
	return rows[:n], len(rows) - n
}

// ref returns s in a form that survives a URL, whatever its bytes are.
func ref(s string) string {
	if len(s) > mostRef {
		return ""
	}
	return url.QueryEscape(s)
}

// text returns s for people. A text with bytes that no screen shows, or that change
// how the rest of a line reads, is quoted as in Go.
func text(s string) string { return textTo(mostText, s) }

// textTo returns the text of s, or of its first characters.
func textTo(most int, s string) string {
	cut, rest := s, ""
	for count, i := 0, 0; i < len(s); count++ {
		if count == most {
			cut, rest = s[:i], "…"
			break
		}
		_, size := utf8.DecodeRuneInString(s[i:])
		i += size
	}
	plain := utf8.ValidString(cut) && !strings.HasPrefix(cut, `"`) &&
		strings.IndexFunc(cut, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	if plain && cut != "" {
		return cut + rest
	}
	return strconv.Quote(cut) + rest
}

// owner returns the name of a holder or waiter: its owner, or its ID if the owner is
// not known.
func owner(id, owner string) string {
	if owner == "" {
		return "ID " + text(id)
	}
	return text(owner)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	line := strings.Join(strings.Fields(err.Error()), " ")
	return textTo(mostNews, strings.TrimPrefix(line, "warlock: "))
}

// lease returns what is left of a lease.
func lease(d time.Duration) string {
	if d < 0 {
		return "no end"
	}
	return span.Text(d)
}
