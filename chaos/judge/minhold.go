package judge

import (
	"cmp"
	"slices"
	"time"
)

// A lock with MinHold that is unlocked early stays taken, it lingers, until MinHold
// after its acquisition by the clock of its process.
const (
	// driftShare says how wrong the clock of a process is at most: by 1/driftShare.
	driftShare = 100

	// lingerSlack is how much later a lingering lock may be free: its release takes
	// a message, and servers count whole milliseconds.
	lingerSlack = 3 * time.Millisecond
)

// lingers returns the time by which the lock of o is free, as far as MinHold is
// concerned. It returns 0 if o does not let the lock linger. A reader that was refused
// counts: it may have been let in at the end of its wait.
func (h *History) lingers(o *Op) Instant {
	d := h.Processes[o.Process].MinHold
	if d == 0 || !o.granted() && !o.Read {
		return 0
	}
	return max(o.Granted, o.Refused).Add(d + d/driftShare + lingerSlack)
}

// lingersUntil returns the latest of lingers of the ops of a key that had ended by an
// instant.
func (h *History) lingersUntil(key int, at Instant) (until Instant) {
	for _, o := range h.Ops {
		if ended := max(o.Refused, o.UnlockCalled); o.Key == key && ended != 0 && ended <= at {
			until = max(until, h.lingers(o))
		}
	}
	return until
}

// judgeMinHold finds ops that were granted a lock although an earlier op had
// unlocked it, and MinHold had not passed since the acquisition of that op. It
// leaves out locks that servers may have lost, and leases that were lost.
func judgeMinHold(h *History) []Violation {
	f := &Findings{Judge: "min hold"}
	for key := range h.Keys {
		grants, released := h.grantsOf(key), h.releasedInTime(key)
		for i, a := range grants {
			d := h.Processes[a.Process].MinHold
			if d == 0 || a.UnlockCalled == 0 || !released[a.ID] {
				continue
			}
			until := h.acquiredAfter(a).Add(d - d/driftShare - time.Millisecond)
			for _, b := range grants[i+1:] {
				if b.Granted >= until {
					break
				}
				early := b.Granted >= a.UnlockCalled && !(a.Read && b.Read)
				if early && !h.mayLose(key, a.Called, b.Granted) {
					f.Add(key, "%s was granted the lock %v after %s, which keeps it for %v",
						b, b.Granted.Since(a.Granted), a, d)
				}
			}
		}
	}
	return f.Violations
}

// acquiredAfter returns a time from which o's process may count MinHold, and no
// earlier. It returns 0 if that is not known, as the process was stopped.
func (h *History) acquiredAfter(o *Op) (at Instant) {
	switch {
	case h.excused(o.Slot, StopsProcess, o.Called, o.Granted): // its clock may have stood still
		return 0
	case h.Punctual && !o.Many: // no time passes from its grant to its return
		return o.Granted
	}
	at, known := o.Called, min(o.Granted, h.wonBy(o))
	for _, q := range h.Requests {
		if q.ID == o.ID && q.Script == Acquire && q.Sent <= known {
			at = max(at, q.Sent)
		}
	}
	return at
}

// wonBy returns when a majority of the servers had granted o the lock. After that, its
// process tells the others of the lease.
func (h *History) wonBy(o *Op) Instant {
	first := h.newPerServer()
	for _, q := range h.Requests {
		if q.ID == o.ID && q.Script == Acquire && q.Answer == Yes && first[q.Server] == 0 {
			first[q.Server] = q.Replied
		}
	}
	return cmp.Or(h.atMost(first), never)
}

// releasedInTime returns the IDs whose release of a key was answered with yes long
// before the end of their leases, and under which no op has lost the lock.
func (h *History) releasedInTime(key int) map[string]bool {
	released := make(map[string]bool)
	for _, q := range h.Requests {
		if q.Key == key && q.Script == Release && q.Answer == Yes {
			released[q.ID] = q.Sent < h.lastAlive[q.ID].Add(h.TTL*9/10)
		}
	}
	for _, o := range h.Ops {
		unlocked := o.Released || o.Many && o.Unlocked != 0
		if o.Key == key && (o.Lost != 0 || o.Taken || !unlocked) {
			delete(released, o.ID)
		}
	}
	return released
}

// mayLose reports whether servers may have lost the lock of a key between a and b.
func (h *History) mayLose(key int, a, b Instant) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Effects&MayLoseData != 0 && f.losesKey(key) && f.overlaps(a, b)
	})
}
