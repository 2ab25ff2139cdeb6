package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// A violation is a promise that was broken, and who says so.
type violation struct {
	Judge string
	Key   int // allKeys: of none in particular
	What  string
}

// A finding is what one judge has to say.
type finding struct {
	judge      string
	violations []violation
}

func (f *finding) add(key int, format string, args ...any) {
	f.violations = append(f.violations, violation{f.judge, key, fmt.Sprintf(format, args...)})
}

// patience is how long porcupine may look for an order. A history that it cannot decide upon
// has failed.
const patience = time.Minute

// undecided is the judge whose verdict is that there is none.
const undecided = "undecided"

// judgeModel holds each key's history against the model.
func judgeModel(h *history) []violation {
	f := &finding{judge: "model"}
	for key := range h.Keys {
		switch h.linearizable(key, goroutines, patience) {
		case porcupine.Ok:
		case porcupine.Unknown:
			f.violations = append(f.violations, violation{undecided, key, fmt.Sprintf("porcupine found no answer in %v", patience)})
		default:
			f.add(key, "no order of the calls is possible: see the page")
		}
	}
	return f.violations
}

// judgeOverlap finds two who believed to hold at once, and may not. The belief in a lease that
// servers have forgotten is no violation, as nobody can know before it is renewed; it is
// counted.
func judgeOverlap(h *history) (found []violation, excused int) {
	f := &finding{judge: "overlap"}
	for key := range h.Keys {
		var ops []*op
		for _, o := range h.of(key) {
			if len(h.stamps[o]) > 0 {
				ops = append(ops, o)
			}
		}
		first := func(o *op) instant { return h.stamps[o][0].At }
		slices.SortFunc(ops, func(a, b *op) int { return cmp.Compare(first(a), first(b)) })
		var open []*op
		for _, b := range ops {
			open = slices.DeleteFunc(open, func(a *op) bool { return a.Alive.At <= first(b) })
			for _, a := range open {
				switch {
				case a.Read && b.Read:
				case min(h.forgotten(a), h.forgotten(b)) <= first(b):
					excused++
				default:
					f.add(key, "%s and %s both believed to hold for %v", a, b, min(a.Alive.At, b.Alive.At).since(first(b)))
				}
			}
			open = append(open, b)
		}
	}
	return f.violations, excused
}

// judgeBelief finds holders that believed in a lease beyond its deadline, or whose deadline was more than the ttl after
// every request by which it can have lived.
func judgeBelief(h *history) []violation {
	f := &finding{judge: "belief"}
	requests := make(map[string][]*request)
	for _, q := range h.Requests {
		if q.Script == acquire || q.Script == renew && q.Answer == yes {
			requests[q.ID] = append(requests[q.ID], q)
		}
	}
	for o, stamps := range h.stamps {
		for _, s := range stamps {
			var last instant
			for _, q := range requests[o.ID] {
				if q.Sent <= s.Read && (q.Script == acquire || q.Replied <= s.Read) {
					last = max(last, q.Sent)
				}
			}
			if s.At > s.Deadline {
				f.add(o.Key, "%s was held %v after its deadline", o, s.At.since(s.Deadline))
				break
			}
			if late := s.Deadline.since(last.add(h.TTL)); last != 0 && late > 0 {
				f.add(o.Key, "%s had a deadline %v after its lease may have run out", o, late)
				break
			}
		}
	}
	return f.violations
}

// judgeTokens finds acquisitions whose token is not above that of each that had returned before they were
// asked for. A reader that joins the lease of another of its process acquires nothing.
func judgeTokens(h *history) []violation {
	f := &finding{judge: "tokens"}
	for key := range h.Keys {
		ops := h.of(key)
		calls := slices.Clone(ops)
		slices.SortFunc(calls, func(a, b *op) int { return cmp.Compare(h.called(a), h.called(b)) })
		of := make(map[int64]*op) // writers, by token
		var top, topWriter *op    // of those that had returned
		for _, b := range calls {
			if h.joined(b) {
				continue
			}
			if a := of[b.Token]; a != nil && !b.Read {
				f.add(key, "%s has the token of %s", b, a)
			} else if !b.Read {
				of[b.Token] = b
			}
			for len(ops) > 0 && ops[0].Granted < h.called(b) {
				a := ops[0]
				if top == nil || a.Token > top.Token {
					top = a
				}
				if !a.Read && (topWriter == nil || a.Token > topWriter.Token) {
					topWriter = a
				}
				ops = ops[1:]
			}
			below := top
			if b.Read {
				below = topWriter
			}
			if below != nil && b.Token <= below.Token {
				f.add(key, "%s came after %s", b, below)
			}
		}
	}
	return f.violations
}

// judgeEarly finds leases that were taken away before they could run out, though no server
// had a reason to forget them.
func judgeEarly(h *history) []violation {
	f := &finding{judge: "early end"}
	for _, o := range h.Ops {
		if !o.granted() || !o.Taken {
			continue
		}
		told := o.Lost
		if told == 0 {
			told = o.Unlocked
		}
		if told < h.runsOut(o) && h.forgotten(o) > told {
			f.add(o.Key, "%s was told that the lock is not its own, %v before its lease could run out", o, h.runsOut(o).since(told))
		}
	}
	return f.violations
}

// judgeRevived finds leases that were renewed although the server had forgotten them for certain.
func judgeRevived(h *history) []violation {
	f := &finding{judge: "revived"}
	for _, e := range h.Effects {
		if e.Does&wipes == 0 {
			continue
		}
		for _, o := range h.Ops {
			hit := o.granted() && o.Granted < e.Start && (e.Key == allKeys || e.Key == o.Key)
			if hit && h.last[o.ID] > e.End {
				f.add(o.Key, "%s was renewed after %s", o, e.Fault)
			}
		}
	}
	return f.violations
}

// judgeLost finds leases that ran out though nothing was wrong with their processes, the network or the servers.
func judgeLost(h *history) []violation {
	f := &finding{judge: "lost"}
	for _, o := range h.Ops {
		if o.Lost != 0 && !o.Taken && !h.excused(o.Slot, troubles, h.last[o.ID]-h.settle(), o.Lost) {
			f.add(o.Key, "%s was lost, though nothing was wrong", o)
		}
	}
	return f.violations
}

// judgeOps collects what workers themselves found wrong, and calls that never returned.
func judgeOps(h *history) []violation {
	f := &finding{judge: "calls"}
	for _, o := range h.Ops {
		if o.Fault != "" {
			f.add(o.Key, "%s: %s", o, o.Fault)
		}
	}
	return f.violations
}
