package judge

import "time"

// slowHandOff is longer than a hand-off takes if a message tells the waiter, on
// lines without delay. It is shorter than most hand-offs take if the waiter must
// ask: that takes up to a third of the ttl.
const slowHandOff = 75 * time.Millisecond

// firstWait is how many round trips a new client makes before it hears of grants,
// and has asked for earlier grants: to connect, to greet, to subscribe, and to ask.
const firstWait = 4

// punctualHandOff is longer than any hand-off takes, and than any lock is idle
// while an op waits, if nothing is wrong and nothing takes time but messages.
const punctualHandOff = 10 * time.Millisecond

// silence is longer than it takes a process to find that its subscription has
// fallen silent, and to subscribe again: it hears nothing for 10 s, waits 3 s
// for a probe, and pauses for up to 4 s.
const silence = 20 * time.Second

// wellBetween reports whether nothing was wrong from a to b, and is not felt any
// more. Where all is punctual, a subscription may feel a fault for long.
func (h *History) wellBetween(a, b Instant) bool {
	if h.Punctual && h.excusedAnywhere(delaysGrants|LosesMessages, a.Add(-silence), b) {
		return false
	}
	return !h.excusedAnywhere(anyTrouble|LosesMessages|HitsMinority, a-h.aftermath(), b)
}

// judgeHandOffs finds that too many waiters were not told of their grants. It
// also returns how long each hand-off took.
func judgeHandOffs(h *History) (found []Violation, took []time.Duration) {
	f := &Findings{Judge: "hand-off"}
	for key := range h.Keys {
		took = append(took, h.handOffs(key)...)
	}
	limit, allowed := slowHandOff+firstWait*2*h.LineDelay, 2+len(took)/50
	if h.Punctual {
		limit, allowed = punctualHandOff, 0
	}
	slow := 0
	for _, d := range took {
		if d > limit {
			slow++
		}
	}
	if slow > allowed {
		f.Add(AllKeys, "%d of %d hand-offs took longer than %v", slow, len(took), limit)
	}
	return f.Violations, took
}

// handOffs returns how long the hand-offs of a key took: from the answer to the
// release of a writer to the return of the next op, which had queued before. It
// leaves out hand-offs near a fault, and locks that stay taken for MinHold.
func (h *History) handOffs(key int) (took []time.Duration) {
	released := h.releases(key)
	as := h.arrivals(key)
	for i, b := range as {
		if i == 0 || b.refused == 0 || as[i-1].op.Read || b.op.Try || b.op.Many {
			continue
		}
		q := released[as[i-1].op.ID]
		handedOff := q.sent != 0 && q.sent >= b.refused && q.replied <= b.op.Granted &&
			!h.heldInPart(key, q.sent, b.op.Granted) && h.lingersUntil(key, b.op.Granted) < q.sent
		if handedOff && h.wellBetween(q.sent, b.op.Granted) {
			took = append(took, b.op.Granted.Since(q.replied))
		}
	}
	return took
}

// A release is the release of a lease, once a majority of the servers have answered it.
type release struct{ sent, replied Instant }

// releases returns the releases of a key, by ID.
func (h *History) releases(key int) map[string]release {
	sent, replied := make(map[string]perServer), make(map[string]perServer)
	for _, q := range h.Requests {
		if q.Key != key || q.Script != Release || q.Answer != Yes {
			continue
		}
		if sent[q.ID] == nil {
			sent[q.ID], replied[q.ID] = h.newPerServer(), h.newPerServer()
		}
		sent[q.ID][q.Server], replied[q.ID][q.Server] = q.Sent, q.Replied
	}
	released := make(map[string]release)
	for id := range sent {
		released[id] = release{h.atMost(sent[id]), h.atMost(replied[id])}
	}
	return released
}
