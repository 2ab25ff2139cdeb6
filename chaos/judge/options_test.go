package judge

import (
	"testing"
	"time"
)

// The options of processes in the made-up histories below.
const (
	minHold = 500 * time.Millisecond // of process 0
	maxWait = 300 * time.Millisecond // of process 1
)

// keeps lets process 0 lock with MinHold. It holds once, from 1 to 50.
func (b *builder) keeps() *Op {
	b.Processes[0].MinHold = minHold
	return b.holds(0, 0, 1, 50, 10)
}

// waits lets process 1 lock with MaxWait. It calls at 0, and is refused at refused;
// 0: never.
func (b *builder) waits(refused int) *Op {
	b.Processes[1].MaxWait = maxWait
	o := &Op{Process: 1, Slot: 1, Kind: "Mutex", Number: 1, Called: at(0), Bounded: true}
	if refused != 0 {
		o.Refused = at(refused)
	}
	b.Ops = append(b.Ops, o)
	return o
}

// observed lets process 0 have an Observer. It holds once, with token 10.
func (b *builder) observed() *Op {
	b.Processes[0].Observed = true
	o := b.holds(0, 0, 1, 50, 10)
	o.Number = 1
	return o
}

// told adds events that o's calls caused.
func (b *builder) told(o *Op, kinds ...EventKind) {
	for _, kind := range kinds {
		e := &Event{Process: o.Process, Key: o.Key, Op: o.Number, Kind: kind, Read: o.Read}
		e.Fence = o.Token
		if kind == EventWaiting || kind == EventNotAcquired {
			e.Fence = 0
		}
		b.Events = append(b.Events, e)
	}
}

