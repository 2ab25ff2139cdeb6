package docs_test

import (
	"strings"
	"testing"

	"github.com/warlock-go/warlock/internal/redistest"
)

func TestProgramsOfTheReadme(t *testing.T) { runPrograms(t, "../README.md") }

func TestProgramsOfTheRecipes(t *testing.T) { runPrograms(t, "recipes.md") }

// runPrograms runs each program on a page as it is shown, on a server of its own.
func runPrograms(t *testing.T, page string) {
	for _, p := range programs(t, page) {
		t.Run(p.name, func(t *testing.T) {
			p.expectOutput(t, redistest.Start(t).Addr)
		})
	}
}

// expectOutput runs p on the server at addr.
func (p program) expectOutput(t *testing.T, addr string) {
	t.Helper()
	printed := run(t, p.build(t, addr))
	if strings.TrimSpace(printed) != strings.TrimSpace(p.output) {
		t.Errorf("printed\n%s\nand the page says\n%s", printed, p.output)
	}
}

// TestDeadlineProgram runs the README's program with a deadline in the cases that
// its Output comment does not show.
func TestDeadlineProgram(t *testing.T) {
	s := redistest.Start(t)
	var binary string
	for _, p := range programs(t, "../README.md") {
		if strings.Contains(p.source, "ErrUnavailable") {
			binary = p.build(t, s.Addr)
		}
	}
	if binary == "" {
		t.Fatal("no program of the README tells a taken lock from a Redis in trouble")
	}

	s.Do("SET", "invoice:42", "somebody", "NX", "PX", redistest.Patience.Milliseconds())
	expectStart(t, run(t, binary), "another process had the lock: ")
	s.Kill()
	expectStart(t, run(t, binary), "Redis is in trouble: ")
}

func expectStart(t *testing.T, printed, start string) {
	t.Helper()
	if !strings.HasPrefix(printed, start) {
		t.Errorf("printed %q, want %q at the start", printed, start)
	}
}
