package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A command ends at once at TERM, and its child takes its time: the lock stays taken.
func TestLockIsHeldWhileTheGroupEnds(t *testing.T) {
	s := redistest.Start(t)
	end := filepath.Join(t.TempDir(), "end")
	p := start(t, s, "run", "k", "--", "sh", "-c", `
		sh -c 'trap "echo told" TERM; echo "pids: $PPID $$"
			while [ ! -e "$0" ]; do sleep 0.01; done' "$0"
		true`, end)
	pids := p.pids()
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.says("told")
	gone(t, pids[0])
	start(t, s, "run", "--try", "k", "--", "true").ends(exitTimeout)
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.ends(143)
	isFree(t, s, "k")
}

// A lock is lost while the command waits for another lock.
func TestNoStartWithoutAllLocks(t *testing.T) {
	s := redistest.Start(t)
	release := hold(t, s, "b")
	defer release()
	p := start(t, s, "run", "--ttl", "1s", "a", "b", "--", "echo", "it ran")
	waits(t, s, "b", 1)
	start(t, s, "break", "a", "--yes").ends(0)
	p.ends(exitLost) // and does not wait for b
	if strings.Contains(p.out.String(), "it ran") {
		t.Error("the command ran without its first lock")
	}
	waits(t, s, "b", 0)
}

func TestProgramIsReplacedWhileItRuns(t *testing.T) {
	s := redistest.Start(t)
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "warlock")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	release := hold(t, s, "k")
	cmd := exec.Command(path, "run", "k", "--", "echo", "it ran")
	cmd.Env = environment(s)
	p := begin(t, cmd)
	waits(t, s, "k", 1)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	release()
	p.ends(0)
	p.says("it ran")
}

// A guard that was stopped past a deadline knows of the later one when it goes on.
func TestStoppedGuard(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "--ttl", "1s", "k", "--", "sh", "-c", family)
	pids := p.pids()
	guard := guardOf(p)
	if err := unix.Kill(guard, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	fence := status(t, s, "k").Fence
	stopped := time.Now()
	passed := func(d time.Duration) {
		redistest.Eventually(t, func() bool { return time.Since(stopped) > d }, "%v pass", d)
	}
	passed(1500 * time.Millisecond)
	if err := unix.Kill(guard, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	passed(2 * time.Second)
	now := status(t, s, "k")
	if now.Mode != warlock.ModeWrite || now.Fence < fence || !lives(pids[0]) {
		t.Error("the guard killed a command that has its lock")
	}
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ends(143)
}

func TestSignalEndsTheUnlock(t *testing.T) {
	s := redistest.Start(t)
	end := filepath.Join(t.TempDir(), "end")
	p := start(t, s, "run", "--ttl", "1m", "k", "--", "sh", "-c",
		`echo "pids: $$ $$"; while [ ! -e "$0" ]; do sleep 0.01; done; exit 3`, end)
	pids := p.pids()
	s.Pause()
	defer s.Resume()
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone(t, pids...)
	signaled, last := time.Now(), time.Time{}
	redistest.Eventually(t, func() bool {
		said := strings.Contains(p.out.String(), "did not confirm")
		// The first signal may come while the command is reaped. One right after the line would
		// kill the process.
		if !said && time.Since(last) > 500*time.Millisecond {
			last = time.Now()
			_ = p.Process.Signal(unix.SIGTERM)
		}
		return said
	}, "the signal ends the unlock")
	p.ends(3)
	if took := time.Since(signaled); took > 3*time.Second {
		t.Errorf("it took %v to end", took)
	}
}

func TestBreakOfALongID(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "k", strings.Repeat("i", 5000))
	p := start(t, s, "break", "k", "--yes")
	p.ends(exitNo)
	p.says("too long")
}

// timeout(1) puts its command into a group of its own.
func TestTimeoutIsNoWayOut(t *testing.T) {
	redistest.Require(t, "timeout")
	s := redistest.Start(t)
	p := start(t, s, "run", "--ttl", "1s", "k", "--", "sh", "-c", `
		timeout 1000 sh -c 'trap "" TERM; echo "pids: $PPID $$"; while :; do sleep 0.01; done'
		true`)
	pids := p.pids()
	start(t, s, "break", "k", "--yes").ends(0)
	p.ends(exitLost)
	gone(t, pids...)
}

