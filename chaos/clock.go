package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// An instant is a time of CLOCK_MONOTONIC in nanoseconds. All processes of a machine have the
// same, and it goes on while they are stopped, so what they noted can be put in order.
type instant int64

func now() instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // it has been there since Linux 2.6
	}
	return instant(ts.Nano())
}

func (i instant) add(d time.Duration) instant   { return i + instant(d) }
func (i instant) since(j instant) time.Duration { return time.Duration(i - j) }

// instantOf returns the instant of a time with a monotonic reading. It may be earlier by the
// time between two looks at the clock, and is never later.
func instantOf(t time.Time) instant {
	at := now()
	return at.add(time.Until(t))
}
