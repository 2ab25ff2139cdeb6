package top

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"github.com/warlock-go/warlock"
)

func TestQuote(t *testing.T) {
	for text, want := range map[string]string{
		"invoice:42":         "invoice:42",
		"日本語":                "日本語",
		"é":                  "é",
		"a b":                "a b",
		"":                   `""`,
		" a":                 `" a"`,
		`"a"`:                `"\"a\""`,
		`a\b`:                `"a\\b"`,
		"a\x1b[31mb":         `"a\x1b[31mb"`,
		"a\x9b31mb":          `"a\x9b31mb"`,
		"a\u009b31mb":        `"a\u009b31mb"`,
		"a\nb":               `"a\nb"`,
		"a\u202eb":           `"a\u202eb"`, // right to left from here
		"a\u200bb":           `"a\u200bb"`,
		"a\xffb":             `"a\xffb"`,
		"\ufffd":             `�`,
		"a\u00a0b":           `"a\u00a0b"`,
		"ESC]0;title\x07":    `"ESC]0;title\a"`,
		"\x1b]8;;http://x\a": `"\x1b]8;;http://x\a"`,
	} {
		if got := quote(text); got != want {
			t.Errorf("quote(%q) = %s, want %s", text, got, want)
		}
	}
	for _, part := range []string{"a", "語", "\x1b", "\xff"} {
		got := quote(strings.Repeat(part, 1<<20))
		if !strings.HasSuffix(got, ellipsis) || len(got) > 5*longestText || !utf8.ValidString(got) {
			t.Errorf("many %q become %.20s of %d bytes", part, got, len(got))
		}
	}
}

func TestClean(t *testing.T) {
	err := errors.New("warlock: list \"\x1b[2J\":\n  bad \xff\u202e thing")
	if got, want := clean(err), `list "\x1b[2J": bad �\u202e thing`; got != want {
		t.Errorf("clean = %s, want %s", got, want)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		right bool
		want  string
	}{
		{"abc", 5, false, "abc  "}, {"abc", 5, true, "  abc"}, {"abcdef", 5, false, "abcd…"},
		{"日本語", 6, false, "日本語"}, {"日本語", 5, false, "日本…"},
		{"日本語", 4, false, "日… "},
		{"abc", 0, false, ""}, {"abc", 1, false, "…"}, {"abc", -1, false, ""},
	} {
		if got := fit(c.text, c.width, c.right); got != c.want {
			t.Errorf("fit(%q, %d, %v) = %q, want %q", c.text, c.width, c.right, got, c.want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0.0s", 0: "0.0s", 9990 * time.Millisecond: "9.9s", 10 * time.Second: "10s",
		59*time.Second + 999*time.Millisecond: "59s", 61 * time.Second: "1m01s",
		99*time.Hour + 59*time.Minute: "99h59m", 100 * time.Hour: "4d04h",
		99*24*time.Hour + 23*time.Hour: "99d23h",
		365 * 24 * time.Hour:           "365d",
	} {
		if got := span(d); got != want || ansi.StringWidth(got) > 6 {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ owner, id, want string }{
		{"web-3/4711", "x", "web-3/4711"}, {"", "018f-4c94", "018f"}, {"", "token", "token"},
		{"", "-x", "-x"}, {"", "\x1b[2J-x", `"\x1b[2J"`}, {"", "", `""`},
	} {
		if got := name(c.owner, c.id); got != c.want {
			t.Errorf("name(%q, %q) = %s, want %s", c.owner, c.id, got, c.want)
		}
	}
	s := warlock.Status{Holders: []warlock.Holder{{Owner: "a"}, {Owner: "b"}}, MoreHolders: 3}
	if got := holders(s); got != "a +4" {
		t.Errorf("holders: %s", got)
	}
	if got := lease(warlock.Holder{Remaining: -1}); got != "never" {
		t.Errorf("a lease without an end: %s", got)
	}
}
