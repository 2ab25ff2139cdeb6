//go:build unix

package job

import (
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Signals are the signals that a command gets when this process does. The terminal
// sends some of them, to the group that has it.
var Signals = []os.Signal{
	unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGCONT, unix.SIGWINCH,
}

// Ends reports whether a signal ends a program that does not handle it.
func Ends(s os.Signal) bool { return s != unix.SIGCONT && s != unix.SIGWINCH }

// A terminal is the controlling terminal of this process. A shell gives it to one
// process group at a time. Of other groups, a process that reads from it is stopped.
type terminal struct {
	file  *os.File // nil: there is none
	own   int      // the process group of this process
	modes *term.State
}

func openTerminal() *terminal {
	t := &terminal{own: unix.Getpgrp()}
	file, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return t
	}
	t.file = file
	t.modes, _ = term.GetState(t.fd())
	return t
}

func (t *terminal) close() {
	if t.file != nil {
		t.file.Close()
	}
}

func (t *terminal) fd() int { return int(t.file.Fd()) }

// mine reports whether the group of this process has the terminal.
func (t *terminal) mine() bool { return t.isOf(t.own) }

// isOf reports whether a process group has the terminal.
func (t *terminal) isOf(group int) bool {
	if t.file == nil {
		return false
	}
	has, err := unix.IoctlGetInt(t.fd(), unix.TIOCGPGRP)
	return err == nil && has == group
}

// wanted reports whether a command with these files is to have the terminal from its
// start. In a pipeline, another program may read from it: the command gets it when it
// needs it.
func (t *terminal) wanted(files [3]*os.File) bool {
	return t.mine() && term.IsTerminal(int(files[0].Fd())) && term.IsTerminal(int(files[1].Fd()))
}

// give gives the terminal to a process group.
func (t *terminal) give(group int) {
	_ = unix.IoctlSetPointerInt(t.fd(), unix.TIOCSPGRP, group)
}

// take takes the terminal back from a group, and reports whether that had it.
func (t *terminal) take(group int) bool {
	if !t.isOf(group) {
		return false
	}
	t.give(t.own)
	return true
}

// restore puts the terminal into the modes in which the command got it.
func (t *terminal) restore() {
	if t.modes != nil {
		_ = term.Restore(t.fd(), t.modes)
	}
}