// A reader of a pipe that the shell has open sees its end when the command ends.
func TestGuardKeepsNoFiles(t *testing.T) {
	s := redistest.Start(t)
	cmd := exec.Command("sh", "-c", `exec 9>/dev/null; exec "$0" run other -- sh -c 'exec 9>&-; `+
		`echo "pids: $$ $$"; exec sleep 1000'`, binary)
	cmd.Env = environment(s)
	p := begin(t, cmd)
	p.pids()
	guard := guardOf(p)
	redistest.Eventually(t, func() bool {
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/9", guard))
		return err != nil
	}, "the guard has closed the file")
}

func TestOutputThatCannotBeWritten(t *testing.T) {
	s := redistest.Start(t)
	defer hold(t, s, "k")()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"ls"}, {"ls", "--json"}, {"show", "k"}, {"man"}} {
		cmd := exec.Command(binary, args...)
		cmd.Env, cmd.Stdout = environment(s), full
		begin(t, cmd).ends(exitOutput)
	}
}

// A guard that was told of no group kills none when its pipe ends.
func TestGuardOfNobodyKillsNobody(t *testing.T) {
	sibling := exec.Command("sleep", "1000")
	sibling.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	begin(t, sibling)
	guard := exec.Command(binary)
	guard.Args = []string{"warlock-guard"}
	guard.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	begin(t, guard).ends(0) // its standard input is empty
	if !lives(sibling.Process.Pid) {
		t.Error("the guard killed another child of its parent")
	}
}

// What no waiting mends ends a run at once, though it would wait for the lock.
func TestRunThatCannotHaveItsLock(t *testing.T) {
	s := redistest.Start(t)
	s.Do("LPUSH", "list", "x")
	p := start(t, s, "run", "list", "--", "echo", "it ran")
	p.ends(exitUnavailable)
	p.says("WRONGTYPE")

	s.Do("CONFIG", "SET", "requirepass", "s3cret/:@")
	cmd := exec.Command(binary, "run", "k", "--", "echo", "it ran")
	cmd.Env = append(environment(s), "WARLOCK_PASSWORD=wr0ng")
	q := begin(t, cmd)
	q.ends(exitUnavailable)
	q.says("WRONGPASS")
	if text := p.out.String() + q.out.String(); strings.Contains(text, "it ran") ||
		strings.Contains(text, "wr0ng") || strings.Count(text, "\n") != 2 {
		t.Errorf("they wrote %s", text)
	}
	cmd = exec.Command(binary, "run", "k", "--", "echo", "it ran")
	cmd.Env = append(environment(s), "WARLOCK_PASSWORD=s3cret/:@")
	begin(t, cmd).ends(0)
}

// Runs with several keys take them in one order, so none waits for another in a circle.
func TestKeysInAnyOrder(t *testing.T) {
	s := redistest.Start(t)
	var all []*process
	for range 8 {
		all = append(all, start(t, s, "run", "a", "b", "--", "sleep", "0.01"),
			start(t, s, "run", "b", "a", "--", "sleep", "0.01"))
	}
	for _, p := range all {
		p.ends(0)
	}
}

func TestQuiet(t *testing.T) {
	s := redistest.Start(t)
	defer hold(t, s, "k")()
	for _, wait := range []string{"--try", "--wait=50ms"} {
		p := start(t, s, "run", "--quiet", wait, "k", "--", "true")
		p.ends(exitTimeout)
		if p.out.String() != "" {
			t.Errorf("%s: it wrote %s", wait, p.out)
		}
	}
	p := start(t, s, "run", "--quiet", "--ttl", "1ms", "k", "--", "true")
	p.ends(exitUsage)
	p.says("warlock: ")
}

func TestLog(t *testing.T) {
	s := redistest.Start(t)
	release := hold(t, s, "k")
	p := start(t, s, "run", "--log", "k", "--", "true")
	p.says(`msg="lock waiting" key=k`)
	release()
	p.ends(0)
	p.says(`msg="lock acquired" key=k`)
	p.says("before=the-test")
	p.says(`msg="lock released" key=k`)
}
