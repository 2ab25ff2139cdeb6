package top

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"github.com/warlock-go/warlock"
)

// longestText is how much of a key or an owner is looked at (bytes). No terminal is
// so wide.
const longestText = 512

// quote returns text so that a terminal can show it. A stranger may have chosen the
// text: if it has a character that is not printable, it is quoted as in Go.
func quote(text string) string {
	cut := text
	if len(cut) > longestText {
		cut = cut[:longestText]
		for !utf8.ValidString(cut) && len(cut) > longestText-utf8.UTFMax {
			cut = cut[:len(cut)-1]
		}
	}
	quoted := strconv.Quote(cut)
	plain := quoted == `"`+cut+`"` && cut != "" && strings.TrimSpace(cut) == cut
	switch {
	case plain:
		quoted = cut
	case len(cut) < len(text):
		quoted = strings.TrimSuffix(quoted, `"`)
	}
	if len(cut) < len(text) {
		quoted += ellipsis
	}
	return quoted
}

// clean returns the text of err in one line, without unprintable characters.
func clean(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	text = strings.TrimPrefix(text, "warlock: ")
	if len(text) > longestText {
		text = text[:longestText]
	}
	var b strings.Builder
	for _, r := range text {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// ellipsis stands for the part of a text for which there is no room.
const ellipsis = "…"

// cut shortens text to width cells of a terminal.
func cut(text string, width int) string {
	return ansi.Truncate(text, max(width, 0), ellipsis)
}

// fit brings text to width cells of a terminal.
func fit(text string, width int, right bool) string {
	text = cut(text, width)
	space := strings.Repeat(" ", max(width-ansi.StringWidth(text), 0))
	if right {
		return space + text
	}
	return text + space
}

// span returns a duration in six cells at most.
func span(d time.Duration) string {
	d = max(d, 0)
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours())
	switch {
	case seconds < 10:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case minutes < 1:
		return fmt.Sprintf("%ds", seconds)
	case hours < 1:
		return fmt.Sprintf("%dm%02ds", minutes, seconds%60)
	case hours < 100:
		return fmt.Sprintf("%dh%02dm", hours, minutes%60)
	case hours < 2400:
		return fmt.Sprintf("%dd%02dh", hours/24, hours%24)
	}
	return fmt.Sprintf("%dd", hours/24)
}

// count returns a number of things.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// name returns the owner of an ID, or else the first part of the ID.
func name(owner, id string) string {
	if owner != "" {
		return quote(owner)
	}
	if part, _, _ := strings.Cut(id, "-"); part != "" {
		return quote(part)
	}
	return quote(id)
}

// holders names the first holder, and counts the others.
func holders(s warlock.Status) string {
	if len(s.Holders) == 0 {
		return "-"
	}
	text := name(s.Holders[0].Owner, s.Holders[0].ID)
	if others := len(s.Holders) - 1 + s.MoreHolders; others > 0 {
		text += " +" + strconv.Itoa(others)
	}
	return text
}

// lease returns what is left of the lease of a holder.
func lease(h warlock.Holder) string {
	if h.Remaining < 0 {
		return "never"
	}
	return span(h.Remaining)
}
