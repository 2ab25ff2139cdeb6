package main

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warlock-go/warlock/chaos/judge"
)

// now returns the time of CLOCK_MONOTONIC. All processes of a machine share
// that clock, and it goes on while they are stopped. So the times that they
// note can be put in order.
func now() judge.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // Linux has had this clock since 2.6
	}
	return judge.Instant(ts.Nano())
}

// instantOf returns the instant of a time with a monotonic reading. The result
// is never too late. It is too early by the time between two readings of the
// clock.
func instantOf(t time.Time) judge.Instant {
	at := now()
	return at.Add(time.Until(t))
}

// ahead returns by how much the machine's wall clock, which servers use, is ahead of its
// monotonic clock.
func ahead() time.Duration {
	for {
		before := now()
		wall := time.Now().UnixNano()
		if now().Since(before) < time.Millisecond { // nothing came between
			return time.Duration(wall - int64(before))
		}
	}
}

// The machine's wall clock may be set during a run, as by NTP on a virtual machine. All
// servers then lose leases early. A clock that is slewed changes by less than mostSlew
// from one look to the next.
const (
	lookEvery = 50 * time.Millisecond
	mostSlew  = 10 * time.Millisecond
)

// watchClock records as a fault each time that the machine's wall clock is set, until stop
// is called. stop may be called again.
func watchClock(r *judge.Recorder) (stop func()) {
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		last, at := ahead(), now()
		for {
			select {
			case <-ended:
				return
			case <-time.After(lookEvery):
			}
			is, began := ahead(), at
			at = now()
			if by := is - last; by.Abs() > mostSlew {
				r.Fault(&judge.Fault{
					Name: fmt.Sprintf("the machine's clock was set by %v", by), Start: began, End: at,
					Key: judge.AllKeys, Effects: mayLose,
				})
			}
			last = is
		}
	}()
	return sync.OnceFunc(func() { close(ended); <-stopped })
}
