package judge

import (
	"cmp"
	"slices"
	"time"
)

// An arrival is an acquisition that asked Redis and was granted the lock. Its
// op is the first that held under the acquisition's ID.
type arrival struct {
	op      *Op
	sent    Instant // the first request
	refused Instant // its first refusal that queued, on a majority of the servers; 0: none
	live    bool    // it asked a majority again in time until it was granted the lock
}

// arrivals returns the arrivals of a key, in the order of their tokens.
func (h *History) arrivals(key int) (as []*arrival) {
	first := make(map[string]*Op) // by ID
	for _, o := range h.grantsOf(key) {
		if known := first[o.ID]; known == nil || o.Token < known.Token {
			first[o.ID] = o
		}
	}
	asked := make(map[string][]*Request) // by ID
	for _, q := range h.Requests {
		if q.Key == key && q.Script == Acquire {
			asked[q.ID] = append(asked[q.ID], q)
		}
	}
	for id, o := range first {
		if len(asked[id]) > 0 {
			as = append(as, h.arrival(o, asked[id]))
		}
	}
	slices.SortFunc(as, func(a, b *arrival) int { return cmp.Compare(a.op.Token, b.op.Token) })
	return as
}

// arrival returns the arrival of o, which sent the requests. It has queued, and has
// asked again in time, if that is so on a majority of the servers. It counts as sent when
// the first server was asked.
func (h *History) arrival(o *Op, requests []*Request) *arrival {
	a := &arrival{op: o, sent: requests[0].Sent}
	refused, refusedLive := h.newPerServer(), h.newPerServer()
	live := 0
	for server, requests := range h.byServer(requests) {
		if len(requests) == 0 {
			continue
		}
		at := h.arrivalAt(o, requests)
		refused[server] = at.refused
		if at.live {
			refusedLive[server] = at.refused
			live++
		}
	}
	a.refused, a.live = h.atMost(refused), live >= h.majority()
	if h.Servers > 0 {
		queued := h.atMost(refusedLive)
		a.refused, a.live = cmp.Or(queued, a.refused), queued != 0
	}
	return a
}

// arrivalAt is arrival for one server.
func (h *History) arrivalAt(o *Op, requests []*Request) *arrival {
	a := &arrival{op: o, sent: requests[0].Sent, live: requests[0].Answer != Unknown}
	answered := requests[0] // the last that was answered
	for _, q := range requests {
		if q.Answer == Unknown || q.Sent > o.Granted {
			continue
		}
		if a.refused == 0 && q.Answer == No && q.Queues {
			a.refused = q.Replied
		}
		a.live = a.live && q.Replied.Since(answered.Sent) < h.TTL
		answered = q
	}
	a.live = a.live && o.Granted.Since(answered.Sent) < h.TTL
	return a
}

// judgeOrder finds processes that were granted the lock too early. Another
// process had queued before they asked, and was granted the lock after them.
//
// Tokens tell the order of grants, but not among readers that hold together: a
// reader that asks again after its grant gets a new token. judgeOrder also
// returns how many pairs it judged.
//
// In a quorum, a process that called more than placeSlack later has a later place on
// each server, if it knows the time of the servers. The servers on which b queued
// refuse it: they are a majority, so it gets no other one. That needs none of them to
// lose its waiters.
func judgeOrder(h *History) (found []Violation, pairs int) {
	f := &Findings{Judge: "order"}
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
				passed := b.refused != 0 && b.refused.Add(h.placeSlack()) < h.placed(a) && b.live &&
					h.knowsTime(a.op, a.sent)
				if passed && !h.excused(b.op.Slot, breaksOrder, b.sent-h.aftermath(), b.op.Granted) {
					pairs++
					f.Add(key, "%s had queued %v before %s asked, and was granted the lock after it",
						b.op, a.sent.Since(b.refused), a.op)
				}
			}
		}
	}
	return f.Violations, pairs
}

// turnSlack is how much earlier one goroutine must have called than another.
// Only then is their order known.
const turnSlack = 50 * time.Millisecond

// judgeTurns finds goroutines that were granted the lock before another
// goroutine of their process that had called earlier.
func judgeTurns(h *History) (found []Violation, pairs int) {
	f := &Findings{Judge: "turns"}
	byLock := make(map[[2]int][]*Op) // by process and key; in the order of their calls
	for _, o := range h.Ops {
		if o.granted() && !o.Try && !o.Single && !o.Many {
			id := [2]int{o.Process, o.Key}
			byLock[id] = append(byLock[id], o)
		}
	}
	for _, ops := range byLock {
		for i, b := range ops {
			for _, a := range ops[:i] {
				lead := b.Called.Since(a.Called)
				if lead < turnSlack || a.Granted < b.Called {
					continue
				}
				pairs++
				passed := b.Granted < a.Granted && !(a.Read && b.Read)
				if passed && !h.excused(a.Slot, anyTrouble, a.Called-h.aftermath(), a.Granted) {
					f.Add(a.Key, "%s called %v before %s, and was granted the lock after it", a, lead, b)
				}
			}
		}
	}
	return f.Violations, pairs
}
