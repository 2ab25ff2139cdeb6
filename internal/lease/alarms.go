package lease

import (
	"container/heap"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// Alarms are many timers in one. Alarms that are due together ring one after
// another on one goroutine. Timers of the runtime would each start a goroutine.
// A function that an alarm calls must not block. The methods of Alarms, and of
// its timers, may be called concurrently.
type Alarms struct {
	clock clockwork.Clock

	mu      sync.Mutex      // guards the following, and each alarm; not held while one rings
	set     alarmHeap       // the alarms that are set
	timer   clockwork.Timer // calls ring; nil: no alarm was ever set
	armedAt time.Time       // for when the timer is armed; zero: it is not armed
	ringing bool            // ring runs, and arms the timer when it ends
}

// An alarm is one timer of Alarms.
type alarm struct {
	alarms *Alarms
	ring   func()
	at     time.Time // when it is due
	index  int       // in the heap; -1: the alarm is not set
}

// NewAlarms returns Alarms that go by clock. None is set.
func NewAlarms(clock clockwork.Clock) *Alarms { return &Alarms{clock: clock} }

// AfterFunc sets an alarm that calls f after d.
func (a *Alarms) AfterFunc(d time.Duration, f func()) clockwork.Timer {
	al := &alarm{alarms: a, ring: f, index: -1}
	al.Reset(d)
	return al
}

// Reset sets the alarm to ring after d. It reports whether the alarm was set.
func (al *alarm) Reset(d time.Duration) bool {
	a := al.alarms
	a.mu.Lock()
	defer a.mu.Unlock()
	was := al.index >= 0
	al.at = a.clock.Now().Add(d)
	if was {
		heap.Fix(&a.set, al.index)
	} else {
		heap.Push(&a.set, al)
	}
	if a.armedAt.IsZero() || al.at.Before(a.armedAt) {
		a.armLocked()
	}
	return was
}

// Stop unsets the alarm, and reports whether it was set. If it was not, it may
// be about to ring. Stop leaves the timer armed, so ring may find nothing due.
// To arm the timer anew takes a system call: about 10 % of the time of a short
// hold.
func (al *alarm) Stop() bool {
	a := al.alarms
	a.mu.Lock()
	defer a.mu.Unlock()
	if al.index < 0 {
		return false
	}
	heap.Remove(&a.set, al.index)
	return true
}

// Chan returns nil: an alarm calls a function.
func (al *alarm) Chan() <-chan time.Time { return nil }

// armLocked arms the timer for the first alarm.
func (a *Alarms) armLocked() {
	a.armedAt = a.set[0].at
	d := a.armedAt.Sub(a.clock.Now())
	if a.timer == nil {
		a.timer = a.clock.AfterFunc(d, a.ring)
	} else {
		a.timer.Reset(d)
	}
}

// ring rings the alarms that are due, until none is.
func (a *Alarms) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ringing { // the other call rings all that are due
		return
	}
	a.ringing = true
	for len(a.set) > 0 && !a.set[0].at.After(a.clock.Now()) {
		al := heap.Pop(&a.set).(*alarm)
		a.mu.Unlock()
		al.ring()
		a.mu.Lock()
	}
	a.ringing = false
	a.armedAt = time.Time{}
	if len(a.set) > 0 {
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
