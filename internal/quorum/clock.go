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

// An offset is how far a server's clock is ahead of this process's. The server read its
// clock at some time between the request and its answer: that is as wrong as it can be.
type offset struct {
	by    time.Duration
	wrong time.Duration // by that at most, when it was heard
	at    time.Time     // when it was heard; zero: never
}

// drift is how far two clocks drift apart in a unit of time, at most.
const drift = 1.0 / 1024

// wrongAt returns by how much the offset may be wrong by now.
func (o offset) wrongAt(now time.Time) time.Duration {
	return o.wrong + time.Duration(float64(now.Sub(o.at))*drift)
}

// heard notes the time that a server told in the answer to a request, now. A better answer
// from before stays, unless the clock has leapt since (as NTP's clock filter has it, RFC
// 5905).
func (c *clock) heard(server int, told, sent time.Time) {
	if told.IsZero() {
		return
	}
	now := time.Now()
	half := now.Sub(sent) / 2
	o := offset{by: told.Sub(now.Add(-half)), wrong: half, at: now}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.offsets[server]
	wrong := before.wrongAt(now)
	if before.at.IsZero() || o.wrong <= wrong || (o.by-before.by).Abs() > o.wrong+wrong {
		c.offsets[server] = o
	}
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
		if !o.at.IsZero() {
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
		if !o.at.IsZero() {
			n++
		}
	}
	return n
}
