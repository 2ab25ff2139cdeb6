//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warlock-go/warlock/internal/redistest"
)

// inShell returns a command that is a shell, in whose PATH the test binary is warlock.
// The test is skipped if there is no such shell.
func inShell(t *testing.T, s *redistest.Server, name string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(name + " is not in PATH")
	}
	bin := t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(bin, "warlock")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), asWarlock+"=1", "TERM=xterm", "HOME="+bin,
		"PATH="+bin+":"+os.Getenv("PATH"), "WARLOCK_REDIS=redis://"+s.Addr)
	cmd.Dir = bin
	return cmd
}

// Somebody types the beginning of a key, with a colon in it, and the tab.
func TestBashCompletesKeys(t *testing.T) {
	t.Parallel()
	const library = "/usr/share/bash-completion/bash_completion"
	if _, err := os.Stat(library); err != nil {
		t.Skip("bash-completion is not installed")
	}
	s := redistest.Start(t)
	heldBy(t, s, "invoice:42", "o")
	heldBy(t, s, "invent*", "o")
	x := inTerminal(t, inShell(t, s, "bash", "--noprofile", "--norc", "-i"))
	x.types("source " + library + "; source <(warlock completion bash); PS1='rea''dy> '\n")
	x.shows("ready> ")
	x.types("warlock top invoice:\t--bad\n")
	x.shows("warlock top invoice:42 --bad")
	x.types("warlock top inve\t--bad\n")
	x.shows(`warlock top invent\* --bad`)
	x.types("exit\n")
	_ = x.cmd.Wait()
}

func TestFishCompletesKeys(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	heldBy(t, s, "invoice:42", "o")
	heldBy(t, s, "other", "o")
	const script = `warlock completion fish | source; complete -C "warlock top inv"`
	out, err := inShell(t, s, "fish", "-c", script).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "invoice:42" {
		t.Errorf("fish offers %q, %v", got, err)
	}
}

func TestScriptsForShells(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bash", "zsh", "fish"} {
		t.Run(name, func(t *testing.T) {
			cmd := inShell(t, &redistest.Server{}, name, "-c", "warlock completion "+name+" | "+name+" -n")
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	status, out, errs := run(t.Context(), "completion", "powershell")
	if status != 0 || errs != "" || len(out) < 1000 {
		t.Errorf("powershell: status %d, %d bytes, %s", status, len(out), errs)
	}
}
