//go:build unix

package job

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Run runs c while l is valid. It passes signals on to the command until that ends:
// the caller has had Signals notified to the channel.
func Run(c Command, l Lease, signals chan os.Signal) (Outcome, error) {
	// On Linux the command is killed when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	j := &job{grace: c.Grace, lease: l, signals: signals, terminal: openTerminal()}
	defer j.terminal.close()
	guard, err := startGuard()
	if err != nil {
		return Outcome{}, fmt.Errorf("the guard of the command cannot start: %w", err)
	}
	j.guard = guard
	defer func() { j.guard.dismiss() }()
	if err := j.start(c); err != nil {
		return Outcome{}, err
	}
	j.guard.watch(j.group)
	return j.supervise()
}

// A job is a command that runs. One goroutine uses it.
type job struct {
	grace    time.Duration
	lease    Lease
	signals  chan os.Signal
	terminal *terminal
	guard    *guard

	group  int // of processes; also the process that leads it
	states <-chan unix.WaitStatus

	ending bool      // for the lease
	killAt time.Time // when it is killed, if ending

	inFront   bool // the command has the terminal, or is to have it when it goes on
	halted    bool // it is stopped
	suspended bool // it was stopped from the terminal, and this process with it
	echo      bool // this process will get the SIGTSTP that it has sent to its own group
}

// start starts the command in a process group of its own. If it is to use the
// terminal, its group gets that.
func (j *job) start(c Command) error {
	cmd := &exec.Cmd{Path: c.Path, Args: c.Args, Env: c.Env, SysProcAttr: attributes()}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Files[0], c.Files[1], c.Files[2]
	cmd.SysProcAttr.Setpgid = true
	if j.terminal.wanted(c.Files) {
		cmd.SysProcAttr.Foreground = true
		cmd.SysProcAttr.Ctty = j.terminal.fd()
		j.inFront = true
	}
	if j.terminal.file != nil {
		signal.Notify(j.signals, unix.SIGTSTP)
	}
	err := cmd.Start()
	signal.Ignore(unix.SIGTTOU) // to take the terminal back; the command has not inherited this
	if err != nil {
		if j.inFront { // the child may have got the terminal before it failed
			j.terminal.give(j.terminal.own)
		}
		return err
	}
	j.group = cmd.Process.Pid
	j.states = follow(j.group)
	return nil
}

