package judge

import (
	"cmp"
	"slices"
	"time"
)

// A gap is a time in which no op held a lock although one waited for it.
type gap struct {
	op   *Op // was granted the lock at the end of the gap
	from Instant
	last *Op // held before the gap; nil: none did
	// leased is how long into the gap the lease of a holder lasts that was dead or
	// stopped.
	leased time.Duration
	// lingered says that the gap begins when MinHold has passed, and not at an
	// unlock.
	lingered bool
}

func (g gap) length() time.Duration { return g.op.Granted.Since(g.from) }

// gaps returns the gaps of a key.
func (h *History) gaps(key int) (gaps []gap) {
	type hold struct {
		op  *Op
		end Instant
	}
	var last hold         // the hold that ended last
	var holding []hold    // holds that were granted earlier and have not ended
	var deadUntil Instant // the last expiry of a lease whose holder is dead or stopped
	for _, o := range h.grantsOf(key) {
		holding = slices.DeleteFunc(holding, func(b hold) bool {
			if b.end > o.Granted {
				return false
			}
			if b.end > last.end {
				last = b
			}
			if b.end != b.op.UnlockCalled {
				deadUntil = max(deadUntil, h.expiry(b.op))
			}
			return true
		})
		from := max(o.Called, last.end, h.freeInProcess(o))
		if len(holding) == 0 && !o.Try && !o.Many && !h.heldInPart(key, from, o.Granted) {
			lingers := h.lingersUntil(key, o.Granted)
			g := gap{op: o, from: max(from, lingers), last: last.op, lingered: lingers > from}
			g.leased = max(0, deadUntil.Since(g.from))
			gaps = append(gaps, g)
		}
		holding = append(holding, hold{o, h.holdEndOrStop(o)})
	}
	return gaps
}

// freeInProcess returns when the process of o could grant it the key: not
// before its other ops had unlocked, also when their leases were lost before.
func (h *History) freeInProcess(o *Op) (at Instant) {
	for _, b := range h.Ops {
		same := b != o && b.Process == o.Process && b.Key == o.Key
		if same && b.Lost != 0 && b.UnlockCalled <= o.Granted {
			at = max(at, b.UnlockCalled)
		}
	}
	return at
}

// heldInPart reports whether a call that locks several may have held a key
// between a and b, while it waited for another.
func (h *History) heldInPart(key int, a, b Instant) bool {
	return slices.ContainsFunc(h.Ops, func(o *Op) bool {
		end := cmp.Or(o.Granted, o.Refused, never)
		return o.Many && o.Key == key && o.Called < b && end > a.Add(-h.TTL)
	})
}

// crashSlack is how much more than its ttl a crash may cost.
const crashSlack = 200 * time.Millisecond

// judgeIdle finds locks that no op held for too long while one waited.
//
// If nothing was wrong, the limit is half a ttl: a waiter that got no message
// asks again after a third of its ttl. If processes were stopped or killed, a
// ttl and crashSlack may pass for the first of the waiters. By then the other
// dead waiters are known to be dead. One more ttl may pass for a dead holder.
// Processes that stop one after another may each cost a ttl.
//
// When MinHold has passed, the key expires, and no message wakes a waiter. The first
// waiter knows when to ask. If it has left the queue, the next one asks after a
// third of its ttl.
//
// No release succeeds while servers refuse to write, so that time does not
// count. All later time does.
//
// If each process has lost another minority of the servers, a holder may not reach a
// server to unlock, where the next waiter needs the lock. The lock runs out there a ttl
// later, and the waiter asks again.
//
// If messages are late, or servers may lose data, no limit holds. But in a quorum it
// holds from the end of the last such fault, and its aftermath, on. What hits a minority of
// the servers is no such fault.
func judgeIdle(h *History) []Violation {
	f := &Findings{Judge: "idle"}
	for key := range h.Keys {
		for _, g := range h.gaps(key) {
			begin, end := g.from-h.aftermath(), g.op.Granted
			idle := end.Since(h.writableFrom(g.from, end))
			limit := h.TTL / 2
			if h.Punctual && !g.lingered && h.wellBetween(g.from, end) {
				limit = punctualHandOff
			}
			if h.excusedAnywhere(HitsMinorities, begin, end) {
				limit = h.TTL + h.TTL/2
			}
			if h.excusedAnywhere(StopsProcess, begin, end) {
				limit = max(limit, h.TTL+crashSlack)
				if g.leased > 0 {
					limit += h.TTL
				}
				limit = max(limit, time.Duration(h.stops(begin, end))*h.TTL+crashSlack)
			}
			if g.leased > 0 { // an extended lease lasts for more than a ttl
				limit = max(limit, g.leased+crashSlack)
			}
			excused := h.excusedAnywhere(DelaysMessages|MayLoseData, begin, end) ||
				h.excused(g.op.Slot, StopsProcess, g.from, end)
			if h.Servers > 0 { // all time counts but that of the faults, and of what they leave
				idle = min(idle, end.Since(h.troubledUntil(g.op.Slot, begin, end)))
				excused = false
			}
			if idle > limit && !excused {
				f.Add(key, "no op held the lock for %v, more than %v, before %s", idle, limit, g.op)
			}
		}
	}
	return f.Violations
}

