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
	start time.Time // this process's time counts from then: it does not step with the wall clock

	mu      sync.Mutex // guards the following
	offsets []offset   // of each server
}

// newClock returns the clock of so many servers. start is the present time.
func newClock(servers int, start time.Time) clock {
	return clock{start: start, offsets: make([]offset, servers)}
}

// local returns the time of this process that time.Now returned as now. If somebody sets the
// wall clock, local goes on as before.
func (c *clock) local(now time.Time) time.Time { return c.start.Round(0).Add(now.Sub(c.start)) }

// An offset is how far a server's clock is ahead of this process's. The server read its
// clock at some time between the request and its answer. So the offset is wrong by half of
// that time at most.
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
	o := offset{by: told.Sub(c.local(now).Add(-half)), wrong: half, at: now}
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
	var known []time.Duration
	for _, o := range c.offsets {
		if !o.at.IsZero() {
			known = append(known, o.by)
		}
	}
	now := c.local(time.Now())
	if len(known) > 0 {
		slices.Sort(known)
		now = now.Add(known[min(len(c.offsets)/2, len(known)-1)])
	}
	return now.UnixMicro()
}

// token returns a token above floor.
func (c *clock) token(floor int64) int64 { return max(c.now(), floor+1) }

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
