package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"
)

// TestMain runs the tests. In a child process of a test it is the holder that
// the test kills.
func TestMain(m *testing.M) {
	logging.Disable() // go-redis would log that clients lose their server
	if name := os.Getenv(holdVar); name != "" {
		exit(hold(name))
	}
	os.Exit(m.Run())
}

// tiny returns a bench that takes a few seconds.
func tiny(t *testing.T) *bench {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("WARLOCK_REQUIRE_REDIS") == "1" {
			t.Fatal(err)
		}
		t.Skip("there is no redis-server in PATH: install it to run this test")
	}
	return &bench{
		ttl: 10 * time.Second, rounds: 1, window: 50 * time.Millisecond, systems: systems[:1],
		park: 100 * time.Millisecond, parkPeers: 100 * time.Millisecond,
		settleParked: 200 * time.Millisecond,
		killsOurs:    1, killsPeers: 1, few: 1,
		hold: 50 * time.Millisecond, heldLocks: 300, usedIDs: 300, idsAtOnce: 300,
	}
}

// Each case works for each system, and the report can be written and read.
func TestRun(t *testing.T) {
	b := tiny(t)
	b.systems = systems
	b.cases = []string{uncontended, oneProcess, manyKeys, clients(2), handOver, park, killed}
	alone := []string{among, manyHeld, manyUsed, manyAtOnce} // cases with one system
	compared := len(b.cases)
	b.cases = append(b.cases, alone...)
	r, err := b.measure()
	if err != nil {
		t.Fatal(err)
	}
	if n := r.broken(); n != 0 {
		t.Errorf("%d sections overlapped", n)
	}
	present := []struct{ name, system string }{
		{uncontended, rawName}, {uncontended, cancellable.name}, {uncontended, keyed.name},
		{oneProcess, reading.name}, {manyKeys, keyed.name},
		{among, reading.name}, {manyHeld, keyed.name}, {manyUsed, keyed.name},
		{manyAtOnce, keyed.name},
	}
	if got, want := len(r.Results), compared*len(systems)+len(present); got != want {
		t.Errorf("%d results, want %d", got, want)
	}
	for _, name := range b.cases[:compared] {
		present = append(present, struct{ name, system string }{name, ours})
	}
	for _, c := range present {
		if res := r.find(c.name, c.system); res == nil || res.Median.Samples == 0 {
			t.Errorf("%v: %+v", c, res)
		}
	}
	checkWritten(t, r)
}

// checkWritten writes the report, and looks at its files.
func checkWritten(t *testing.T, r *report) {
	t.Helper()
	dir := t.TempDir()
	readme := filepath.Join(dir, "README.md")
	old := []byte("before\n" + begin + "\nold\n" + end + "\nafter\n")
	if err := os.WriteFile(readme, old, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "results")
	if err := r.write(out); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(out, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(&again, r) {
		t.Errorf("read back: %v, %+v", err, again)
	}
	updated, err := os.ReadFile(readme)
	if s := string(updated); err != nil || strings.Contains(s, "old") ||
		!strings.Contains(s, "| "+ours+" |") || !strings.HasSuffix(s, end+"\nafter\n") {
		t.Errorf("the README is %q: %v", s, err)
	}
	for _, c := range charts {
		if c.name == clients(8) {
			continue // not run
		}
		svg, err := os.ReadFile(filepath.Join(out, c.file))
		if err != nil || !strings.Contains(string(svg), "<svg") {
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

// free is a system without exclusion.
type free struct{}

func (free) locker(string) locker        { return free{} }
func (free) close() error                { return nil }
func (free) lock(context.Context) error  { return nil }
func (free) unlock() error               { return nil }
func (free) renew(context.Context) error { return nil }

func TestOverlapsAreCounted(t *testing.T) {
	sec := new(section)
	sec.inside.Add(1) // a reader is inside
	sec.visit()
	if sec.broken() != 1 {
		t.Errorf("%d overlaps were counted, want 1", sec.broken())
	}
	sec = new(section)
	sec.visits.Add(1) // a visit whose update was lost
	if sec.broken() != 1 {
		t.Errorf("%d lost updates were counted, want 1", sec.broken())
	}
	b := tiny(t)
	b.cases = []string{park}
	b.systems = []system{{name: "free", connect: func(setup) (client, error) { return free{}, nil }}}
	if _, err := b.measure(); err == nil || !strings.Contains(err.Error(), "while it was held") {
		t.Errorf("a lock without exclusion: %v", err)
	}
}

func TestOverlapsFailTheRun(t *testing.T) {
	r := &report{}
	r.add(uncontended, ours, measurement{Broken: 1})
	r.add(uncontended, ours, measurement{Broken: 2})
	if r.broken() != 3 {
		t.Errorf("%d overlaps, want those of all rounds", r.broken())
	}
}

func TestWireCountsCommands(t *testing.T) {
	w := new(wire)
	c := &wireConn{wire: w}
	text := "*2\r\n$3\r\nGET\r\n$5\r\n*1\r\n$\r\n*1\r\n$4\r\nPING\r\n"
	for _, size := range []int{1, 3, len(text)} {
		before := w.commands.Load()
		for rest := text; rest != ""; rest = rest[min(size, len(rest)):] {
			c.follow([]byte(rest[:min(size, len(rest))]))
		}
		if n := w.commands.Load() - before; n != 2 {
			t.Errorf("in pieces of %d bytes %d commands were counted, want 2", size, n)
		}
	}
}

func TestJain(t *testing.T) {
	for want, shares := range map[float64][]int64{
		1: {5, 5, 5, 5}, 0.25: {9, 0, 0, 0}, 0.9: {1, 2}, 0: {0, 0},
	} {
		if got := jain(shares); math.Abs(got-want) > 1e-9 {
			t.Errorf("jain(%v) = %v, want %v", shares, got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, xs := range map[float64][]float64{0: nil, 3: {3}, 2: {9, 1, 2}, 2.5: {4, 1, 2, 3}} {
		if got := median(xs); got != want {
			t.Errorf("median(%v) = %v, want %v", xs, got, want)
		}
	}
}

func TestGoals(t *testing.T) {
	r := &report{}
	r.add(uncontended, rawName, measurement{Rate: 100})
	r.add(uncontended, redsync1, measurement{Rate: 80})
	r.add(uncontended, ours, measurement{Rate: 89})
	var met []bool
	for _, g := range r.Goals {
		met = append(met, g.Met)
	}
	if !reflect.DeepEqual(met, []bool{false, true}) {
		t.Errorf("met: %v of %+v", met, r.Goals)
	}
}

func TestBetween(t *testing.T) {
	if _, err := between([]byte("no markers"), "x"); err == nil {
		t.Error("a text without markers was changed")
	}
}
