package sim

import (
	"slices"
	"time"
)

// longestShrink is for how long, in real time, Shrink tries smaller plans. A
// parent process waits for longer than that for a worker.
const longestShrink = 20 * time.Second

// Shrink looks for a smaller plan than that of o in which one of the same judges
// finds something: with fewer faults, processes, goroutines and ops. It returns
// the smallest that it finds, and its story.
func Shrink(o *Outcome) (*Plan, []string) {
	judges, end := judgesOf(o), realTime()+longestShrink
	smallest := shrink(o.Plan, func(p *Plan) bool {
		return realTime() < end && slices.ContainsFunc(judgesOf(Run(p, false)), func(j string) bool {
			return slices.Contains(judges, j)
		})
	})
	return smallest, Run(smallest, true).Story
}

// shrink makes p smaller for as long as fails holds of the result.
func shrink(p *Plan, fails func(*Plan) bool) *Plan {
	s := &shrinker{best: p, fails: fails}
	for s.shrinkOnce() {
	}
	return s.best
}

type shrinker struct {
	best  *Plan
	fails func(*Plan) bool
}

// shrinkOnce makes the best plan smaller, and reports whether it could.
func (s *shrinker) shrinkOnce() bool {
	p := s.best
	for i := range p.Faults {
		q := *p
		q.Faults = slices.Delete(slices.Clone(p.Faults), i, i+1)
		if s.takes(&q) {
			return true
		}
	}
	for _, change := range []func(*Plan){
		func(q *Plan) { q.Processes-- },
		func(q *Plan) { q.Goroutines-- },
		func(q *Plan) { q.Ops /= 2 },
		func(q *Plan) { q.Ops-- },
		func(q *Plan) { q.Replicas, q.Durable = false, false },
		func(q *Plan) { q.Durable = false },
		func(q *Plan) { q.Reads = 0 },
		func(q *Plan) { q.MinHold = 0 },
		func(q *Plan) { q.MaxWait = 0 },
		func(q *Plan) { q.Observed = false },
	} {
		q := *p
		change(&q)
		if q.valid() && !q.same(p) && s.takes(&q) {
			return true
		}
	}
	return false
}

// takes takes q as the best plan if it fails, and reports whether it does.
func (s *shrinker) takes(q *Plan) bool {
	if !s.fails(q) {
		return false
	}
	s.best = q
	return true
}

// judgesOf returns the judges that found something.
func judgesOf(o *Outcome) (judges []string) {
	for _, v := range o.Report.Violations {
		if decided(v) {
			judges = append(judges, v.Judge)
		}
	}
	return judges
}

// valid reports whether a plan can be run.
func (p *Plan) valid() bool {
	for _, f := range p.Faults {
		hitsProcess := kinds[f.Kind].hits == oneProcess
		needsReplica := f.Kind == Promote || f.Kind == Move
		if hitsProcess && f.Slot >= p.Processes || needsReplica && !p.Replicas {
			return false
		}
	}
	return p.Processes > 0 && p.Goroutines > 0 && p.Ops > 0
}

// same reports whether a change of p made no other plan.
func (p *Plan) same(q *Plan) bool {
	return p.Processes == q.Processes && p.Goroutines == q.Goroutines && p.Ops == q.Ops &&
		p.Replicas == q.Replicas && p.Durable == q.Durable && p.Reads == q.Reads &&
		p.MinHold == q.MinHold &&
		p.MaxWait == q.MaxWait && p.Observed == q.Observed
}
