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
)

// TestMain runs the tests, or the worker of one.
func TestMain(m *testing.M) {
	if text := os.Getenv(jobVar); text != "" {
		exit(work(text, os.Stdin, os.Stdout))
	}
	logging.Disable() // go-redis's: clients are broken on purpose
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
	return &plan{seed: 1, duration: time.Second, program: self, keep: t.TempDir(), progress: func(string, int) {}}
}

// A scenario runs, is judged, and leaves nothing.
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

// What a worker finds wrong is a violation, and its history is kept.
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
	if v.passed() || v.Invalid == "" || len(v.Violations) != workers {
		t.Errorf("%q, %v; want an invalid run and a violation for each worker", v.Invalid, v.Violations)
	}
	if kept, err := os.ReadFile(filepath.Join(p.keep, "calm-1.json")); err != nil || !strings.Contains(string(kept), "exit status 1") {
		t.Errorf("kept %q, %v", kept, err)
	}
}

// A run that is interrupted ends, and proves nothing.
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

// Every mutant is of lines that are there, and has a scenario that is.
func TestMutants(t *testing.T) {
	source, err := sourceOf(t.Context(), library)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, m := range mutants {
		if names[m.name] {
			t.Errorf("mutant %q is there twice", m.name)
		}
		names[m.name] = true
		if _, err := choose(m.scenario); err != nil {
			t.Errorf("mutant %q: %v", m.name, err)
		}
		if _, err := m.broken(source); err != nil {
			t.Errorf("mutant %q: %v", m.name, err)
		}
	}
}

// A mutant is built, and caught.
func TestMutantIsCaught(t *testing.T) {
	needRedis(t)
	if testing.Short() {
		t.Skip("it is built anew, which takes some seconds")
	}
	p := newPlan(t)
	p.duration = 2 * time.Second
	if err := runMutants(t.Context(), "whoever has it", p, io.Discard, io.Discard); err != nil {
		t.Error(err)
	}
}

// Wrong arguments are refused with what to do.
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

// A run with too little load, too few faults, or not all kinds of locks, is invalid.
func TestTooLittle(t *testing.T) {
	s := &stage{scenario: &scenarios[1], plan: &plan{duration: 40 * time.Second}}
	kinds := map[string]int{mutex: 20, rwMutex: 20, keyed + reading: 20}
	for _, c := range []struct {
		v    verdict
		want string
	}{
		{verdict{Grants: 200, Faults: 2, Kinds: kinds}, ""},
		{verdict{Grants: 199, Faults: 2, Kinds: kinds}, "199 grants, 200 is the least"},
		{verdict{Grants: 200, Faults: 1, Kinds: kinds}, "1 faults, 2 is the least"},
		{verdict{Grants: 200, Faults: 2, Kinds: map[string]int{mutex: 60}}, "no grant of a RWMutex"},
	} {
		if got := s.tooLittle(&c.v); got != c.want {
			t.Errorf("%d grants, %d faults: %q, want %q", c.v.Grants, c.v.Faults, got, c.want)
		}
	}
}
