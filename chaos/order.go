package main

import (
	"cmp"
	"slices"
	"time"
)

// An arrival is an acquisition that queued in Redis: one ID, whose first holder was granted
// the lock by it.
type arrival struct {
	op            *op
	sent, refused instant // its first request
	live          bool    // it asked again in time, until it was granted the lock
}

// arrivals returns those of a key that were granted the lock.
func (h *history) arrivals(key int) (as []*arrival) {
	first := make(map[string]*op)
	for _, o := range h.of(key) {
		if known := first[o.ID]; known == nil || o.Token < known.Token {
			first[o.ID] = o
		}
	}
	asked := make(map[string][]*request)
	for _, q := range h.Requests {
		if q.Key == key && q.Script == acquire {
			asked[q.ID] = append(asked[q.ID], q)
		}
	}
	for id, o := range first {
		qs := asked[id]
		if len(qs) == 0 {
			continue
		}
		a := &arrival{op: o, sent: qs[0].Sent, live: true}
		seen := qs[0] // the last that was answered
		for _, q := range qs {
			if q.Answer == unknown || q.Sent > o.Granted {
				continue
			}
			if a.refused == 0 && q.Answer == no && q.Queues {
				a.refused = q.Replied
			}
			a.live = a.live && q.Replied.since(seen.Sent) < h.TTL
			seen = q
		}
		a.live = a.live && o.Granted.since(seen.Sent) < h.TTL && qs[0].Answer != unknown
		as = append(as, a)
	}
	slices.SortFunc(as, func(a, b *arrival) int { return cmp.Compare(a.op.Token, b.op.Token) })
	return as
}

// settle is how long a fault may be felt after it is over.
func (h *history) settle() instant { return instant(3 * h.TTL / 2) }

// judgeOrder finds processes that were granted the lock before one that had been in the queue
// before they asked. Tokens tell the order of grants, but not among readers, that hold together: one that asks
// again, not knowing that it was granted the lock, is given a new one. It returns how many pairs it could judge.
func judgeOrder(h *history) (found []violation, pairs int) {
	f := &finding{judge: "order"}
	for key := range h.Keys {
		as := h.arrivals(key)
		for i, b := range as {
			for _, a := range as[:i] { // granted before b
				if a.op.Process == b.op.Process || a.op.Read && b.op.Read {
					continue
				}
				if a.refused != 0 && a.refused < b.sent {
					pairs++ // in order
				}
				late := b.refused != 0 && b.refused < a.sent && b.live
				if late && !h.excused(b.op.Slot, troubles, b.sent-h.settle(), b.op.Granted) {
					pairs++
					f.add(key, "%s had queued %v before %s asked, and was granted the lock after it",
						b.op, a.sent.since(b.refused), a.op)
				}
			}
		}
	}
	return f.violations, pairs
}

// localSlack is by how much one goroutine must have called before another for their order to be known.
const localSlack = 50 * time.Millisecond

// judgeTurns finds goroutines that were granted the lock before another of their process that had called before.
func judgeTurns(h *history) (found []violation, pairs int) {
	f := &finding{judge: "turns"}
	byTurn := make(map[[2]int][]*op)
	for _, o := range h.Ops {
		if o.granted() && !o.Try && o.Kind != fresh {
			id := [2]int{o.Process, o.Key}
			byTurn[id] = append(byTurn[id], o)
		}
	}
	for _, ops := range byTurn { // in the order of their calls
		for i, b := range ops {
			for _, a := range ops[:i] {
				if b.Called.since(a.Called) < localSlack || a.Granted < b.Called {
					continue
				}
				pairs++
				passed := b.Granted < a.Granted && !(a.Read && b.Read)
				if passed && !h.excused(a.Slot, troubles, a.Called-h.settle(), a.Granted) {
					f.add(a.Key, "%s called %v before %s, and was granted the lock after it", a, b.Called.since(a.Called), b)
				}
			}
		}
	}
	return f.violations, pairs
}

// A gap is a time for which nobody held a lock though somebody waited for it.
type gap struct {
	op   *op // granted the lock at the end of it
	from instant
	last *op  // that held before; nil: none
	dead bool // one that held before did nothing any more, and its lease had not run out
}

func (g gap) long() time.Duration { return g.op.Granted.since(g.from) }

// gaps returns those of a key.
func (h *history) gaps(key int) (gaps []gap) {
	type hold struct {
		op  *op
		end instant
	}
	var last hold      // of those that have left
	var holding []hold // the others, of those that were granted the lock before
	var dead instant   // until when a lease lasts that nobody minds any more
	for _, o := range h.of(key) {
		holding = slices.DeleteFunc(holding, func(b hold) bool {
			if b.end > o.Granted {
				return false
			}
			if b.end > last.end {
				last = b
			}
			if b.end != b.op.Unlock {
				dead = max(dead, h.runsOut(b.op))
			}
			return true
		})
		if len(holding) == 0 && !o.Try {
			from := max(o.Called, last.end)
			gaps = append(gaps, gap{op: o, from: from, last: last.op, dead: dead > from})
		}
		holding = append(holding, hold{o, h.leaves(o)})
	}
	return gaps
}

