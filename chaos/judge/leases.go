package judge

import (
	"cmp"
	"slices"
)

// judgeOverlap finds two ops that believed to hold at the same time. If servers
// lost the lease of one of them, the overlap is excused and counted: the holder
// cannot know before its next renewal.
func judgeOverlap(h *History) (found []Violation, excused int) {
	f := &Findings{Judge: "overlap"}
	first := func(o *Op) Instant { return o.Checks[0].At }
	for key := range h.Keys {
		ops := slices.DeleteFunc(h.grantsOf(key), func(o *Op) bool { return len(o.Checks) == 0 })
		slices.SortStableFunc(ops, func(a, b *Op) int { return cmp.Compare(first(a), first(b)) })
		var open []*Op // the operations that still hold when b begins
		for _, b := range ops {
			open = slices.DeleteFunc(open, func(a *Op) bool { return a.Checked.At <= first(b) })
			for _, a := range open {
				switch {
				case a.Read && b.Read:
				case min(h.forgottenAt(a), h.forgottenAt(b)) <= first(b):
					excused++
				default:
					both := min(a.Checked.At, b.Checked.At).Since(first(b))
					f.Add(key, "%s and %s both believed to hold for %v", a, b, both)
				}
			}
			open = append(open, b)
		}
	}
	return f.Violations, excused
}

// judgeBelief finds holders that believed in a lease beyond its deadline. It
// also finds deadlines that are too late: more than the ttl after the last
// request that can have kept the lease alive, on a majority of the servers.
func judgeBelief(h *History) []Violation {
	f := &Findings{Judge: "belief"}
	requests := make(map[string][]*Request) // by ID
	for _, q := range h.Requests {
		if q.Script == Acquire && h.mayBeGranted(q) || q.Answer == Yes && q.Script != Release {
			requests[q.ID] = append(requests[q.ID], q)
		}
	}
	for _, o := range h.Ops {
		for _, c := range o.Checks {
			if c.At > c.Deadline {
				f.Add(o.Key, "%s was held %v after its deadline", o, c.At.Since(c.Deadline))
				break
			}
			end := h.endBefore(c.Read, requests[o.ID])
			if end == 0 && h.Servers > 0 {
				f.Add(o.Key, "%s was held by less than a majority of the servers", o)
				break
			}
			if late := c.Deadline.Since(end); end != 0 && late > 0 {
				f.Add(o.Key, "%s had a deadline %v after its lease may have run out", o, late)
				break
			}
		}
	}
	return f.Violations
}

// endBefore returns the earliest end of a lease that a deadline read at an
// instant can stand for: that of the request that asked for the latest end, on a
// majority of the servers. A renewal counts once it is answered, and so does a vote for an ID
// that does not queue. The result is 0 if there are too few requests.
func (h *History) endBefore(at Instant, requests []*Request) (end Instant) {
	ends := h.newPerServer()
	for _, q := range requests {
		asked := q.Script == Acquire && h.mayBeGranted(q)
		if q.Sent <= at && (asked || q.Replied <= at) {
			ends[q.Server] = max(ends[q.Server], q.Sent.Add(h.ttlOf(q)))
		}
	}
	return h.atLeast(ends)
}

// judgeTokens finds acquisitions whose token is not above the token of each
// acquisition that had returned before they were asked for. A reader that joins
// its process's lease acquires nothing. Two servers that are masters at one time
// may both grant one token.
func judgeTokens(h *History) []Violation {
	f := &Findings{Judge: "tokens"}
	for key := range h.Keys {
		returned := h.grantsOf(key)
		calls := slices.DeleteFunc(slices.Clone(returned), h.joined)
		slices.SortStableFunc(calls, func(a, b *Op) int {
			return cmp.Compare(h.calledAt(a), h.calledAt(b))
		})
		writers := make(map[int64]*Op) // by token
		var top, topWriter *Op         // of the operations that had returned
		for _, b := range calls {
			if a := writers[b.Token]; a != nil && !b.Read {
				h.judgeTwins(f, a, b)
			} else if !b.Read {
				writers[b.Token] = b
			}
			for len(returned) > 0 && returned[0].Granted < h.calledAt(b) {
				a := returned[0]
				returned = returned[1:]
				if h.splitOff(a) {
					continue
				}
				if top == nil || a.Token > top.Token {
					top = a
				}
				if !a.Read && (topWriter == nil || a.Token > topWriter.Token) {
					topWriter = a
				}
			}
			below := top
			if b.Read {
				below = topWriter
			}
			if below != nil && b.Token <= below.Token && !h.late(b) && !h.splitOff(b) {
				f.Add(key, "%s came after %s", b, below)
			}
		}
	}
	return f.Violations
}

// judgeTwins adds two writers that have one token, unless masters at one time granted it.
func (h *History) judgeTwins(f *Findings, a, b *Op) {
	if !h.splitOff(a) && !h.splitOff(b) {
		f.Add(b.Key, "%s has the token of %s; granted at %v and %v, perhaps forgotten at %v and %v",
			b, a, b.Granted, a.Granted, h.forgottenAt(b), h.forgottenAt(a))
	}
}

// judgeEarly finds leases that were taken away before they could expire,
// although no server lost them, or no majority of a quorum's servers.
func judgeEarly(h *History) []Violation {
	f := &Findings{Judge: "early end"}
	for _, o := range h.Ops {
		if !o.granted() || !o.Taken {
			continue
		}
		told := cmp.Or(o.Lost, o.Unlocked)
		forgotten := h.forgottenAt(o) <= told || h.excusedAnywhere(ForgetsVotes, o.Called, told)
		if told < h.expiry(o) && !forgotten {
			f.Add(o.Key, "%s was told that the lock is not its own, %v before its lease could run out",
				o, h.expiry(o).Since(told))
		}
	}
	return f.Violations
}

// judgeRevived finds leases that were renewed after servers had surely lost
// them.
func judgeRevived(h *History) []Violation {
	f := &Findings{Judge: "revived"}
	for _, fault := range h.Faults {
		if fault.Effects&LosesData == 0 {
			continue
		}
		for _, o := range h.Ops {
			lost := o.granted() && o.Granted < fault.Start && fault.losesKey(o.Key)
			if lost && h.lastAlive[o.ID] > fault.End {
				f.Add(o.Key, "%s was renewed after %s", o, fault.Name)
			}
		}
	}
	return f.Violations
}

// judgeLost finds leases that ran out although nothing was wrong with their
// processes, the network or the servers.
func judgeLost(h *History) []Violation {
	f := &Findings{Judge: "lost"}
	for _, o := range h.Ops {
		ranOut := o.Lost != 0 && !o.Taken && !o.Limited
		if ranOut && !h.excused(o.Slot, anyTrouble, h.lastAlive[o.ID]-h.aftermath(), o.Lost) {
			f.Add(o.Key, "%s was lost, though nothing was wrong", o)
		}
	}
	return f.Violations
}
