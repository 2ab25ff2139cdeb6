//go:build !unix

package main

import (
	"errors"
	"os"
)

// stop fails: only Unix has a signal that stops a process.
func stop(*os.Process) error { return errors.ErrUnsupported }

// goOn is for processes that were stopped, of which there are none.
func goOn(*os.Process) error { return errors.ErrUnsupported }
