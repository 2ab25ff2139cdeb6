//go:build unix

package job

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
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
	program, err := os.Executable()
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
func (g *guard) watch(group int) { fmt.Fprintf(g.pipe, "group %d\n", group) }

// allow has the guard let the group live until deadline. It reports whether the guard
// is there.
func (g *guard) allow(deadline time.Time) bool {
	if deadline.Equal(g.told) {
		return true
	}
	g.told = deadline
	_, err := fmt.Fprintf(g.pipe, "deadline %d\n", monotonic()+int64(time.Until(deadline)))
	return err == nil
}

// dismiss ends the guard.
func (g *guard) dismiss() {
	fmt.Fprintln(g.pipe, "done")
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
	lines := make(chan string)
	go func() { // ends with the pipe, or with this process
		defer close(lines)
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			lines <- s.Text()
		}
	}()
	var w watched
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				w.kill()
				return
			}
			if line == "done" {
				return
			}
			w.read(line)
		case <-w.due:
			w.kill()
			w.due = nil
		}
	}
}

// watched is what a guard watches.
type watched struct {
	group int // 0: not known yet
	due   <-chan time.Time
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
		w.due = time.After(time.Duration(n - monotonic()))
	}
}

// kill kills the group.
func (w *watched) kill() {
	if w.group > 1 {
		_ = unix.Kill(-w.group, unix.SIGKILL)
	}
}
