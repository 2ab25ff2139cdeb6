package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/warlock-go/warlock"
)

// plain returns text from Redis for a terminal: as it is, or in quotes if it has
// characters that are not printable, or a space.
func plain(text string) string {
	quoted := strconv.Quote(text)
	if text != "" && quoted == `"`+text+`"` && !strings.Contains(text, " ") {
		return text
	}
	return quoted
}

// who returns whom an ID names, or the ID.
func who(owner, id string) string {
	if owner != "" {
		return plain(owner)
	}
	const most = 48
	if len(id) > most {
		return plain(id[:most]) + "..."
	}
	return plain(id)
}

// holderText describes a holder.
func holderText(h warlock.Holder) string {
	return who(h.Owner, h.ID) + " " + left(h.Remaining)
}

// left says how long a lease lives.
func left(d time.Duration) string {
	if d < 0 {
		return "for ever"
	}
	return "for " + short(d) + " more"
}

// short returns d for people: three digits at most, and a unit.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return strconv.Itoa(int(d.Milliseconds())) + " ms"
	case d < 100*time.Second:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', 1, 64) + " s"
	case d < 100*time.Minute:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 100*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

// lasts returns how long a lease lives, for a table.
func lasts(d time.Duration) string {
	if d < 0 {
		return "for ever"
	}
	return short(d)
}
