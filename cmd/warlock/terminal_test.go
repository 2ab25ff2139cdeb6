//go:build unix

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A terminal has warlock running in it.
type terminal struct {
	t      *testing.T
	keys   *os.File // what is written here is typed
	own    *os.File // the other side, which keeps its settings
	before *term.State
	screen *redistest.Log
	cmd    *exec.Cmd
}

// inTerminal starts cmd in a terminal of its own.
func inTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	keys, own, err := pty.Open()
	if err != nil {
		t.Skipf("no terminal is to be had: %v", err)
	}
	t.Cleanup(func() {
		_ = keys.Close()
		_ = own.Close()
	})
	if err := pty.Setsize(keys, &pty.Winsize{Cols: 100, Rows: 16}); err != nil {
		t.Fatal(err)
	}
	before, err := term.GetState(int(own.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = own, own, own
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	x := &terminal{t, keys, own, before, new(redistest.Log), cmd}
	go func() { _, _ = io.Copy(x.screen, keys) }() // until keys is closed
	return x
}

// shows waits until text has been written to the terminal.
func (x *terminal) shows(text string) {
	x.t.Helper()
	defer func() {
		if x.t.Failed() {
			x.t.Logf("the terminal got %q", x.screen)
		}
	}()
	there := func() bool { return strings.Contains(x.screen.String(), text) }
	redistest.Eventually(x.t, there, "the terminal shows %q", text)
}

func (x *terminal) types(keys string) {
	x.t.Helper()
	if _, err := io.WriteString(x.keys, keys); err != nil {
		x.t.Fatal(err)
	}
}

// ends waits until the process has ended with that status, and looks whether the
// terminal is as before.
func (x *terminal) ends(status int) {
	x.t.Helper()
	_ = x.cmd.Wait() // the status says more than the error
	if got := x.cmd.ProcessState.ExitCode(); got != status {
		x.t.Errorf("status %d, want %d", got, status)
	}
	now, err := term.GetState(int(x.own.Fd()))
	if err != nil || *now != *x.before {
		x.t.Errorf("the settings of the terminal are %+v, %v; before they were %+v", now, err, x.before)
	}
	x.shows("\x1b[?1049l") // the screen of before
	if s := x.screen.String(); strings.LastIndex(s, "\x1b[?25h") < strings.LastIndex(s, "\x1b[?25l") {
		x.t.Error("the cursor stays hidden")
	}
}

func TestTopInATerminal(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	x := inTerminal(t, command(t, "top", "--every", "100ms", "--redis", "redis://"+s.Addr))
	x.shows("warlock run KEY -- command")
	heldBy(t, s, "invoice:42", "web-3/4711")
	x.shows("invoice:42")
	x.shows("web-3/4711")
	x.types("\r")
	x.shows("Nobody waits for it.")
	awaitedBy(t, s, "invoice:42", "worker-5/119")
	x.shows("worker-5/119")
	x.types("\x1b")
	x.shows("1 waiter")
	s.Kill()
	x.shows("refused")
	if err := pty.Setsize(x.keys, &pty.Winsize{Cols: 60, Rows: 10}); err != nil {
		t.Fatal(err)
	}
	x.types("q")
	x.ends(0)
}

func TestTopEndsBySignal(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		x := inTerminal(t, command(t, "top", "--redis", "redis://"+s.Addr))
		x.shows("quit")
		if err := x.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		x.ends(exitSignal + int(signal))
	}
}

// A server that hangs does not hold up the keys.
func TestTopQuitsWhileRedisHangs(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	x := inTerminal(t, command(t, "top", "--every", "100ms", "--redis", "redis://"+s.Addr))
	x.shows("quit")
	s.Pause()
	t.Cleanup(s.Resume)
	x.types("\x03")
	x.ends(0)
}

func TestTopWithoutColours(t *testing.T) {
	t.Parallel()
	colour := regexp.MustCompile(`\x1b\[[0-9;:]*[34][0-7][0-9;:]*m`)
	for _, c := range []struct {
		env     string
		colours bool
	}{{"NO_COLOR=", true}, {"NO_COLOR=1", false}} {
		cmd := command(t, "top", "--redis", "redis://127.0.0.1:1") // the error is red
		cmd.Env = append(cmd.Env, c.env)
		x := inTerminal(t, cmd)
		x.shows("refused")
		x.types("q")
		x.ends(0)
		if got := colour.MatchString(x.screen.String()); got != c.colours {
			t.Errorf("%s: colours %v in %q", c.env, got, x.screen)
		}
	}
}

func TestTopOnADumbTerminal(t *testing.T) {
	t.Parallel()
	cmd := command(t, "top")
	cmd.Env = append(cmd.Env, "TERM=dumb")
	x := inTerminal(t, cmd)
	x.shows(`use "warlock ls", or --json`)
	_ = cmd.Wait()
	got := cmd.ProcessState.ExitCode()
	if got != exitUsage || strings.Contains(x.screen.String(), "\x1b") {
		t.Errorf("status %d, and the terminal got %q", got, x.screen)
	}
}

// An escape sequence in a key does not reach the terminal.
func TestTopQuotesStrangers(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	const evil = "k\x1b]0;owned\a\x1b[2Jk\u009b31m"
	heldBy(t, s, evil, "o")
	x := inTerminal(t, command(t, "top", "--every", "100ms", "--redis", "redis://"+s.Addr))
	x.shows(`k\x1b]0;owned\a\x1b[2Jk\u009b31m`)
	x.types("\r")
	x.shows("Nobody waits for it.")
	x.types("q")
	x.ends(0)
	for _, part := range []string{"\x1b]0;owned", "\x1b[2Jk", "\u009b"} {
		if strings.Contains(x.screen.String(), part) {
			t.Errorf("the terminal got %q", part)
		}
	}
}

// The password of a URL is used, and then is in no list of processes.
func TestPasswordsAreNotInTheProcessList(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc")
	}
	t.Parallel()
	const word = "SECRET123"
	s := redistest.Start(t, "--requirepass", word)
	for _, args := range [][]string{
		{"--redis", "redis://:" + word + "@" + s.Addr},
		{"--redis=redis://default:" + word + "@" + s.Addr},
		{"--redis", "redis://" + s.Addr + "?password=" + word},
	} {
		cmd := command(t, append([]string{"top", "--json", "--every", "100ms"}, args...)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		look := make([]byte, 1024)
		n, err := out.Read(look)
		if err != nil || strings.Contains(string(look[:n]), "error") {
			t.Errorf("%q: the look is %s, %v", args, look[:n], err)
		}
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "cmdline"))
		shown := string(line)
		if err != nil || strings.Contains(shown, word) || !strings.Contains(shown, "--json") {
			t.Errorf("the process list has %q, %v", shown, err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}
