package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/warlock-go/warlock/internal/redistest"
)

func page(t *testing.T) string {
	t.Helper()
	status, out, errs := run(t.Context(), "man")
	if status != 0 || errs != "" {
		t.Fatalf("status %d: %s", status, errs)
	}
	return out
}

func TestManualHasAllCommandsAndFlags(t *testing.T) {
	text := page(t)
	root := newRoot()
	root.InitDefaultCompletionCmd("man")
	flags := func(of *pflag.FlagSet) {
		of.VisitAll(func(f *pflag.Flag) {
			name := `\fB` + escapeRoff("--"+f.Name) + `\fR`
			if f.Name != "help" && !f.Hidden && !strings.Contains(text, name) {
				t.Errorf("the manual has no %s", name)
			}
		})
	}
	flags(root.PersistentFlags())
	for _, cmd := range commands(root) {
		if !strings.Contains(text, `.SS "`+cmd.Name()) {
			t.Errorf("the manual has no %s", cmd.Name())
		}
		flags(cmd.LocalNonPersistentFlags())
	}
	for _, section := range []string{
		"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS",
		"EXIT STATUS", "ENVIRONMENT", "EXAMPLES", "SEE ALSO",
	} {
		if strings.Count(text, `.SH "`+section+`"`) != 1 {
			t.Errorf("the manual has not one section %s", section)
		}
	}
	if regexp.MustCompile(`20\d\d`).MatchString(text) || text != page(t) {
		t.Error("the manual has a date")
	}
}

func TestManualIsReadable(t *testing.T) {
	text := page(t)
	for name, args := range map[string][]string{
		"mandoc": {"-T", "lint", "-W", "warning"}, "groff": {"-man", "-ww", "-z", "-T", "utf8"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(name); err != nil {
				t.Skip(name + " is not in PATH")
			}
			cmd := exec.CommandContext(t.Context(), name, args...)
			cmd.Stdin = strings.NewReader(text)
			out, _ := cmd.CombinedOutput() // its status is of the warnings
			for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
				if line != "" && !strings.Contains(line, "missing date") {
					t.Errorf("%s", line)
				}
			}
		})
	}
}

// What has a meaning to roff is shown as it is.
func TestManualShowsOddText(t *testing.T) {
	redistest.Require(t, "mandoc")
	const odd = "100 % of \\n and \\fBthat\\fP\n.SH NOT\n'br ~^`\"x\" -- it's"
	root := &cobra.Command{Use: "odd", Short: "Is odd", Long: odd}
	cmd := exec.CommandContext(t.Context(), "mandoc", "-T", "utf8")
	cmd.Stdin = strings.NewReader(manual(root))
	out, err := cmd.Output()
	plain := regexp.MustCompile(".\b").ReplaceAllString(string(out), "") // b\bb is bold
	plain = strings.Join(strings.Fields(plain), " ")
	if want := strings.Join(strings.Fields(odd), " "); err != nil || !strings.Contains(plain, want) {
		t.Errorf("%v; no %s in\n%s", err, want, plain)
	}
}
