package sim

import (
	"container/heap"
	"sync"
	"testing/synctest"
	"time"
)

// A scheduler carries out what a run has planned, one event after another, in
// the order of their times. It runs on one goroutine of the bubble. The
// bubble's time moves on only when all goroutines wait. So the consequences of
// an event have ended before the next event, except of events of one instant:
// then the scheduler waits for the others.
type scheduler struct {
	wake chan struct{} // there is an earlier event

	mu     sync.Mutex // guards the following
	events events
	count  int // of all events so far
}

// An event is something to do at a time.
type event struct {
	at     time.Time
	number int // of two events at a time the lower is first
	do     func()
}

func newScheduler() *scheduler { return &scheduler{wake: make(chan struct{}, 1)} }

// at plans an event.
func (s *scheduler) at(t time.Time, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	heap.Push(&s.events, &event{at: t, number: s.count, do: do})
	if s.events[0].number == s.count {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// after plans an event d from now.
func (s *scheduler) after(d time.Duration, do func()) { s.at(time.Now().Add(d), do) }

// run carries out events until stop is closed.
func (s *scheduler) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		e, next := s.take()
		if e != nil {
			e.do()
			if next == 0 {
				synctest.Wait()
			}
			continue
		}
		timer.Reset(next)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-stop:
			return
		}
	}
}

// idle is how long the scheduler sleeps if nothing is planned.
const idle = time.Hour

// take returns an event whose time has come, or nil. next is the time until the
// event after that.
func (s *scheduler) take() (e *event, next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if len(s.events) > 0 && !s.events[0].at.After(now) {
		e = heap.Pop(&s.events).(*event)
	}
	if len(s.events) == 0 {
		return e, idle
	}
	return e, max(0, s.events[0].at.Sub(now))
}

// events is a heap by time.
type events []*event

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e events) Less(i, j int) bool {
	if !e[i].at.Equal(e[j].at) {
		return e[i].at.Before(e[j].at)
	}
	return e[i].number < e[j].number
}
func (e *events) Push(x any) { *e = append(*e, x.(*event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return x
}
