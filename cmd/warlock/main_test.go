package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

const testTTL = 10 * time.Second

// binary is the program, which the tests build once.
var binary string

func TestMain(m *testing.M) { os.Exit(test(m)) }

func test(m *testing.M) int {
	// What these tests start is not to ignore what nohup has this process ignore.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	dir, err := os.MkdirTemp("", "warlock-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "warlock")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// A process is the program, as it runs.
type process struct {
	*exec.Cmd
	tb     testing.TB
	out    output // standard output and error, as one file
	ended  chan struct{}
	status int
}

// An output is a file that a process writes to. Unlike a pipe it ends with the process,
// although a child of that may have it as well.
type output struct{ *os.File }

func newOutput(tb testing.TB) output {
	f, err := os.CreateTemp(tb.TempDir(), "output")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return output{f}
}

// String returns what was written so far.
func (o output) String() string {
	text, _ := os.ReadFile(o.Name())
	return string(text)
}

// environment returns the environment of a test, in which Redis is at s.
func environment(s *redistest.Server) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "WARLOCK_") && !strings.HasPrefix(e, "REDIS_URL=") {
			env = append(env, e)
		}
	}
	return append(env, "WARLOCK_REDIS=redis://"+s.Addr)
}

// start starts the program with args. It ends with the test.
func start(tb testing.TB, s *redistest.Server, args ...string) *process {
	tb.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = environment(s)
	return begin(tb, cmd)
}

func begin(tb testing.TB, cmd *exec.Cmd) *process {
	tb.Helper()
	p := &process{Cmd: cmd, tb: tb, out: newOutput(tb), ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout, cmd.Stderr = p.out.File, p.out.File
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		var e *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &e) {
			p.status = e.ExitCode()
		} else if err != nil {
			p.status = -2
		}
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// ends waits for the end of the process, and checks its exit status.
func (p *process) ends(status int) {
	p.tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(redistest.Patience):
		p.tb.Fatalf("%q does not end; it wrote\n%s", p.Args[1:], p.out)
	}
	if p.status != status {
		p.tb.Errorf("%q ended with status %d, want %d; it wrote\n%s", p.Args[1:], p.status, status, p.out)
	}
}

// says waits until the process has written text.
func (p *process) says(text string) {
	p.tb.Helper()
	redistest.Eventually(p.tb, func() bool { return strings.Contains(p.out.String(), text) },
		"the process says %q", text)
}

// hold has the test hold the lock of key until release.
func hold(tb testing.TB, s *redistest.Server, key string) (release func()) {
	tb.Helper()
	m := warlock.NewMutex(s.Client(), key, testTTL, warlock.WithOwner("the-test"))
	if err := m.LockContext(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return m.Unlock
}

// status asks Redis about the lock of key.
func status(tb testing.TB, s *redistest.Server, key string) warlock.Status {
	tb.Helper()
	status, err := warlock.Inspect(context.Background(), s.Client(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return status
}

// waits waits until so many wait for the lock of key.
func waits(tb testing.TB, s *redistest.Server, key string, n int) {
	tb.Helper()
	redistest.Eventually(tb, func() bool { return len(status(tb, s, key).Waiting) == n },
		"%d wait for %q", n, key)
}

// isFree waits until the lock of key is free.
func isFree(tb testing.TB, s *redistest.Server, key string) {
	tb.Helper()
	redistest.Eventually(tb, func() bool { return status(tb, s, key).Mode == warlock.ModeFree },
		"%q is free", key)
}
