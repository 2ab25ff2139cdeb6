package main

import (
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
