package lease

import (
	"container/heap"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// Alarms are many timers in one: however many are due at an instant, they ring one after
// another, on one goroutine, where timers of the runtime would have one each. What
// rings must not block. Its methods, and those of its timers, may be called concurrently.
type Alarms struct {
	clock clockwork.Clock

	mu      sync.Mutex      // guards the following, and the alarms; not held while one rings
	next    alarmHeap       // those that are set, the first at index 0
	timer   clockwork.Timer // rings what is due; made for the first
	armed   time.Time       // when it does so; zero: it is not armed
	ringing bool            // it does so now, and will be armed then
}

// An alarm is a timer of Alarms.
type alarm struct {
	alarms *Alarms
	ring   func()
	at     time.Time
	index  int // in the heap; -1: not set
}

// NewAlarms returns alarms by clock, none of which is set.
func NewAlarms(clock clockwork.Clock) *Alarms { return &Alarms{clock: clock} }

// AfterFunc sets an alarm that rings f when d is over.
func (a *Alarms) AfterFunc(d time.Duration, f func()) clockwork.Timer {
	al := &alarm{alarms: a, ring: f, index: -1}
	al.Reset(d)
	return al
}

// Reset sets the alarm anew, and reports whether it was set.
func (al *alarm) Reset(d time.Duration) bool {
	a := al.alarms
	a.mu.Lock()
	defer a.mu.Unlock()
	was := al.index >= 0
	al.at = a.clock.Now().Add(d)
	if was {
		heap.Fix(&a.next, al.index)
	} else {
		heap.Push(&a.next, al)
	}
	if a.armed.IsZero() || al.at.Before(a.armed) {
		a.armLocked()
	}
	return was
}

// Stop reports whether the alarm was set. It may be about to ring all the same. The timer
// is left to find nothing due: to arm it again for the next alarm takes a call of the
// system, which is a tenth of a lock that is held for an instant.
func (al *alarm) Stop() bool {
	a := al.alarms
	a.mu.Lock()
	defer a.mu.Unlock()
	if al.index < 0 {
		return false
	}
	heap.Remove(&a.next, al.index)
	return true
}

// Chan is nil: an alarm rings a function.
func (al *alarm) Chan() <-chan time.Time { return nil }

// armLocked arms the timer for the first alarm.
func (a *Alarms) armLocked() {
	a.armed = a.next[0].at
	d := a.armed.Sub(a.clock.Now())
	if a.timer == nil {
		a.timer = a.clock.AfterFunc(d, a.ring)
	} else {
		a.timer.Reset(d)
	}
}

// ring rings what is due, until nothing is.
func (a *Alarms) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ringing { // who does will see what is due
		return
	}
	a.ringing = true
	for len(a.next) > 0 && !a.next[0].at.After(a.clock.Now()) {
		al := heap.Pop(&a.next).(*alarm)
		a.mu.Unlock()
		al.ring()
		a.mu.Lock()
	}
	a.ringing = false
	a.armed = time.Time{}
	if len(a.next) > 0 {
		a.armLocked()
	}
}

// An alarmHeap has the alarm that is due first at index 0.
type alarmHeap []*alarm

func (h alarmHeap) Len() int           { return len(h) }
func (h alarmHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h alarmHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *alarmHeap) Push(x any) {
	al := x.(*alarm)
	al.index = len(*h)
	*h = append(*h, al)
}

func (h *alarmHeap) Pop() any {
	last := len(*h) - 1
	al := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	al.index = -1
	return al
}
