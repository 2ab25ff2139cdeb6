//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// stop stops a process that this one started, until goOn. It returns when all
// threads of the process have stopped: the signal is only sent before that.
func stop(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.Pid, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil || !status.Stopped():
			return fmt.Errorf("process %d does not stop: status %#x, %w", p.Pid, status, err)
		}
		return nil
	}
}

// goOn lets a stopped process go on.
func goOn(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