// leaves is left, or when the process was stopped while it held, after which it may do nothing.
func (h *history) leaves(o *op) instant {
	end := h.left(o)
	for _, e := range h.Effects {
		if e.Does&(halts|ends) == halts && e.touches(o.Slot) && e.Start >= o.Granted {
			end = min(end, e.Start)
		}
	}
	return end
}

// little is the time by which a crash may cost more than its ttl.
const little = 200 * time.Millisecond

// judgeIdle finds locks that nobody held for too long while somebody waited. When holders
// or waiters were stopped, one ttl may pass for a holder and another for the first of the waiters: the others are
// known to be dead by then. When nothing was wrong, a waiter that was not told asks after a third of its ttl. While servers
// refuse to write, no release can succeed. So that time is not counted, and all later time is.
func judgeIdle(h *history) []violation {
	f := &finding{judge: "idle"}
	for key := range h.Keys {
		for _, g := range h.gaps(key) {
			begin, end := g.from-h.settle(), g.op.Granted
			idle := end.since(h.writable(g.from, end))
			limit := h.TTL / 2
			if h.hit(halts, begin, end) {
				limit = h.TTL + little
				if g.dead {
					limit += h.TTL
				}
			}
			if idle > limit && !h.hit(delays|loses, begin, end) && !h.excused(g.op.Slot, halts, g.from, end) {
				f.add(key, "nobody held the lock for %v, more than %v, before %s", idle, limit, g.op)
			}
		}
	}
	return f.violations
}

// writable returns the end of the last time, between a and b, for which servers refused to write; a if they never did.
func (h *history) writable(a, b instant) instant {
	for _, e := range h.Effects {
		if e.Does&refuses != 0 && e.Start <= b {
			a = max(a, min(e.End, b))
		}
	}
	return a
}

// judgeCrashes finds holders after whose death the next was granted the lock later than a ttl and a little, where
// one waited by then and nothing else was wrong. It returns how long each took.
func judgeCrashes(h *history) (found []violation, took []time.Duration) {
	f := &finding{judge: "crash"}
	for key := range h.Keys {
		for _, g := range h.gaps(key) {
			if g.last == nil || h.Processes[g.last.Process].Ended != g.from {
				continue
			}
			if h.hit(slows|loses, g.from-h.settle(), g.op.Granted) || h.excused(g.op.Slot, halts, g.from, g.op.Granted) {
				continue
			}
			took = append(took, g.long())
			limit := h.TTL + little
			if !h.Counted { // the first of the dead waiters may have been granted it
				limit += h.TTL
			}
			if g.long() > limit {
				f.add(key, "%v passed from the death of %s to %s", g.long(), g.last, g.op)
			}
		}
	}
	return f.violations, took
}

// handOffs returns how long each took: the time from the answer to the release of one writer to the return of the next, who had
// queued before; and how many were slow.
func (h *history) handOffs() (took []time.Duration, slow int) {
	for key := range h.Keys {
		released := make(map[string]*request)
		for _, q := range h.Requests {
			if q.Key == key && q.Script == release && q.Answer == yes {
				released[q.ID] = q
			}
		}
		as := h.arrivals(key)
		for i, b := range as {
			if i == 0 || b.refused == 0 || as[i-1].op.Read {
				continue
			}
			q := released[as[i-1].op.ID]
			if q == nil || q.Sent < b.refused || q.Replied > b.op.Granted || h.hit(troubles, q.Sent-h.settle(), b.op.Granted) {
				continue
			}
			d := b.op.Granted.since(q.Replied)
			took = append(took, d)
			if d > slowHandOff {
				slow++
			}
		}
	}
	return took, slow
}

// slowHandOff is more than a hand-off takes if the one who was granted the lock is told, also where lines are
// slow, and less than one mostly takes if it has to ask: that is up to a third of the ttl.
const slowHandOff = 75 * time.Millisecond

// judgeHandOffs finds that those who were granted a lock were not told of it, too often.
func judgeHandOffs(h *history) (found []violation, took []time.Duration) {
	f := &finding{judge: "hand-off"}
	took, slow := h.handOffs()
	if slow > 2+len(took)/50 {
		f.add(allKeys, "%d of %d hand-offs took longer than %v", slow, len(took), slowHandOff)
	}
	return f.violations, took
}
