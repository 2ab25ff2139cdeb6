//go:build unix

package redistest

import (
	"os"
	"syscall"
)

// Stop stops a process where it is, until GoOn.
func Stop(tb TB, p *os.Process) {
	tb.Helper()
	signal(tb, p, syscall.SIGSTOP)
}

// GoOn lets a stopped process go on.
func GoOn(tb TB, p *os.Process) {
	tb.Helper()
	signal(tb, p, syscall.SIGCONT)
}

func signal(tb TB, p *os.Process, sig syscall.Signal) {
	tb.Helper()
	if err := p.Signal(sig); err != nil {
		tb.Fatal(err)
	}
}
