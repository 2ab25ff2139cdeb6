package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"

	"github.com/warlock-go/warlock/chaos/judge"
)

// TestMain runs the tests. In a child process of a test it is a worker.
func TestMain(m *testing.M) {
	if text := os.Getenv(jobVar); text != "" {
		exit(work(text, os.Stdin, os.Stdout))
	}
	logging.Disable() // go-redis would log that connections break
	goleak.VerifyTestMain(m)
}

func needRedis(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("WARLOCK_REQUIRE_REDIS") == "1" {
			t.Fatal(err)
		}
		t.Skip("there is no redis-server in PATH: install it to run this test")
	}
}

func newPlan(t *testing.T) *plan {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &plan{
		seed: 1, duration: time.Second, program: self, keep: t.TempDir(),
		progress: func(string, int) {},
	}
}

// A scenario runs, passes, and leaves no goroutines.
func TestRun(t *testing.T) {
	needRedis(t)
	v, err := scenarios[0].run(t.Context(), newPlan(t))
	if err != nil {
		t.Fatal(err)
	}
	if !v.passed() || v.Grants == 0 {
		t.Errorf("%d grants, %s: %v", v.Grants, v.state(), v.Violations)
	}
}

// A scenario with a quorum runs, passes, and leaves no goroutines. Its load is long enough
// for the servers to vote.
func TestRunQuorum(t *testing.T) {
	needRedis(t)
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no gcc in PATH, which servers need whose clocks are moved")
	}
	chosen, err := choose("quorum, calm")
	if err != nil {
		t.Fatal(err)
	}
	p := newPlan(t)
	p.duration = 4 * time.Second
	v, err := chosen[0].run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if !v.passed() || v.Grants == 0 {
		t.Errorf("%d grants, %s: %v", v.Grants, v.state(), v.Violations)
	}
}

// The failure of a worker is a violation, and the history is kept.
func TestRunFindsWorkersThatFail(t *testing.T) {
	needRedis(t)
	p := newPlan(t)
	program, err := exec.LookPath("false")
	if err != nil {
		t.Skip("there is no program that fails")
	}
	p.program = program
	v, err := scenarios[0].run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if v.passed() || v.Invalid == "" || len(v.Violations) != workerCount {
		t.Errorf("%q, %v; want an invalid run and a violation for each worker", v.Invalid, v.Violations)
	}
	kept, err := os.ReadFile(filepath.Join(p.keep, "calm-1.json"))
	if err != nil || !strings.Contains(string(kept), "exit status 1") {
		t.Errorf("kept %q, %v", kept, err)
	}
}

// An interrupted run ends with an error.
func TestRunInterrupted(t *testing.T) {
	needRedis(t)
	ctx, cancel := context.WithCancel(t.Context())
	p := newPlan(t)
	p.duration = time.Hour
	p.progress = func(_ string, grants int) {
		if grants > 0 {
			cancel()
		}
	}
	if v, err := scenarios[1].run(ctx, p); err != errInterrupted {
		t.Errorf("%v, %v; want %v", v, err, errInterrupted)
	}
}

// Each mutant's lines and its scenario exist.
func TestMutants(t *testing.T) {
	source, err := sourceOf(t.Context(), library)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("there are two mutants %q", m.name)
		}
		names[m.name] = true
		if m.scenario != onlySimulated {
			if _, err := choose(m.scenario); err != nil {
				t.Errorf("mutant %q: %v", m.name, err)
			}
		}
		if _, err := m.broken(source); err != nil {
			t.Errorf("mutant %q: %v", m.name, err)
		}
	}
}

// A mutant can be built, and a judge catches it.
func TestMutantIsCaught(t *testing.T) {
	needRedis(t)
	if testing.Short() {
		t.Skip("building a mutant takes some seconds")
	}
	p := newPlan(t)
	p.duration = 2 * time.Second
	if err := runMutants(t.Context(), "from its holder", p, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

// An error of wrong arguments says what to do.
func TestArguments(t *testing.T) {
	for args, want := range map[string]string{
		"-scenario nonesuch":       `there is no scenario "nonesuch": there are calm; crash;`,
		"-for 10ms":                "at least a second is needed",
		"calm":                     `unexpected argument "calm": all settings are flags`,
		"-mutants -only nonesuch":  `no mutant has "nonesuch" in its name`,
		"-mutants -scenario crash": "-scenario and -mutants do not go together",
		"-only release":            "-only is for -mutants",
		"-seed x":                  "invalid value",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}

// A run with too few grants or faults, or without a kind of lock, is invalid.
func TestInvalid(t *testing.T) {
	r := &scenarioRun{scenario: &scenarios[1], plan: &plan{duration: 40 * time.Second}}
	kinds := map[string]int{mutex: 20, rwMutex: 20, keyed + judge.Reading: 20}
	for _, c := range []struct {
		grants, faults int
		kinds          map[string]int
		want           string
	}{
		{200, 2, kinds, ""},
		{199, 2, kinds, "199 grants, 200 is the least"},
		{200, 1, kinds, "1 faults, 2 is the least"},
		{200, 2, map[string]int{mutex: 60}, "no grant of a RWMutex"},
	} {
		v := &verdict{Report: &judge.Report{Grants: c.grants, Kinds: c.kinds}, Faults: c.faults}
		if got := r.invalid(v); got != c.want {
			t.Errorf("%d grants, %d faults: %q, want %q", c.grants, c.faults, got, c.want)
		}
	}
}
