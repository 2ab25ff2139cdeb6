package judge

import (
	"cmp"
	"time"
)

// How much longer than MaxWait a call may take. It leaves the queue meanwhile, and a
// call that locks several also gives back the locks that it holds.
const (
	slackOfWait = 250 * time.Millisecond
	slackOfMany = time.Second
)

// judgeMaxWait finds calls that went on for longer than MaxWait, and calls that
// gave up before.
func judgeMaxWait(h *History) []Violation {
	f := &Findings{Judge: "max wait"}
	for _, o := range h.Ops {
		p := h.Processes[o.Process]
		if !o.Bounded || p.MaxWait == 0 {
			continue
		}
		drift, slack := p.MaxWait/driftShare, slackOfWait
		if o.Many {
			slack = slackOfMany
		}
		end := cmp.Or(max(o.Granted, o.Refused), p.Ended, never)
		took := end.Since(o.Called)
		late := took > p.MaxWait+drift+slack && !h.excused(o.Slot, StopsProcess, o.Called, end)
		switch {
		case late && end == never:
			f.Add(o.Key, "%s never returned, though it waits for at most %v", o, p.MaxWait)
		case late:
			f.Add(o.Key, "%s took %v, though it waits for at most %v", o, took, p.MaxWait)
		case o.TimedUp && took < p.MaxWait-drift:
			f.Add(o.Key, "%s gave up after %v, though it waits for %v", o, took, p.MaxWait)
		}
	}
	return f.Violations
}
