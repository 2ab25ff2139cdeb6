//go:build !unix

package redistest

import "os"

// Stop skips the test: only Unix has a signal that stops a process.
func Stop(tb TB, _ *os.Process) {
	tb.Helper()
	tb.Skip("a process can be stopped on Unix only")
}

// GoOn is for processes that were stopped, of which there are none.
func GoOn(TB, *os.Process) {}
