package judge

import (
	"slices"
	"strings"
	"time"
)

// What a process does after a recall of a lease that it retained: unless the
// lease was used again paid times, it retains the lock only after coolDown.
const (
	paid     = 4
	coolDown = 10 * time.Millisecond
)

// InRedis returns the ID that a lease has in Redis. The ID of a hold that was handed
// off locally has the hold's token in it, after a point.
func InRedis(id string) string {
	unique, label, _ := strings.Cut(id, "/")
	unique, _, _ = strings.Cut(unique, ".")
	return unique + "/" + label
}

// retains reports whether the holder of an ID may retain the lock.
func retains(id string) bool {
	unique, _, _ := strings.Cut(id, "/") // the owner's label follows
	return strings.HasSuffix(unique, "r")
}

// mostHasty is how often a process may retain a lock again too soon. A lease may
// go back for another reason at the instant at which it is recalled.
const mostHasty = 2

// judgeRecalls finds processes that retain a lock again at once after others have
// asked for it.
func judgeRecalls(h *History) []Violation {
	f := &Findings{Judge: "recalls"}
	type lock struct{ process, key int }
	last, hasty := make(map[lock]Instant), make(map[lock]int)
	uses := h.usesOfLeases()
	if !h.Punctual { // a process may be late
		return nil
	}
	type step struct {
		id     string
		script Script
	}
	taken := make(map[step]bool)   // the first request of each counts: others go to other servers
	for _, q := range h.Requests { // in the order in which they were sent
		l, s := lock{q.Process, q.Key}, step{q.ID, q.Script}
		again := taken[s]
		taken[s] = true
		switch {
		case again || !retains(q.ID): // it does not retain
		case q.Script == Release && uses[q.ID] <= paid && h.recalled(q):
			last[l] = q.Sent
		case q.Script == Acquire && last[l] != 0 && q.Sent < last[l].Add(coolDown-2*time.Millisecond):
			hasty[l]++
			delete(last, l)
		}
	}
	for l, n := range hasty {
		if n > mostHasty {
			f.Add(l.key, "process %d retained the lock %d times right after a recall", l.process, n)
		}
	}
	return f.Violations
}

// usesOfLeases returns how many ops held under each ID.
func (h *History) usesOfLeases() map[string]int {
	uses := make(map[string]int)
	for _, o := range h.Ops {
		if o.granted() {
			uses[o.ID]++
		}
	}
	return uses
}

// recalled reports whether q releases a lease that was idle, because another
// process has just asked for it.
func (h *History) recalled(q *Request) bool {
	idle := !slices.ContainsFunc(h.Ops, func(o *Op) bool {
		return o.ID == q.ID && o.UnlockCalled != 0 && o.UnlockCalled <= q.Sent && o.Unlocked >= q.Sent
	})
	asked := func(a *Request) bool {
		return a.Process != q.Process && a.Key == q.Key && a.Script == Acquire && a.Answer == No &&
			a.Sent <= q.Sent && a.Replied >= q.Sent.Add(-time.Millisecond)
	}
	return idle && q.Answer == Yes && slices.ContainsFunc(h.Requests, asked)
}

// soon is for how long after a break of its subscription a process may keep what
// it retains.
const soon = 100 * time.Millisecond

// judgeBreaks finds leases that were idle when the subscription of their process
// broke, and that the process did not give back at once.
func judgeBreaks(h *History) []Violation {
	f := &Findings{Judge: "breaks"}
	for _, b := range h.Breaks {
		p := h.Processes[b.Process]
		until := b.At.Add(soon)
		if p.Ended != 0 && p.Ended <= until || h.excused(p.Slot, StopsProcess, b.At.Add(-soon), until) {
			continue
		}
		if o := h.retainedAt(b, until); o != nil && !h.releasedBetween(o.ID, b.At.Add(-soon), until) {
			f.Add(b.Key, "the lease of %s stayed idle though its subscription broke at %v", o, b.At)
		}
	}
	return f.Violations
}

// retainedAt returns the op whose lease its process retained at a break, and did
// not use again by until. It returns nil if there is none.
func (h *History) retainedAt(b Break, until Instant) (last *Op) {
	for _, o := range h.Ops { // in the order of their calls
		if o.Process != b.Process || o.Key != b.Key || o.Called > until {
			continue
		}
		switch ended := max(o.Refused, o.Unlocked); {
		case ended == 0 || ended >= b.At: // the process used the lock, or wanted it
			return nil
		case o.Released:
			last = o
		}
	}
	if last == nil || !retains(last.ID) || h.expiry(last) <= until ||
		h.releasedBetween(last.ID, last.Called, b.At) {
		return nil
	}
	return last
}

// releasedBetween reports whether a release of an ID was sent from a to b.
func (h *History) releasedBetween(id string, a, b Instant) bool {
	return slices.ContainsFunc(h.Requests, func(q *Request) bool {
		return q.ID == id && q.Script == Release && q.Sent >= a && q.Sent <= b
	})
}