// troubledUntil returns until when a fault between a and b, or what it leaves, keeps the
// process of a slot from a lock. It returns a if there is none.
func (h *History) troubledUntil(slot int, a, b Instant) Instant {
	until := a
	for _, f := range h.Faults {
		troubles := f.Effects&(DelaysMessages|MayLoseData) != 0 ||
			f.Effects&StopsProcess != 0 && f.hits(slot)
		if troubles && f.overlaps(a, b) {
			until = max(until, f.End+h.aftermath())
		}
	}
	return until
}

// stops returns how many times processes were stopped or killed between a and b.
// Processes that a fault hits together count once.
func (h *History) stops(a, b Instant) (n int) {
	for _, f := range h.Faults {
		if f.Effects&StopsProcess != 0 && f.overlaps(a, b) {
			n++
		}
	}
	return n
}

// writableFrom returns when servers last stopped refusing to write, between a
// and b. It returns a if they never refused.
func (h *History) writableFrom(a, b Instant) Instant {
	for _, f := range h.Faults {
		if f.Effects&RefusesWrites != 0 && f.Start <= b {
			a = max(a, min(f.End, b))
		}
	}
	return a
}

// deafDeaths returns how many waiters for a key died up to a ttl before a, or
// until b, before their mailboxes were open. Redis cannot know that they are
// dead, and may grant each of them the lock.
func (h *History) deafDeaths(key int, a, b Instant) int {
	listened := make(map[string]perServer) // by ID: when it did
	for _, q := range h.Requests {
		ended := h.Processes[q.Process].Ended
		if q.Key == key && q.Queues && ended != 0 && ended > a.Add(-h.TTL) && ended <= b {
			if listened[q.ID] == nil {
				listened[q.ID] = h.newPerServer()
			}
			if q.Listens && q.Answer == No {
				listened[q.ID][q.Server] = q.Replied
			}
		}
	}
	n := 0
	for _, servers := range listened {
		if h.atMost(servers) == 0 {
			n++
		}
	}
	return n
}

// judgeCrashes finds dead holders whose lock was granted too late: more than a
// ttl and crashSlack after the death. It judges only if an op waited by then
// and nothing else was wrong. It also returns how long each lock took.
func judgeCrashes(h *History) (found []Violation, took []time.Duration) {
	f := &Findings{Judge: "crash"}
	for key := range h.Keys {
		for _, g := range h.gaps(key) {
			if g.last == nil || h.Processes[g.last.Process].Ended != g.from {
				continue
			}
			if h.excusedAnywhere(delaysGrants|MayLoseData, g.from-h.aftermath(), g.op.Granted) ||
				h.excused(g.op.Slot, StopsProcess, g.from, g.op.Granted) {
				continue
			}
			took = append(took, g.length())
			// An extended lease lives on for longer than a ttl.
			limit := max(h.TTL, h.expiry(g.last).Since(g.from)) + crashSlack
			if !h.PublishCounts { // the first of the dead waiters may have been granted the lock
				limit += h.TTL
			}
			limit += time.Duration(h.deafDeaths(key, g.from, g.op.Granted)) * h.TTL
			if g.length() > limit {
				f.Add(key, "%v passed from the death of %s to %s", g.length(), g.last, g.op)
			}
		}
	}
	return f.Violations, took
}
