// Package judge finds broken promises of warlock in the history of a run.
//
// A run notes what its processes do in a [History], for example with a
// [Recorder]. [Judge] then asks each judge about it. A judge knows nothing of
// where the history comes from: from real processes, or from a simulation.
package judge

import (
	"fmt"
	"slices"
	"time"
)

// A Violation is a broken promise, and the judge that found it.
type Violation struct {
	Judge string
	Key   int // AllKeys: of no key in particular
	What  string
}

// Findings are the violations that one judge finds.
type Findings struct {
	Judge      string
	Violations []Violation
}

// Add adds a violation.
func (f *Findings) Add(key int, format string, args ...any) {
	f.Violations = append(f.Violations, Violation{f.Judge, key, fmt.Sprintf(format, args...)})
}

// A Report says what the judges found in a history.
type Report struct {
	Grants   int
	Kinds    map[string]int // grants by kind of lock; see Reading
	Relocks  int            // grants of a lease that the process may have retained
	Lost     int            // leases that were lost
	Excused  int            // overlaps that the loss of a lease by servers excuses
	Pairs    int            // pairs of ops whose order was judged
	Crashes  []time.Duration
	HandOffs []time.Duration
	// LongestIdle is the longest time for which no op held a lock although one
	// waited, whatever the cause.
	LongestIdle time.Duration
	Violations  []Violation
}

// Reading follows a kind of lock in Report.Kinds where the grants are to
// readers.
const Reading = ", read"

// Judge asks all judges about h. Nothing else may use h meanwhile.
func Judge(h *History) *Report {
	h.prepare()
	r := &Report{Kinds: make(map[string]int)}
	r.count(h)
	overlaps, excused := judgeOverlap(h)
	order, pairs := judgeOrder(h)
	turns, pairsOfTurns := judgeTurns(h)
	crashes, toGrant := judgeCrashes(h)
	slow, handOffs := judgeHandOffs(h)
	r.Excused, r.Pairs = excused, pairs+pairsOfTurns
	r.Crashes, r.HandOffs = toGrant, handOffs
	for key := range h.Keys {
		for _, g := range h.gaps(key) {
			r.LongestIdle = max(r.LongestIdle, g.length())
		}
	}
	r.Violations = slices.Concat(judgeModel(h), overlaps, judgeBelief(h), judgeTokens(h),
		judgeEarly(h), judgeRevived(h), judgeLost(h), order, turns, judgeIdle(h), crashes, slow,
		judgeTries(h), judgeRecalls(h), judgeBreaks(h), judgeCalls(h), judgeMinHold(h),
		judgeMaxWait(h), judgeEvents(h))
	return r
}

// count counts the grants and the lost leases.
func (r *Report) count(h *History) {
	used := make(map[string]bool) // by ID
	for _, o := range h.Ops {
		if !o.granted() {
			continue
		}
		if used[o.ID] && retains(o.ID) {
			r.Relocks++
		}
		used[o.ID] = true
		r.Grants++
		kind := o.Kind
		if o.Read {
			kind += Reading
		}
		r.Kinds[kind]++
		if o.Lost != 0 {
			r.Lost++
		}
	}
}

// judgeCalls finds the problems that processes noted themselves.
func judgeCalls(h *History) []Violation {
	f := &Findings{Judge: "calls"}
	for _, o := range h.Ops {
		if o.Problem != "" {
			f.Add(o.Key, "%s: %s", o, o.Problem)
		}
	}
	return f.Violations
}
