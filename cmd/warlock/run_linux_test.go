package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// lives reports whether a process runs. A zombie does not.
func lives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// gone waits until none of the processes runs.
func gone(tb testing.TB, pids ...int) {
	tb.Helper()
	for _, pid := range pids {
		redistest.Eventually(tb, func() bool { return !lives(pid) }, "process %d ends", pid)
	}
}

// family is a command that names itself and a child, for which it waits.
const family = `sh -c 'echo "pids: $PPID $$"; exec sleep 1000'; exit 0`

// pids returns the processes that the command family has named.
func (p *process) pids() []int {
	p.tb.Helper()
	p.says("pids: ")
	redistest.Eventually(p.tb, func() bool { return strings.Contains(p.out.String(), "\n") },
		"a whole line")
	var shell, child int
	if _, err := fmt.Sscanf(p.out.String(), "pids: %d %d\n", &shell, &child); err != nil {
		p.tb.Fatal(err, p.out)
	}
	p.tb.Cleanup(func() {
		_ = unix.Kill(shell, unix.SIGKILL)
		_ = unix.Kill(child, unix.SIGKILL)
	})
	return []int{shell, child}
}

// guardOf returns the guard of p.
func guardOf(p *process) (guard int) {
	p.tb.Helper()
	redistest.Eventually(p.tb, func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Process.Pid))
		for _, task := range tasks {
			children, _ := os.ReadFile(task)
			for _, child := range strings.Fields(string(children)) {
				name, _ := os.ReadFile("/proc/" + child + "/comm")
				if strings.TrimSpace(string(name)) == "warlock-guard" {
					guard, _ = strconv.Atoi(child)
				}
			}
		}
		return guard != 0
	}, "the guard runs")
	return guard
}

var endSignals = map[string]syscall.Signal{
	"TERM": unix.SIGTERM, "INT": unix.SIGINT, "HUP": unix.SIGHUP,
	"QUIT": unix.SIGQUIT, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func TestSignalsReachGrandchildren(t *testing.T) {
	s := redistest.Start(t)
	for name, signal := range endSignals {
		t.Run(name, func(t *testing.T) {
			p := start(t, s, "run", "k", "--", "sh", "-c", family)
			pids := p.pids()
			if err := p.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			p.ends(128 + int(signal))
			gone(t, pids...)
			isFree(t, s, "k")
		})
	}
}

func TestSignalsWhileWaiting(t *testing.T) {
	s := redistest.Start(t)
	defer hold(t, s, "k")()
	for name, signal := range endSignals {
		t.Run(name, func(t *testing.T) {
			p := start(t, s, "run", "k", "--", "echo", "it ran")
			waits(t, s, "k", 1)
			if err := p.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			p.ends(128 + int(signal))
			waits(t, s, "k", 0)
			if p.out.String() != "" {
				t.Errorf("it wrote %q", p.out)
			}
		})
	}
}

func TestIgnoredSignalsAreTheCommandsToo(t *testing.T) {
	s := redistest.Start(t)
	cmd := exec.Command("sh", "-c",
		`trap "" HUP; exec "$0" run k -- sh -c 'kill -HUP $$; echo alive'`, binary)
	cmd.Env = environment(s)
	p := begin(t, cmd)
	p.ends(0)
	p.says("alive")
}

func TestExitStatusPassesThrough(t *testing.T) {
	s := redistest.Start(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 3": 3, "exit 255": 255, "kill -9 $$": 137, "kill -TERM $$": 143,
	} {
		start(t, s, "run", script, "--", "sh", "-c", script).ends(want)
	}
	start(t, s, "run", "k", "--", "no-such-command").ends(127)
	start(t, s, "run", "k", "--", "/").ends(126)
	start(t, s, "run", "k", "--", "./no/such/file").ends(127)
}

func TestNoOrphans(t *testing.T) {
	for name, kill := range map[string]func(p *process){
		"warlock is killed": func(p *process) {},
		"warlock and its guard are killed": func(p *process) {
			if err := unix.Kill(guardOf(p), unix.SIGKILL); err != nil {
				p.tb.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			p := start(t, s, "run", "--ttl", "1s", "k", "--", "sh", "-c", family)
			pids := p.pids()
			kill(p)
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if name != "warlock is killed" {
				pids = pids[:1] // nothing is left that could kill the child of the command
			}
			gone(t, pids...)
			isFree(t, s, "k")
		})
	}
}

func TestGuardIsReplaced(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "--ttl", "1s", "k", "--", "sh", "-c", family)
	pids := p.pids()
	first := guardOf(p)
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, func() bool { return !lives(first) && guardOf(p) != first },
		"another guard")
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, pids...)
}

