//go:build unix

package redistest

import (
	"errors"
	"os"
	"syscall"
)

// Stop stops a process that this one started, until GoOn. It returns when all
// threads of the process have stopped: the signal is only sent before that.
func Stop(tb TB, p *os.Process) {
	tb.Helper()
	signal(tb, p, syscall.SIGSTOP)
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !status.Stopped() {
			tb.Fatalf("process %d does not stop: status %#x, %v", p.Pid, status, err)
		}
		return
	}
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