// follow reports what becomes of a child, until it has ended.
func follow(pid int) <-chan unix.WaitStatus {
	states := make(chan unix.WaitStatus)
	go func() {
		defer close(states)
		for {
			var s unix.WaitStatus
			_, err := unix.Wait4(pid, &s, unix.WUNTRACED, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil { // somebody else has reaped it
				return
			}
			states <- s
			if s.Exited() || s.Signaled() {
				return
			}
		}
	}()
	return states
}

// supervise returns when the command has ended.
func (j *job) supervise() (Outcome, error) {
	wake := time.NewTimer(0)
	defer wake.Stop()
	lost := j.lease.Lost
	for {
		select {
		case s, ok := <-j.states:
			switch {
			case !ok:
				return Outcome{}, errors.New("the command has ended, and the system did not say how")
			case s.Stopped():
				j.stopped(s.StopSignal())
			default:
				return j.ended(s), nil
			}
		case s := <-j.signals:
			j.pass(s.(syscall.Signal))
		case <-lost:
			lost = nil
			j.end(time.Now())
			wake.Reset(0)
		case <-wake.C:
			wake.Reset(time.Until(j.check(time.Now())))
		}
	}
}

// signal sends a signal to the command's process group.
func (j *job) signal(s syscall.Signal) { _ = unix.Kill(-j.group, s) }

// pass passes a signal on to the command.
func (j *job) pass(s syscall.Signal) {
	switch {
	case s == unix.SIGTSTP && j.echo: // it came from suspend, and may come after SIGCONT
		j.echo = false
		return
	case s == unix.SIGCONT && j.suspended:
		j.suspended = false
		if j.inFront && j.terminal.mine() {
			j.terminal.give(j.group)
		}
	}
	j.signal(s)
	if j.halted && Ends(s) {
		j.signal(unix.SIGCONT) // or it does not get s
	}
	j.halted = j.halted && s != unix.SIGCONT && !Ends(s)
}

// stopped takes in that a signal has stopped the command. If it needs the terminal,
// which is this process's, it gets that.
func (j *job) stopped(by syscall.Signal) {
	j.halted = true
	switch by {
	case unix.SIGTTIN, unix.SIGTTOU:
		if !j.terminal.mine() {
			j.suspend(by)
			return
		}
		j.inFront = true
		j.terminal.give(j.group)
		j.pass(unix.SIGCONT)
	case unix.SIGTSTP:
		j.suspend(by)
	}
}

// suspend stops the process group of this process, as the terminal has stopped the
// command by a signal: so the shell sees that its job has stopped. The group goes on
// with SIGCONT.
func (j *job) suspend(by syscall.Signal) {
	j.suspended = true
	if j.terminal.take(j.group) && by == unix.SIGTSTP {
		j.echo = true
		_ = unix.Kill(0, unix.SIGTSTP) // this process only notes it
	}
	// Of the signals that stop a group, unless no shell could continue it, this process
	// has left this one alone.
	_ = unix.Kill(unix.Getpid(), unix.SIGTTIN)
}

// ended returns how the command ended, whose status is s. If it was told to end, the
// rest of its group ends as well.
func (j *job) ended(s unix.WaitStatus) Outcome {
	if j.ending {
		j.killRest()
	}
	had := j.terminal.take(j.group)
	if !s.Signaled() {
		return Outcome{s.ExitStatus(), j.ending}
	}
	if had {
		j.terminal.restore()
	}
	if by := s.Signal(); had && (by == unix.SIGINT || by == unix.SIGQUIT) {
		_ = unix.Kill(0, by) // the terminal would have sent it to all of the shell's job
	}
	return Outcome{128 + int(s.Signal()), j.ending}
}

// killRest waits until no process is left in the group, and kills what is left when it
// is time.
func (j *job) killRest() {
	const pause = 5 * time.Millisecond
	for unix.Kill(-j.group, 0) == nil {
		if !time.Now().Before(j.killAt) {
			j.signal(unix.SIGKILL)
			return
		}
		time.Sleep(pause)
	}
}

// check does what is due at now, and returns when there may be more to do.
func (j *job) check(now time.Time) (next time.Time) {
	deadline := j.lease.Deadline()
	if !j.guard.allow(deadline) { // it is gone
		if guard, err := startGuard(); err == nil {
			j.guard.dismiss()
			j.guard = guard
			j.guard.watch(j.group)
			j.guard.allow(deadline)
		}
	}
	if !j.ending && !now.Before(deadline.Add(-j.warning())) {
		j.end(now)
	}
	next = now.Add(j.lease.TTL / 10) // a renewal may have moved the deadline
	switch {
	case !j.ending:
		return earlier(next, deadline.Add(-j.warning()))
	case now.Before(j.killAt):
		return earlier(next, j.killAt)
	}
	j.signal(unix.SIGKILL)
	return next
}

// end tells the command to end, for the lease.
func (j *job) end(now time.Time) {
	if j.ending {
		return
	}
	j.ending = true
	margin := min(100*time.Millisecond, j.lease.TTL/50) // a kill takes a moment
	j.killAt = earlier(now.Add(j.grace), j.lease.Deadline().Add(-margin))
	j.signal(unix.SIGTERM)
	j.signal(unix.SIGCONT) // it may be stopped
}

// warning is how long before the deadline the command is told to end. A renewal is due
// when 2/3 of the ttl are left, so half of the ttl remains for Redis to answer one.
func (j *job) warning() time.Duration { return min(j.grace, j.lease.TTL/6) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
