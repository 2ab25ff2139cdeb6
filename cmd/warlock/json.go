package main

import (
	"encoding/hex"
	"time"
	"unicode/utf8"

	"github.com/warlock-go/warlock"
)

// A lockJSON is a warlock.Status as JSON. Times are in seconds.
type lockJSON struct {
	Key         string       `json:"key"`
	Mode        string       `json:"mode"`
	Holders     []holderJSON `json:"holders"`
	MoreHolders int          `json:"moreholders"`
	Waiting     []waiterJSON `json:"waiting"`
	MoreWaiting int          `json:"morewaiting"`
	Fence       int64        `json:"fence"`

	// KeyHex has the bytes of a key that is not UTF-8. Key shows them as JSON can.
	KeyHex string `json:"keyhex,omitempty"`
}

type holderJSON struct {
	ID        string  `json:"id"`
	Owner     string  `json:"owner"`
	Remaining float64 `json:"remaining"`       // -1: the lease never ends
	IDHex     string  `json:"idhex,omitempty"` // as KeyHex
}

type waiterJSON struct {
	ID    string  `json:"id"`
	Owner string  `json:"owner"`
	Mode  string  `json:"mode"`
	For   float64 `json:"for"`
}

// statusJSON returns s as JSON has it.
func statusJSON(s warlock.Status) lockJSON {
	l := lockJSON{
		Key: s.Key, Mode: s.Mode.String(), Fence: s.Fence,
		Holders: []holderJSON{}, MoreHolders: s.MoreHolders,
		Waiting: []waiterJSON{}, MoreWaiting: s.MoreWaiting, KeyHex: hexOf(s.Key),
	}
	for _, h := range s.Holders {
		l.Holders = append(l.Holders, holderJSON{h.ID, h.Owner, seconds(h.Remaining), hexOf(h.ID)})
	}
	for _, w := range s.Waiting {
		l.Waiting = append(l.Waiting, waiterJSON{w.ID, w.Owner, w.Mode.String(), w.For.Seconds()})
	}
	return l
}

// hexOf returns the bytes of text in hexadecimal digits if JSON would change them.
func hexOf(text string) string {
	if utf8.ValidString(text) {
		return ""
	}
	return hex.EncodeToString([]byte(text))
}

// seconds returns what is left of a lease in seconds, and -1 if it never ends.
func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}
