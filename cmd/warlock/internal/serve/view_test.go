package serve

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

func TestText(t *testing.T) {
	long := strings.Repeat("ü", mostText)
	for s, want := range map[string]string{
		"invoice:42":      "invoice:42",
		"größe/1 <b>&amp": "größe/1 <b>&amp",
		"":                `""`,
		"a\x00b":          `"a\x00b"`,
		"a\xffb":          `"a\xffb"`,
		"a\nb":            `"a\nb"`,
		"a\u202eb":        `"a\u202eb"`, // turns the direction of what follows
		`"a"`:             `"\"a\""`,
		long:              long,
		long + "x":        long + "…",
		long + "\xff":     long + "…",
	} {
		if got := text(s); got != want {
			t.Errorf("text(%q) = %q, want %q", s, got, want)
		}
	}
}

// everyByte has all bytes, and more than one kind of text.
func everyByte() string {
	var b strings.Builder
	for c := range 256 {
		b.WriteByte(byte(c))
	}
	return b.String() + "a/b?c=d&key=e#f%00%zz+ü漢 "
}

func TestRefSurvivesAnAddress(t *testing.T) {
	for _, key := range []string{"invoice:42", "", "\x00", everyByte()} {
		what, err := subjectOf("x=1&key=" + ref(key))
		if err != nil || what.list || what.key != key {
			t.Errorf("%q came back as %q: %v", key, what.key, err)
		}
		u, err := url.Parse("http://localhost:7379/lock?key=" + ref(key))
		if err != nil || u.Query().Get("key") != key {
			t.Errorf("%q does not survive a URL: %v", key, err)
		}
	}
	if ref(strings.Repeat("x", mostRef+1)) != "" {
		t.Error("a page refers to a key of any length")
	}
	if _, err := subjectOf("key=%zz"); err == nil {
		t.Error("a broken query is read")
	}
	if what, err := subjectOf(""); err != nil || !what.list {
		t.Errorf("no key means %v, %v", what, err)
	}
}

func TestRowsOfAList(t *testing.T) {
	now := time.Now()
	waiting := []warlock.Waiter{{For: 9 * time.Second}, {For: time.Second}}
	readers := []warlock.Holder{{ID: "x", Owner: "web-1/7", Remaining: 8 * time.Second}, {ID: "y"}}
	s := board.Snapshot{At: now, Found: now, More: 3, Locks: []board.Lock{
		{Since: now.Add(-time.Minute), Status: warlock.Status{
			Key: "a b", Mode: warlock.ModeRead, Holders: readers, MoreHolders: 1,
			Waiting: waiting, MoreWaiting: 5,
		}},
		{Since: now, Status: warlock.Status{
			Key: "b", Mode: warlock.ModeWrite, Holders: []warlock.Holder{{ID: "plain", Remaining: -1}},
		}},
		{Status: warlock.Status{Key: "c", Waiting: waiting[:1]}},
	}}
	view := viewOfList(s)
	want := []lockRow{
		{"a+b", "a b", "read", "web-1/7 and 2 more", "1 min 0 s", "8.0 s", 7, "9.0 s"},
		{"b", "b", "write", "ID plain", "0.0 s", "no end", 0, ""},
		{"c", "c", "free", "", "", "", 1, "9.0 s"},
	}
	for i, row := range want {
		if view.Locks[i] != row {
			t.Errorf("row %d is %+v, want %+v", i, view.Locks[i], row)
		}
	}
	if view.More != 3 || view.Error != "" || view.Old {
		t.Errorf("%d more, error %q, old: %v", view.More, view.Error, view.Old)
	}
}

// TestOldListKeepsItsTimes shows what an earlier look has found.
func TestOldListKeepsItsTimes(t *testing.T) {
	found := time.UnixMilli(1000)
	s := board.Snapshot{At: found.Add(time.Minute), Found: found, Locks: []board.Lock{
		{Since: found.Add(-time.Second), Status: warlock.Status{
			Key: "a", Holders: []warlock.Holder{{ID: "x"}},
		}},
	}}
	s.Err = errors.New("warlock: list \"*\":\n no route")
	v := viewOfList(s)
	if !v.Old || v.At != 1000 || v.Locks[0].Held != "1.0 s" || v.Error != `list "*": no route` {
		t.Errorf("%+v", v)
	}
	if v := viewOfList(board.Snapshot{At: found, Err: s.Err}); !v.Old || v.At != 0 {
		t.Errorf("before anything was found: %+v", v)
	}
}

func TestViewOfALockIsBounded(t *testing.T) {
	s := warlock.Status{
		Key: "k", Holders: make([]warlock.Holder, 1000), MoreHolders: 5,
		Waiting: make([]warlock.Waiter, 1000), MoreWaiting: 7, Fence: 1 << 60,
	}
	v := viewOfLock(s, nil, time.Now())
	if len(v.Holders) != mostRows || v.MoreHolders != 1005-mostRows {
		t.Errorf("%d holders and %d more", len(v.Holders), v.MoreHolders)
	}
	if len(v.Waiting) != mostRows || v.MoreWaiting != 1007-mostRows {
		t.Errorf("%d waiters and %d more", len(v.Waiting), v.MoreWaiting)
	}
	if v.Fence != "1152921504606846976" {
		t.Errorf("token %q", v.Fence)
	}
}

func TestStillSeen(t *testing.T) {
	first, now := time.Unix(1, 0), time.Unix(9, 0)
	before := map[string]time.Time{"a": first, "gone": first}
	since := stillSeen(before, []warlock.Holder{{ID: "a"}, {ID: "b"}}, now)
	if len(since) != 2 || since["a"] != first || since["b"] != now {
		t.Errorf("since %v", since)
	}
}
