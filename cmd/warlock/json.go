package main

import (
	"time"

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
}

type holderJSON struct {
	ID        string  `json:"id"`
	Owner     string  `json:"owner"`
	Remaining float64 `json:"remaining"` // -1: the lease never ends
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
		Waiting: []waiterJSON{}, MoreWaiting: s.MoreWaiting,
	}
	for _, h := range s.Holders {
		l.Holders = append(l.Holders, holderJSON{h.ID, h.Owner, seconds(h.Remaining)})
	}
	for _, w := range s.Waiting {
		l.Waiting = append(l.Waiting, waiterJSON{w.ID, w.Owner, w.Mode.String(), w.For.Seconds()})
	}
	return l
}

// seconds returns what is left of a lease in seconds, and -1 if it never ends.
func seconds(d time.Duration) float64 {
	if d < 0 {
		return -1
	}
	return d.Seconds()
}
