//go:build unix

package job

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A guard is a process that outlives this one. It reads from a pipe what to watch:
//
//	group N      kill that process group when the pipe ends, or at the deadline
//	deadline N   the deadline, in ns of the system's monotonic clock
//	done         there is nothing to watch any more
//
// The pipe ends with this process, however that ends.
type guard struct {
	pipe *os.File
	told time.Time // the deadline it was told last
}

// guardName is what the guard is called in place of its program's name.
const guardName = "warlock-guard"

// startGuard starts a guard, in a session of its own, so that no signal from the
// terminal reaches it.
func startGuard() (*guard, error) {
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := &exec.Cmd{Path: program, Args: []string{guardName}, Stdin: read, Dir: "/", Env: []string{}}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		write.Close()
		return nil, err
	}
	go cmd.Wait() // leaves no zombie; ends with the guard
	return &guard{pipe: write}, nil
}

// watch has the guard watch a process group.
func (g *guard) watch(group int) { _ = g.tell("group %d\n", group) }

// allow has the guard let the group live until deadline. It reports whether the guard
// is there.
func (g *guard) allow(deadline time.Time) bool {
	if deadline.Equal(g.told) {
		return true
	}
	err := g.tell("deadline %d\n", monotonic()+int64(time.Until(deadline)))
	if errors.Is(err, os.ErrDeadlineExceeded) { // it is stopped: it is told the next time
		return true
	}
	g.told = deadline
	return err == nil
}

// tell writes to the guard. It does not wait for a guard that does not read.
func (g *guard) tell(format string, values ...any) error {
	_ = g.pipe.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := fmt.Fprintf(g.pipe, format, values...)
	return err
}

// dismiss ends the guard.
func (g *guard) dismiss() {
	_ = g.tell("done\n")
	g.pipe.Close()
}

// monotonic returns the system's monotonic clock, in ns. All processes have the same.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // each system has this clock
	}
	return t.Nano()
}

// IsGuard reports whether this process was started as a guard. It is to call Guard
// then, and nothing else.
func IsGuard() bool { return len(os.Args) == 1 && os.Args[0] == guardName }

// Guard does the work of a guard until its parent dismisses it, or is gone.
func Guard() {
	// A system that ends all processes of a service, by a signal to each, ends the
	// parent, which ends the guard.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGTSTP)
	nameProcess(guardName)
	closeInherited()
	in, parent := bufio.NewReader(os.Stdin), unix.Getppid()
	var w watched
	for {
		// What the parent has said counts first: this process may have been stopped.
		if in.Buffered() == 0 && !readable(w.due) {
			w.kill()
			w.killUnnamed(parent)
			w.due = 0
			continue
		}
		switch line, err := in.ReadString('\n'); {
		case err != nil:
			w.kill()
			return
		case line == "done\n":
			return
		default:
			w.read(line)
		}
	}
}

// closeInherited closes the files that the parent was given by others: a reader of a
// pipe would wait for the guard.
func closeInherited() {
	files, _ := os.ReadDir("/proc/self/fd")
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil || fd <= 2 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 { // those of this program have it
			_ = unix.Close(fd)
		}
	}
}

// readable waits until the parent has said something, or is gone. It returns false if
// due comes first. That is in ns of the system's monotonic clock; 0: never.
func readable(due int64) bool {
	for {
		wait := -1
		if due != 0 {
			wait = int(max(0, min(due-monotonic(), int64(time.Hour))) / int64(time.Millisecond))
		}
		fds := []unix.PollFd{{Fd: int32(os.Stdin.Fd()), Events: unix.POLLIN}}
		switch n, err := unix.Poll(fds, wait); {
		case n > 0:
			return true
		case err == nil && wait == 0: // nothing was said, and it is time
			return false
		}
	}
}

// watched is what a guard watches.
type watched struct {
	group int   // 0: not known yet
	due   int64 // when it is killed, in ns of the system's monotonic clock; 0: not known
}

// read takes in a line from the parent.
func (w *watched) read(line string) {
	what, value, _ := strings.Cut(line, " ")
	var n int64
	if _, err := fmt.Sscan(value, &n); err != nil {
		return
	}
	switch what {
	case "group":
		w.group = int(n)
	case "deadline":
		w.due = n
	}
}

// kill kills the group.
func (w *watched) kill() {
	if w.group > 1 {
		killGroup(w.group)
	}
}

// killUnnamed kills the groups that children of the parent lead, if the parent was
// stopped before it could name the group. A parent that is gone has left its children to
// another process, whose children are none of the guard's business.
func (w *watched) killUnnamed(parent int) {
	if w.group != 0 || parent <= 1 || unix.Getppid() != parent {
		return
	}
	for _, group := range groupsOf(parent, unix.Getpid()) {
		killGroup(group)
	}
}

// killGroup kills a group, and its descendants that have left it.
func killGroup(group int) {
	left := strays(group, nil)
	_ = unix.Kill(-group, unix.SIGKILL)
	signalAll(left, unix.SIGKILL)
}
