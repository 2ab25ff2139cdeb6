package quorum

import (
	"slices"
	"sync"
	"time"
)

// A clock tells the time of the servers of a quorum, for the tokens and places that a
// client proposes: the earliest time that a majority of the servers have reached. So
// the clocks of clients do not matter, nor those of a minority of the servers. Two
// processes differ by about a round trip.
type clock struct {
	mu      sync.Mutex // guards the following
	offsets []offset   // of each server
	last    int64      // the last token
}

// An offset is how far a server's clock is ahead of this process's.
type offset struct {
	by    time.Duration
	known bool
}

// heard notes the time that a server told in its answer, now.
func (c *clock) heard(server int, told time.Time) {
	if told.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offsets[server] = offset{told.Sub(time.Now()), true}
}

// now returns the time of the servers, in microseconds of Unix time.
func (c *clock) now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *clock) nowLocked() int64 {
	var known []time.Duration
	for _, o := range c.offsets {
		if o.known {
			known = append(known, o.by)
		}
	}
	now := time.Now()
	if len(known) > 0 {
		slices.Sort(known)
		now = now.Add(known[min(len(c.offsets)/2, len(known)-1)])
	}
	return now.UnixMicro()
}

// token returns a token above floor, and above each that this process has proposed.
func (c *clock) token(floor int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.nowLocked(), c.last+1, floor+1)
	return c.last
}

// known returns of how many servers the time is known.
func (c *clock) known() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.offsets {
		if o.known {
			n++
		}
	}
	return n
}
