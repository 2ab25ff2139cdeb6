package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/span"
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
	return "for " + lasts(d) + " more"
}

// lasts returns how long a lease lives, for a table: no longer than it does.
func lasts(d time.Duration) string {
	if d < 0 {
		return "for ever"
	}
	return span.Text(d.Truncate(time.Second / 10))
}
