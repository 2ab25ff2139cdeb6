package main

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A shell is an interactive bash in a terminal.
type shell struct {
	t        *testing.T
	s        *redistest.Server
	terminal interface{ Write([]byte) (int, error) }

	mu   sync.Mutex
	text string // that the terminal shows and that was not waited for yet
}

func startShell(t *testing.T, s *redistest.Server) *shell {
	t.Helper()
	redistest.Require(t, "bash")
	cmd := exec.Command("bash", "--norc", "--noprofile", "-i")
	cmd.Env = append(environment(s), "PS1=$ ", "PS2=", "TERM=dumb", "W="+binary)
	terminal, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	sh := &shell{t: t, s: s, terminal: terminal}
	go func() { // ends with the last process that has the terminal
		for buf := make([]byte, 4096); ; {
			n, err := terminal.Read(buf)
			if err != nil {
				return
			}
			sh.mu.Lock()
			sh.text += string(buf[:n])
			sh.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		killSession(cmd.Process.Pid)
		_ = cmd.Wait()
	})
	sh.types("stty -echo; bind 'set enable-bracketed-paste off'; echo rea''dy\n")
	sh.shows("ready\r\n")
	return sh
}

// killSession kills the processes of a session.
func killSession(session int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if its, err := unix.Getsid(pid); err == nil && its == session {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// types types text.
func (sh *shell) types(text string) {
	sh.t.Helper()
	if _, err := sh.terminal.Write([]byte(text)); err != nil {
		sh.t.Fatal(err)
	}
}

// shows waits until the terminal shows text, after what was waited for before.
func (sh *shell) shows(text string) {
	sh.t.Helper()
	rest := ""
	defer func() {
		if sh.t.Failed() {
			sh.t.Logf("it shows %q", rest)
		}
	}()
	redistest.Eventually(sh.t, func() bool {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		rest = sh.text
		_, after, found := strings.Cut(sh.text, text)
		if found {
			sh.text = after
		}
		return found
	}, "the terminal shows %q", text)
}

const (
	controlC = "\x03"
	controlD = "\x04"
	controlZ = "\x1a"
)

// scenes are what somebody does in a terminal.
var scenes = map[string]func(sh *shell){
	"read": func(sh *shell) {
		sh.types("$W run k -- sh -c 'echo g''o; exec cat'; echo status=$?\n")
		sh.shows("go\r\n")
		sh.types("hello\n")
		sh.shows("hello\r\n")
		sh.types(controlD)
		sh.shows("status=0")
	},
	"is one": func(sh *shell) {
		sh.types("$W run k -- sh -c 'test -t 0 && test -t 1 && test -t 2 && stty size && echo t''ty'\n")
		sh.shows("tty")
	},
	"interrupt": func(sh *shell) {
		sh.types("$W run k -- sh -c 'echo g''o; exec sleep 1000'\n")
		sh.shows("go\r\n")
		sh.types(controlC)
		sh.shows("$ ")
		sh.types("echo status=$?\n")
		sh.shows("status=130")
	},
	"interrupt a loop": func(sh *shell) {
		sh.types("bash -c 'for i in 1 2 3; do " +
			"$W run k -- sh -c \"echo g''o; exec sleep 1000\"; done; echo go on'\n")
		sh.shows("go\r\n")
		sh.types(controlC)
		sh.shows("$ ")
		sh.types("echo status=$?\n")
		sh.shows("status=130")
	},
	"stop where no shell could go on": func(sh *shell) {
		sh.types("setsid -c -w $W run k -- sh -c 'echo g''o; read x; echo got $x'\n")
		sh.shows("go\r\n")
		sh.types(controlZ + "line\n")
		sh.shows("got line")
	},
	"interrupt a wait": func(sh *shell) {
		defer hold(sh.t, sh.s, "k")()
		sh.types("$W run k -- echo it ran\n")
		waits(sh.t, sh.s, "k", 1)
		sh.types(controlC)
		waits(sh.t, sh.s, "k", 0)
		sh.types("echo status=$?\n")
		sh.shows("status=130")
	},
	"stop": func(sh *shell) {
		sh.types("$W run --ttl 1m k -- sh -c 'echo g''o; exec cat'\n")
		sh.shows("go\r\n")
		sh.types(controlZ)
		sh.shows("Stopped")
		sh.types("echo pro''mpt\n")
		sh.shows("prompt")
		sh.types("fg\n")
		sh.shows("run --ttl 1m k")
		sh.types("again\n")
		sh.shows("again")
		sh.types(controlD)
		sh.types("echo status=$?\n")
		sh.shows("status=0")
	},
	"pipeline": func(sh *shell) {
		sh.types("$W run k -- head -n 1 | sed s/li/LI/; echo status=$?\n")
		sh.isHeld()
		sh.types("line\n")
		sh.shows("LIne")
		sh.shows("status=0")
	},
	"interrupt in a pipeline": func(sh *shell) {
		sh.types("$W run k -- sh -c 'echo g''o; exec sleep 1000' | cat\n")
		sh.shows("go\r\n")
		sh.types(controlC)
		isFree(sh.t, sh.s, "k")
		sh.types("echo pro''mpt\n")
		sh.shows("prompt")
	},
	"background": func(sh *shell) {
		sh.types("$W run --ttl 1m k -- cat &\n")
		redistest.Eventually(sh.t, func() bool {
			sh.types("jobs\n")
			sh.mu.Lock()
			defer sh.mu.Unlock()
			return strings.Contains(sh.text, "Stopped")
		}, "the job is stopped, for it reads from the terminal")
		sh.types("fg\n")
		sh.shows("Stopped")
		sh.types("hello\n")
		sh.shows("hello")
		sh.types(controlD)
		isFree(sh.t, sh.s, "k")
	},
	"stop in a pipeline": func(sh *shell) {
		sh.types("$W run --ttl 1m k -- sh -c 'echo \"pids: $$ $$\"; exec sleep 1000' | cat\n")
		sh.shows("pids: ")
		sh.types(controlZ)
		sh.shows("Stopped")
		sh.types("ps -o stat=,comm= --ppid $(jobs -p)\n")
		sh.shows("\nT ")
		sh.types("fg\n")
		sh.shows("run --ttl 1m k")
		sh.types(controlC)
		isFree(sh.t, sh.s, "k")
	},
	"modes": func(sh *shell) {
		sh.types("$W run k -- sh -c 'stty raw; kill -9 $$'; echo status=$?; stty -a\n")
		sh.shows("status=137")
		sh.shows(" icanon")
	},
}

func TestTerminal(t *testing.T) {
	s := redistest.Start(t)
	for name, play := range scenes {
		t.Run(name, func(t *testing.T) {
			play(startShell(t, s))
			isFree(t, s, "k")
		})
	}
}

// isHeld waits until the lock k is held.
func (sh *shell) isHeld() {
	sh.t.Helper()
	redistest.Eventually(sh.t, func() bool { return len(status(sh.t, sh.s, "k").Holders) > 0 },
		"the lock is held")
}
