package main

import (
	"context"
	"errors"

	"github.com/warlock-go/warlock"
)

// The exit statuses. Those above 1 are of sysexits.h, as far as it has one.
const (
	exitNo          = 1  // the answer is no, and nothing went wrong
	exitUsage       = 64 // EX_USAGE
	exitUnavailable = 69 // EX_UNAVAILABLE: Redis is away, or the lock cannot be had at all
	exitLost        = 70 // EX_SOFTWARE: the lease was lost
	exitOutput      = 74 // EX_IOERR: the output cannot be written
	exitTimeout     = 75 // EX_TEMPFAIL: somebody else had the lock until the wait ended
	exitSignal      = 128
)

// An exit is an error with which the program ends.
type exit struct {
	status int
	err    error // nil: nothing is said

	interrupted bool // by the terminal: the program ends as by SIGINT
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// failed returns the exit for an error of the library.
func failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, warlock.ErrUnavailable): // may stand beside those below
		return &exit{status: exitUnavailable, err: err}
	case errors.Is(err, warlock.ErrBadKey):
		return &exit{status: exitUsage, err: err}
	case errors.Is(err, warlock.ErrNotHeld):
		return &exit{status: exitNo, err: err}
	case errors.Is(err, warlock.ErrNotAcquired), errors.Is(err, context.DeadlineExceeded):
		return &exit{status: exitTimeout, err: err}
	case errors.Is(err, warlock.ErrLeaseLost):
		return &exit{status: exitLost, err: err}
	}
	return &exit{status: exitUnavailable, err: err}
}