// used are made-up histories in which locks have options, by their names.
var used = map[string]madeUp{
	"a lock that is taken before MinHold has passed": {func(h *builder) {
		h.keeps()
		h.holds(1, 400, 401, 410, 20)
	}, []string{"min hold"}},
	"a lock that is taken after MinHold": {func(h *builder) {
		h.keeps()
		h.holds(1, 510, 511, 520, 20)
	}, nil},
	"a waiter that gets the lock after MinHold": {func(h *builder) {
		h.Punctual = true
		h.keeps()
		h.holds(1, 20, 510, 520, 20)
	}, nil},
	"a waiter that asks for the lock long after MinHold": {func(h *builder) {
		h.keeps()
		h.asks(h.holds(1, 20, 1020, 1030, 20), Acquire, 600, No)
	}, []string{"idle"}},
	"a lock that is handed off before MinHold": {func(h *builder) {
		a := h.keeps()
		b := h.holds(0, 20, 51, 60, 11)
		h.handsOn(a, b)
		h.asks(b, Release, 60, Yes)
	}, []string{"min hold"}},
	"a lock that the server forgot before MinHold": {func(h *builder) {
		h.keeps()
		h.holds(1, 400, 401, 410, 20)
		h.suffers(MayLoseData, everywhere, 0, 300, 301)
	}, nil},
	"a lock that was lost before MinHold": {func(h *builder) {
		o := h.keeps()
		o.Lost, o.Limited, o.Released = at(45), true, false
		h.holds(1, 400, 401, 410, 20)
	}, nil},
	"a lock whose release had no answer": {func(h *builder) {
		o := h.keeps()
		o.Released = false
		h.Requests[len(h.Requests)-1].Answer = Unknown
		h.holds(1, 400, 401, 410, 20)
	}, nil},
	"a lock of several that is taken before MinHold has passed": {func(h *builder) {
		o := h.keeps()
		o.Many, o.Released = true, false
		h.holds(1, 400, 401, 410, 20)
	}, []string{"min hold"}},
	"a reader beside a reader that has unlocked before MinHold": {func(h *builder) {
		h.keeps().Read = true
		h.holds(1, 60, 61, 70, 20).Read = true
	}, nil},
	"MinHold counts from the last reader": {func(h *builder) {
		h.Punctual = true
		a := h.keeps()
		h.joins(h.holds(0, 45, 46, 300, 10), a)
		h.Requests[len(h.Requests)-1].Sent = at(300)
		h.holds(1, 515, 516, 520, 20)
	}, []string{"min hold"}},
	"a try that is refused before MinHold has passed": {func(h *builder) {
		h.Punctual = true
		h.keeps()
		h.tries(1, 60, 110)
	}, nil},
	"a try that is refused after MinHold": {func(h *builder) {
		h.Punctual = true
		h.keeps()
		h.tries(1, 600, 650)
	}, []string{"tries"}},
	"a waiter behind a reader that gave up at its grant": {func(h *builder) {
		h.Punctual = true
		h.Processes[0].MinHold = minHold
		o := h.tries(0, 0, 40)
		o.Read, o.Try, o.GaveUp = true, false, true
		h.holds(1, 20, 545, 560, 20)
	}, nil},

	"a call that ends with MaxWait": {func(h *builder) { h.waits(550) }, nil},
	"a call that ends long after MaxWait": {func(h *builder) {
		h.waits(560)
	}, []string{"max wait"}},
	"a call for several that gives back what it holds after MaxWait": {func(h *builder) {
		h.waits(1300).Many = true
	}, nil},
	"a call that ends long after MaxWait, in a process that was stopped": {func(h *builder) {
		h.waits(560)
		h.suffers(StopsProcess, 1, AllKeys, 100, 400)
	}, nil},
	"a call that is granted the lock long after MaxWait": {func(h *builder) {
		h.holds(0, 0, 1, 690, 10)
		h.holds(1, 5, 700, 710, 20).Bounded = true
		h.Processes[1].MaxWait = maxWait
	}, []string{"max wait"}},
	"a try long after MaxWait": {func(h *builder) { h.waits(560).Bounded = false }, nil},
	"a call that gives up before MaxWait": {func(h *builder) {
		h.waits(290).TimedUp = true
	}, []string{"max wait"}},
	"a call whose context ends before MaxWait": {func(h *builder) { h.waits(290) }, nil},
	"a call that never returns": {func(h *builder) {
		h.waits(0)
	}, []string{"max wait"}},
	"a call in a process that is killed": {func(h *builder) { h.dies(h.waits(0), 200) }, nil},

	"events of a hold": {func(h *builder) {
		h.told(h.observed(), EventWaiting, EventAcquired, EventReleased)
	}, nil},
	"an unlock without an event": {func(h *builder) {
		h.told(h.observed(), EventAcquired)
	}, []string{"events"}},
	"an unlock without an event, in a process that is killed then": {func(h *builder) {
		o := h.observed()
		o.Unlocked, o.Released = 0, false
		h.told(o, EventAcquired)
		h.dies(o, 51)
	}, nil},
	"an unlock with two events": {func(h *builder) {
		h.told(h.observed(), EventAcquired, EventReleased, EventReleased)
	}, []string{"events"}},
	"an unlock whose event comes before the acquisition": {func(h *builder) {
		h.told(h.observed(), EventReleased, EventAcquired)
	}, []string{"events"}},
	"an event with another token": {func(h *builder) {
		o := h.observed()
		h.told(o, EventAcquired, EventReleased)
		for _, e := range h.Events {
			e.Fence++
		}
	}, []string{"events"}},
	"a call with two events that it waits": {func(h *builder) {
		h.told(h.observed(), EventWaiting, EventWaiting, EventAcquired, EventReleased)
	}, []string{"events"}},
	"a loss with an event": {func(h *builder) {
		o := h.observed()
		o.Lost, o.Limited, o.Released = at(45), true, false
		h.told(o, EventAcquired, EventLost, EventReleased)
	}, nil},
	"a loss without an event": {func(h *builder) {
		o := h.observed()
		o.Lost, o.Limited, o.Released = at(45), true, false
		h.told(o, EventAcquired, EventReleased)
	}, []string{"events"}},
	"a loss with two events": {func(h *builder) {
		h.told(h.observed(), EventAcquired, EventLost, EventLost, EventReleased)
	}, []string{"events"}},
	"a refusal with the event of an acquisition": {func(h *builder) {
		h.Processes[0].Observed = true
		o := h.tries(0, 0, 10)
		o.Try, o.Number = false, 1
		h.told(o, EventAcquired, EventReleased)
	}, []string{"events"}},
	"a refusal with its event": {func(h *builder) {
		h.Processes[0].Observed = true
		o := h.tries(0, 0, 10)
		o.Try, o.Number = false, 1
		h.told(o, EventNotAcquired)
	}, nil},
	"readers of whom one unlocks without an event": {func(h *builder) {
		a := h.observed()
		b := h.holds(0, 10, 11, 60, 10)
		b.Number = 2
		h.joins(b, a)
		h.told(a, EventAcquired)
		h.told(b, EventAcquired, EventReleased)
	}, []string{"events"}},
	"readers of whom one unlocks for another": {func(h *builder) {
		a := h.observed()
		b := h.holds(0, 10, 11, 60, 10)
		b.Number = 2
		h.joins(b, a)
		h.told(a, EventAcquired)
		h.told(b, EventAcquired, EventReleased, EventReleased)
	}, nil},
	"a lease that is retained, and never goes back": {func(h *builder) {
		h.told(h.observed(), EventAcquired, EventReleased, EventRetained)
	}, []string{"events"}},
}

// The judges of options find what they are for, and no other judge finds anything.
func TestJudgesOfOptions(t *testing.T) { testJudges(t, used) }
