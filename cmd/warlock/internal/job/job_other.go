//go:build !unix

package job

import (
	"errors"
	"os"
)

// Signals are the signals that a command gets when this process does.
var Signals = []os.Signal{os.Interrupt}

// Ends reports true.
func Ends(os.Signal) bool { return true }

// Run fails: this system has no process groups as Unix has.
func Run(Command, Lease, chan os.Signal) (Outcome, error) {
	return Outcome{}, errors.New(
		"commands run under a lock on Unix alone: use the library in a program")
}

// Interrupt does nothing.
func Interrupt() {}

// IsGuard reports false.
func IsGuard() bool { return false }

// Guard does nothing.
func Guard() {}
