package judge

import (
	"slices"
	"time"
)

// The servers of a quorum vote: a lock is an ID's while a majority of them say so. Judges
// look at each server by itself, and then count the servers. If one server keeps a lock,
// it is a majority of one.
//
// A fault that hits a minority of the servers excuses no overlap, no token and no lease
// that is lost. Nor does it excuse that nobody holds a lock for longer than half a ttl. It
// excuses what is expected in milliseconds (see wellBetween), and, if the server forgets
// its waiters or their deadlines, the order of waiters (see judgeOrder).

// majority returns how many of the servers that keep a lock decide.
func (h *History) majority() int { return h.Servers/2 + 1 }

// perServer is an instant for each server that keeps a lock; 0: none.
type perServer []Instant

func (h *History) newPerServer() perServer { return make(perServer, max(1, h.Servers)) }

// known returns the instants that are not 0, in their order.
func (p perServer) known() []Instant {
	known := slices.DeleteFunc(slices.Clone(p), func(at Instant) bool { return at == 0 })
	slices.Sort(known)
	return known
}

// atLeast returns the latest instant that a majority of the servers reach, or 0.
func (h *History) atLeast(p perServer) Instant {
	known, n := p.known(), h.majority()
	if len(known) < n {
		return 0
	}
	return known[len(known)-n]
}

// atMost returns the first instant by which a majority of the servers are done, or 0.
func (h *History) atMost(p perServer) Instant {
	known, n := p.known(), h.majority()
	if len(known) < n {
		return 0
	}
	return known[n-1]
}

// byServer sorts requests by their server.
func (h *History) byServer(requests []*Request) [][]*Request {
	servers := make([][]*Request, max(1, h.Servers))
	for _, q := range requests {
		servers[q.Server] = append(servers[q.Server], q)
	}
	return servers
}

// mayBeGranted reports whether a server that refuses the acquisition q may grant it later, and
// tell its waiter by a message. A server by itself does that also for a request that does not
// queue.
func (h *History) mayBeGranted(q *Request) bool { return h.Servers == 0 || q.Queues }

// keepsAlive reports whether q keeps a lease alive on its server.
func (h *History) keepsAlive(q *Request) bool {
	switch q.Script {
	case Acquire:
		return q.Answer == Yes || q.Answer == No && h.mayBeGranted(q)
	case Renew:
		return q.Answer == Yes
	}
	return false
}

// findLeases sets h.lastAlive and h.aliveUntil.
func (h *History) findLeases() {
	last, until := make(map[string]perServer), make(map[string]perServer)
	for _, q := range h.Requests {
		if !h.keepsAlive(q) {
			continue
		}
		if last[q.ID] == nil {
			last[q.ID], until[q.ID] = h.newPerServer(), h.newPerServer()
		}
		l, u := last[q.ID], until[q.ID]
		l[q.Server] = max(l[q.Server], q.Sent)
		u[q.Server] = max(u[q.Server], q.Sent.Add(h.ttlOf(q)))
	}
	h.lastAlive, h.aliveUntil = make(map[string]Instant), make(map[string]Instant)
	for id := range last {
		h.lastAlive[id], h.aliveUntil[id] = h.atLeast(last[id]), h.atLeast(until[id])
	}
}

// placeSlack is how much later one process must have called than another has queued. Only
// then is their order known.
//
// A quorum orders waiters by the places that their clients propose: the time that a
// majority of the servers had reached, as far as the client knows. The client knows it
// from answers, and each of them was on its way for up to a round trip. So its place may
// be too early by a round trip, and is never too late. It is of the call: before the
// client asks, it may have to learn what the servers remember. Real processes share the
// processors, so a round trip may take them much longer.
const (
	placeSlack     = 3 * time.Millisecond // where all is punctual
	realPlaceSlack = 50 * time.Millisecond
)

// placeSlack returns how much later of two processes the second must have asked.
func (h *History) placeSlack() time.Duration {
	switch {
	case h.Servers == 0:
		return 0
	case !h.Punctual:
		return realPlaceSlack
	}
	return placeSlack
}

// placed returns the first instant at which a may have got its place: when it asked, or,
// of a quorum, when it called.
func (h *History) placed(a *arrival) Instant {
	if h.Servers == 0 {
		return a.sent
	}
	return min(a.sent, a.op.Called)
}

// knowsTime reports whether the process of a slot knows the time of the servers of a
// quorum at an instant. It may have got it wrong by any answer that came late, and have
// asked nothing since.
func (h *History) knowsTime(o *Op, at Instant) bool {
	return h.Servers == 0 || !h.excused(o.Slot, anyTrouble, h.Processes[o.Process].Started, at)
}