// deserter is a command that ends with TERM, and has a child that minds none.
const deserter = `trap 'exit 0' TERM
	sh -c 'trap "" TERM; echo "pids: $PPID $$"; while :; do sleep 0.01; done' & wait`

// stubborn is a command that minds no TERM, and names itself.
const stubborn = `trap "echo told" TERM; echo "pids: $$ $$"; while :; do sleep 0.01; done`

// busy is how late a busy machine may kill a process, and see that it has ended.
const busy = 150 * time.Millisecond

// toldToEnd has commands by what they do when they are told to end.
var toldToEnd = map[string]string{
	"minds TERM": family, "ignores TERM": stubborn, "leaves a child": deserter,
}

func TestCommandEndsByTheDeadline(t *testing.T) {
	const ttl = 2 * time.Second
	for name, script := range toldToEnd {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			p := start(t, s, "run", "--ttl", ttl.String(), "k", "--", "sh", "-c", script)
			pids := p.pids()
			s.Pause()
			defer s.Resume()
			paused := time.Now() // no renewal was sent after this
			gone(t, pids...)
			if lived := time.Since(paused); lived > ttl+busy {
				t.Errorf("the command lived for %v after the last renewal, longer than the ttl", lived)
			}
			p.ends(exitLost)
			p.says("lease")
			if script == stubborn {
				p.says("told")
			}
		})
	}
}

func TestLockIsTakenAway(t *testing.T) {
	const ttl, grace = 6 * time.Second, 300 * time.Millisecond
	for name, script := range toldToEnd {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			p := start(t, s, "run", "--ttl", ttl.String(), "--kill-after", grace.String(),
				"k", "--", "sh", "-c", script)
			pids := p.pids()
			start(t, s, "break", "k", "--yes").ends(0)
			release := hold(t, s, "k")
			if script == stubborn {
				p.says("told")
				told := time.Now()
				gone(t, pids...)
				if took := time.Since(told); took > ttl/2 { // the guard kills 2/3 of the ttl later
					t.Errorf("the command lived for %v after it was told to end", took)
				}
			}
			gone(t, pids...)
			p.ends(exitLost)
			p.says(`lease lost`)
			if status(t, s, "k").Mode != warlock.ModeWrite {
				t.Error("the next holder lost its lock")
			}
			release()
		})
	}
}

func TestStoppedWarlock(t *testing.T) {
	s := redistest.Start(t)
	const ttl = 2 * time.Second
	p := start(t, s, "run", "--ttl", ttl.String(), "k", "--", "sh", "-c", stubborn)
	pids := p.pids()
	redistest.Stop(t, p.Process)
	stopped := time.Now()
	gone(t, pids...) // its guard does that
	if lived := time.Since(stopped); lived > ttl+busy {
		t.Errorf("the command lived for %v after the last renewal, longer than the ttl", lived)
	}
	release := hold(t, s, "k")
	defer release()
	redistest.GoOn(t, p.Process)
	p.ends(exitLost)
}

func TestRedisGoesAwayForAMoment(t *testing.T) {
	s := redistest.Start(t)
	dir := t.TempDir()
	p := start(t, s, "run", "--ttl", "3s", "k", "--", "sh", "-c",
		`echo "pids: $$ $$"; while [ ! -e "$0/end" ]; do sleep 0.01; done; echo done`, dir)
	p.pids()
	s.Pause()
	time.AfterFunc(1400*time.Millisecond, s.Resume) // of 3 s; a renewal is due each second
	redistest.Eventually(t, func() bool { return s.TTL("k") > 2*time.Second }, "the lease is renewed")
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.ends(0)
	p.says("done")
}

func TestRedisNeverComes(t *testing.T) {
	s := redistest.Start(t)
	s.Kill()
	began := time.Now()
	start(t, s, "run", "--wait", "500ms", "k", "--", "true").ends(exitUnavailable)
	if waited := time.Since(began); waited < 500*time.Millisecond {
		t.Errorf("it waited for %v", waited)
	}
	start(t, s, "run", "--try", "k", "--", "true").ends(exitUnavailable)
}

