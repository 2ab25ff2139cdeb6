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
	// This process may be stopped right after the start.
	j.allow(l.Deadline())
	if l.over() { // it was lost while this process waited for another lock, or was stopped
		return Outcome{Overtime: true}, nil
	}
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
	dead   *unix.WaitStatus // how the leader ended; nil: it runs

	told   bool      // the group was told to end: what is left of it is waited for
	ending bool      // for the lease
	killAt time.Time // when it is killed, if ending
	strays []int     // processes that have left the group, as of when it was told to end

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

// over reports whether l is lost, or has run out.
func (l Lease) over() bool {
	select {
	case <-l.Lost:
		return true
	default:
		return !time.Now().Before(l.Deadline())
	}
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
				j.dead, j.states = &s, nil
				j.told = j.told || s.Signaled() && tells(s.Signal())
				wake.Reset(0)
			}
		case s := <-j.signals:
			j.pass(s.(syscall.Signal))
		case <-lost:
			lost = nil
			j.end(time.Now())
			wake.Reset(0)
		case <-wake.C:
			next := j.check(time.Now())
			if j.dead != nil && !j.restRuns() {
				return j.ended(*j.dead), nil
			}
			wake.Reset(time.Until(next))
		}
	}
}

// tells reports whether s tells a program to end.
func tells(s syscall.Signal) bool {
	return s == unix.SIGTERM || s == unix.SIGINT || s == unix.SIGHUP || s == unix.SIGQUIT
}

// restRuns reports whether the lock is still needed though the command has ended: its
// group was told to end, and a process of it works on.
func (j *job) restRuns() bool {
	if !j.told || j.ending && !time.Now().Before(j.killAt) { // killed by now
		return false
	}
	if j.ending {
		j.strays = strays(j.group, j.strays)
	}
	return len(j.strays) > 0 || groupLives(j.group)
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
	j.told = j.told || tells(s)
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
	if orphaned() { // no shell could continue it, so the system ignores such stops
		j.pass(unix.SIGCONT)
		return
	}
	j.suspended = true
	if j.terminal.take(j.group) && by == unix.SIGTSTP {
		j.echo = true
		_ = unix.Kill(0, unix.SIGTSTP) // this process only notes it
	}
	_ = unix.Kill(unix.Getpid(), unix.SIGTTIN)
}

// orphaned reports whether the process group of this process has no parent in its
// session that could continue it.
func orphaned() bool {
	own := unix.Getpgrp()
	session, _ := unix.Getsid(0)
	for pid := unix.Getppid(); pid > 0; pid = parentOf(pid) {
		if group, err := unix.Getpgid(pid); err != nil || group == own {
			continue
		}
		its, err := unix.Getsid(pid)
		return err != nil || its != session
	}
	return true
}

// ended returns how the command ended, whose status is s.
func (j *job) ended(s unix.WaitStatus) Outcome {
	had := j.terminal.take(j.group)
	if !s.Signaled() {
		return Outcome{Status: s.ExitStatus(), Overtime: j.ending}
	}
	if had {
		j.terminal.restore()
	}
	by := s.Signal()
	if had && (by == unix.SIGINT || by == unix.SIGQUIT) {
		_ = unix.Kill(0, by) // the terminal would have sent it to all of the shell's job
	}
	return Outcome{128 + int(by), j.ending, had && by == unix.SIGINT}
}

// Interrupt ends this process as SIGINT does. A shell whose loop runs it ends as well.
func Interrupt() {
	signal.Reset(unix.SIGINT)
	_ = unix.Kill(unix.Getpid(), unix.SIGINT)
	<-time.After(time.Second) // another thread gets it
}

// check does what is due at now, and returns when there may be more to do.
func (j *job) check(now time.Time) (next time.Time) {
	deadline := j.lease.Deadline()
	if !j.allow(deadline) { // the guard is gone
		if guard, err := startGuard(); err == nil {
			j.guard.dismiss()
			j.guard = guard
			j.guard.watch(j.group)
			j.allow(deadline)
		}
	}
	if !j.ending && !now.Before(deadline.Add(-j.warning())) {
		j.end(now)
	}
	next = now.Add(j.lease.TTL / 10) // a renewal may have moved the deadline
	if j.dead != nil {
		next = earlier(next, now.Add(20*time.Millisecond)) // the rest may have ended
	}
	switch {
	case !j.ending:
		return earlier(next, deadline.Add(-j.warning()))
	case now.Before(j.killAt):
		return earlier(next, j.killAt)
	}
	j.toAll(unix.SIGKILL)
	return next
}

// allow has the guard let the command live until shortly before the deadline, and longer
// than this process does. It reports whether the guard is there.
func (j *job) allow(deadline time.Time) bool { return j.guard.allow(deadline.Add(-j.margin() / 2)) }

// end tells the command to end, for the lease.
func (j *job) end(now time.Time) {
	if j.ending {
		return
	}
	j.ending, j.told = true, true
	j.killAt = earlier(now.Add(j.grace), j.lease.Deadline().Add(-j.margin()))
	j.toAll(unix.SIGTERM)
	j.signal(unix.SIGCONT) // it may be stopped
}

// toAll sends a signal to the group, and to the processes that have left it.
func (j *job) toAll(s syscall.Signal) {
	j.strays = strays(j.group, j.strays)
	j.signal(s)
	signalAll(j.strays, s)
}

func signalAll(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		_ = unix.Kill(pid, s)
	}
}

// warning is how long before the deadline the command is told to end. A renewal is due
// when 2/3 of the ttl are left, so half of the ttl remains for Redis to answer one.
func (j *job) warning() time.Duration { return max(j.margin(), min(j.grace, j.lease.TTL/6)) }

// margin is how long before the deadline the command is killed: a kill takes a moment.
func (j *job) margin() time.Duration { return min(100*time.Millisecond, j.lease.TTL/50) }

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
