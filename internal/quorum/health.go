package quorum

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A health says whether a server is to be asked. A server that is down or frozen must not slow
// the others down. After a failure it is left alone for a pause. While some requests to it are
// late, and it answers no other, it gets no more.
type health struct {
	mu       sync.Mutex // guards the following
	pause    time.Duration
	rests    time.Time // until then the server is left alone, for failure
	failure  error
	underway []*lateness // the requests, the oldest first
	heard    time.Time   // when the server last answered a request
	ails     time.Time   // since when the server has not voted; zero: it votes
	reported time.Time   // when that was last reported; zero: it was not
}

// A lateness is a request that is under way. The server is late with it from due on.
type lateness struct{ due time.Time }

// Pauses after failures double from firstPause to lastPause.
const (
	firstPause = time.Millisecond
	lastPause  = 128 * time.Millisecond
	mostLate   = 4
	silence    = 100 * time.Millisecond // of a server that is late
)

// A server of which people are to hear has not voted for ailsFor. They hear of it again each
// reportEvery.
const (
	ailsFor     = time.Second
	reportEvery = time.Minute
)

// votes notes whether the server has voted, by the error for which it has not. It reports
// whether people are to hear of that: that it does not vote, or that it does again.
func (h *health) votes(now time.Time, err error) (report bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		report = !h.reported.IsZero()
		h.ails, h.reported = time.Time{}, time.Time{}
		return report
	case h.ails.IsZero():
		h.ails = now
	}
	if now.Sub(h.ails) < ailsFor || !h.reported.IsZero() && now.Sub(h.reported) < reportEvery {
		return false
	}
	h.reported = now
	return true
}

// absent returns why the server is not to be asked now, or nil.
func (h *health) absent(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.isLateLocked(now):
		return errLate
	case now.Before(h.rests):
		return resting{h.failure}
	}
	return nil
}

// isLateLocked reports whether the server is late with its oldest requests.
func (h *health) isLateLocked(now time.Time) bool {
	if len(h.underway) < mostLate || now.Sub(h.heard) <= silence {
		return false
	}
	inTime := func(l *lateness) bool { return now.Before(l.due) }
	return !slices.ContainsFunc(h.underway[:mostLate], inTime)
}

// begin notes that a request begins, whose answer is due then. The result notes its end.
func (h *health) begin(due time.Time) (end func(error)) {
	l := &lateness{due}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underway = append(h.underway, l)
	return func(err error) { h.end(l, err) }
}

// end notes how a request ended. That its caller has gone says nothing of the server, nor does
// an error of this process.
func (h *health) end(l *lateness, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.underway, l)
	h.underway = slices.Delete(h.underway, i, i+1)
	if isLocal(err) || errors.Is(err, context.Canceled) {
		return
	}
	if !send.Lost(err) || errors.Is(err, protocol.ErrNotHeld) || protocol.Permanent(err) {
		h.pause, h.failure, h.rests = 0, nil, time.Time{}
		h.heard = time.Now()
		return
	}
	h.pause = min(max(2*h.pause, firstPause), lastPause)
	h.rests, h.failure = time.Now().Add(h.pause), err
}