func TestRunsExclude(t *testing.T) {
	s := redistest.Start(t)
	file := filepath.Join(t.TempDir(), "count")
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	const runs = 20
	var all []*process
	for range runs {
		all = append(all, start(t, s, "run", "k", "--", "sh", "-c",
			`n=$(cat "$0"); sleep 0.01; echo $((n + 1)) >"$0"`, file))
	}
	for _, p := range all {
		p.ends(0)
	}
	if count, _ := os.ReadFile(file); strings.TrimSpace(string(count)) != strconv.Itoa(runs) {
		t.Errorf("the count is %s after %d runs", count, runs)
	}
}

func TestManyRunsFromAShell(t *testing.T) {
	s := redistest.Start(t)
	cmd := exec.Command("sh", "-c", `
		for i in $(seq 200); do "$0" run k -- true || echo lost & done
		wait
		echo end`, binary)
	cmd.Env = environment(s)
	p := begin(t, cmd)
	p.ends(0)
	if p.out.String() != "end\n" {
		t.Errorf("it wrote %q", p.out)
	}
}

func TestOutputIsTheCommandsOwn(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "k", "--", "sh", "-c", `for i in 1 2 3; do echo $i; echo $i >&2; done`)
	p.ends(0)
	if p.out.String() != "1\n1\n2\n2\n3\n3\n" {
		t.Errorf("it wrote %q", p.out)
	}
}

func TestDaemonLivesOn(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "k", "--", "sh", "-c",
		`setsid sh -c 'echo "pids: $$ $$"; exec sleep 1000 >/dev/null 2>&1' & wait`)
	pids := p.pids()
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	isFree(t, s, "k")
	if !lives(pids[0]) {
		t.Error("the daemon has ended, which left the command's process group")
	}
}

func TestMinHold(t *testing.T) {
	s := redistest.Start(t)
	const held = 700 * time.Millisecond
	before := time.Now()
	start(t, s, "run", "--try", "--min-hold", held.String(), "k", "--", "true").ends(0)
	start(t, s, "run", "--try", "--min-hold", held.String(), "k", "--", "true").ends(exitTimeout)
	isFree(t, s, "k")
	if after := time.Since(before); after < held {
		t.Errorf("the lock was free after %v", after)
	}
}

func TestShared(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "--shared", "k", "--", "sh", "-c", family)
	p.pids()
	start(t, s, "run", "--shared", "--try", "k", "--", "true").ends(0)
	start(t, s, "run", "--try", "k", "--", "true").ends(exitTimeout)
	if err := p.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ends(143)
	isFree(t, s, "k")
}

func TestSeveralKeys(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "b", "a", "b", "--", "sh", "-c",
		`echo "$WARLOCK_KEY"; echo "$WARLOCK_FENCE" | wc -l; echo "$WARLOCK_ID" | wc -l; `+family)
	p.says("b\na\n2\n2\npids:")
	for _, key := range []string{"a", "b"} {
		if status(t, s, key).Mode != warlock.ModeWrite {
			t.Errorf("%s is not held", key)
		}
	}
	start(t, s, "run", "--try", "c", "b", "--", "true").ends(exitTimeout)
	isFree(t, s, "c")
}

func TestEnvironment(t *testing.T) {
	s := redistest.Start(t)
	p := start(t, s, "run", "--owner", "cron@db-1", "k", "--", "sh", "-c",
		`echo "$WARLOCK_KEY $WARLOCK_ID $WARLOCK_FENCE"
		"$0" show k --json; "$0" release k "$WARLOCK_ID"`, binary)
	p.ends(exitLost) // its unlock finds the lock released
	var key, id string
	var fence int64
	if _, err := fmt.Sscan(p.out.String(), &key, &id, &fence); err != nil {
		t.Fatal(err, p.out)
	}
	if key != "k" || !strings.HasSuffix(id, "/cron@db-1") || fence < 1e15 {
		t.Errorf("the command got %q, %q, %d", key, id, fence)
	}
	p.says(fmt.Sprintf(`"id":%q,"owner":"cron@db-1"`, id))
	p.says(fmt.Sprintf(`"fence":%d`, fence))
}
