package judge

import (
	"slices"
	"time"
)

// afterwards is for how long a call that has returned without the lock may have
// it: it gives up what it was granted in the background.
const afterwards = 200 * time.Millisecond

// judgeTries finds calls that do not queue and were refused a lock that nobody
// held or wanted at any time of the call. A lease that a process retains without
// use must be given to them.
func judgeTries(h *History) []Violation {
	f := &Findings{Judge: "tries"}
	tries := 0
	for _, o := range h.Ops {
		if !o.Try || o.GaveUp || o.Refused == 0 || !h.wellBetween(o.Called, o.Refused) {
			continue
		}
		tries++
		wanted := slices.ContainsFunc(h.Ops, func(b *Op) bool {
			until := max(h.wantedUntil(b), h.lingers(b))
			return b != o && b.Key == o.Key && b.Called <= o.Refused && until >= o.Called
		})
		if !wanted {
			f.Add(o.Key, "%s was refused the lock, which nobody held or wanted", o)
		}
	}
	if !h.Punctual && len(f.Violations) <= 2+tries/50 { // a holder may be late with its answer
		return nil
	}
	return f.Violations
}

// wantedUntil returns until when o may have had the lock, or have kept others from
// it.
func (h *History) wantedUntil(o *Op) Instant {
	ended := h.Processes[o.Process].Ended
	switch {
	case o.Refused != 0:
		return o.Refused.Add(afterwards)
	case o.Unlocked != 0 && o.Released:
		return o.Unlocked
	case o.Unlocked != 0: // the lease may live until it runs out
		return max(o.Unlocked, h.expiry(o)).Add(h.TTL)
	case ended != 0:
		return max(ended, h.expiry(o)).Add(h.TTL)
	}
	return never
}
