package main

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
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
		warmUp: 100 * time.Millisecond, park: 100 * time.Millisecond, parkPeers: 100 * time.Millisecond,
		settleParked: 200 * time.Millisecond,
		killsOurs:    1, killsPeers: 1, few: 1,
		hold: 50 * time.Millisecond, heldLocks: 300, usedIDs: 300, idsAtOnce: 300,
	}
}

// Each case works for each system, and the report can be written and read.
func TestRun(t *testing.T) {
	b := tiny(t)
	b.systems = systems
	b.cases = []string{
		uncontended, uncontendedPlain, uncontendedTimed, oneProcess, oneProcessTimed, manyKeys,
		clients(2), handOver, park, killed,
	}
	present := []row{
		{uncontended, rawName}, {uncontended, cancellable.name}, {uncontended, keyed.name},
		{uncontendedPlain, rawName}, {uncontendedTimed, rawName},
		{oneProcess, reading.name}, {manyKeys, keyed.name},
	}
	for _, name := range b.cases {
		for _, s := range systems {
			present = append(present, row{name, s.name})
		}
	}
	b.cases = append(b.cases, among, manyHeld, manyAtOnce, hotKeys)
	present = append(present, row{among, reading.name}, row{manyHeld, keyed.name},
		row{manyAtOnce, keyed.name}, row{hotKeys, keyed.name}, row{hotKeys, retainedKeyed.name},
		row{hotKeys, redislock1})
	checkWritten(t, checkRows(t, b, present))
}

// The cases of retention work, and warlock retains the locks in them.
func TestRetained(t *testing.T) {
	b := tiny(t)
	b.cases = []string{relock, idleTaken, twoInTurn, twoAtOnce, hotKeys, manyUsed}
	r := checkRows(t, b, []row{
		{relock, rawName}, {relock, retained.name}, {relock, fenced.name},
		{idleTaken, ours}, {idleTaken, retained.name},
		{twoInTurn, ours}, {twoInTurn, retained.name},
		{twoAtOnce, ours}, {twoAtOnce, retained.name},
		{hotKeys, keyed.name}, {hotKeys, retainedKeyed.name}, {hotKeys, redislock1},
		{manyUsed, keyed.name}, {manyUsed, retainedKeyed.name},
	})
	for _, c := range []row{
		{relock, retained.name}, {relock, fenced.name}, {hotKeys, retainedKeyed.name},
	} {
		if res := r.find(c.name, c.system); res != nil && res.Median.Commands > 0.1 {
			t.Errorf("%v: %.3f commands each", c, res.Median.Commands)
		}
	}
}

// The cases of replicas work, and a lock costs one WAIT more there.
func TestReplicated(t *testing.T) {
	b := tiny(t)
	b.cases = []string{replicated, replicatedKeys}
	r := checkRows(t, b, []row{
		{replicated, ours}, {replicated, durable[1].name}, {replicated, durable[2].name},
		{replicatedKeys, keyed.name}, {replicatedKeys, durableKeyed[1].name},
	})
	for _, s := range durable {
		want := 2.0
		if s.name != ours {
			want = 3
		}
		if res := r.find(replicated, s.name); res != nil && res.Median.Commands < want-0.1 {
			t.Errorf("%s: %.3f commands each, want %.0f", s.name, res.Median.Commands, want)
		}
	}
}

// The cases of a quorum work, and all of its servers vote.
func TestQuorum(t *testing.T) {
	b := tiny(t)
	b.ttl = time.Second
	b.cases = []string{inQuorum}
	var rows []row
	add := func(name string, systems ...system) {
		for _, s := range systems {
			rows = append(rows, row{name, s.name})
		}
	}
	for _, n := range quorumSizes {
		add(quorumAlone(n), quorumFloor, quorumKeyed, redsyncFailFast)
		add(quorumAlone(n), quorumRivals...)
		add(quorumClients(n), quorumRivals...)
	}
	add(quorumFrozen, freezing...)
	add(quorumHandOver, quorumRivals...)
	add(quorumHandOver, pings...)
	r := checkRows(t, b, rows)
	for _, n := range quorumSizes {
		for _, s := range []string{rawName, ours, keyed.name} {
			res := r.find(quorumAlone(n), s)
			if want := 2 * n; res != nil && res.Median.Commands < float64(want-1) {
				t.Errorf("%s: %.3f commands each, want %d", s, res.Median.Commands, want)
			}
		}
	}
	for _, target := range targets {
		named := func(g goal) bool { return g.Case == target.name && g.What == target.what }
		if ofQuorum(target.name) && !slices.ContainsFunc(r.Goals, named) {
			t.Errorf("%s, %s: not judged", target.name, target.what)
		}
	}
}

// A frozen server does not answer, and a server keeps only its memory when it is
// tidied up.
func TestVoters(t *testing.T) {
	tiny(t)
	v, err := startVoters(1)
	defer func() {
		if err := v.stop(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{
		Addr: v[0].addr, ContextTimeoutEnabled: true, MaxRetries: -1,
	})
	defer c.Close()
	if err := c.MSet(t.Context(), memory, "m", "key", "k").Err(); err != nil {
		t.Fatal(err)
	}
	if err := stop(v[0].proc.Process); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Ping(ctx).Err(); err == nil {
		t.Error("a frozen server has answered")
	}
	if err := firstOf(v[0].thaw(), v.tidy()); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Keys(t.Context(), "*").Result()
	if err != nil || !slices.Equal(keys, []string{memory}) {
		t.Errorf("the keys %q are left: %v", keys, err)
	}
}

// Names of cases are found whole, also those with a comma.
func TestRuns(t *testing.T) {
	for only, want := range map[string][]string{
		"quorum of 3, uncontended": {quorumAlone(3)},
		"hand-off,8 clients":       {clients(8), handOver},
		inQuorum: {
			quorumAlone(3), quorumAlone(5), quorumClients(3), quorumFrozen, quorumHandOver,
		},
	} {
		b := &bench{cases: strings.Split(only, ",")}
		var got []string
		for _, name := range []string{
			uncontended, clients(8), handOver, quorumAlone(3), quorumAlone(5), quorumClients(3),
			quorumFrozen, quorumHandOver,
		} {
			if b.runs(name) {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("-cases %q runs %q, want %q", only, got, want)
		}
	}
}

// A row names a row of the table of results.
type row struct{ name, system string }

// mayBeEmpty reports whether the row may have no samples. Clients of redsync that
// split the votes of a quorum may wait for longer than the window.
func (c row) mayBeEmpty() bool {
	return ofQuorum(c.name) && strings.HasPrefix(c.system, redsyncName)
}

// checkRows runs b, and fails the test unless its results are the rows and
// exclusion held.
func checkRows(t *testing.T, b *bench, rows []row) *report {
	t.Helper()
	r, err := b.measure()
	if err != nil {
		t.Fatal(err)
	}
	if n := r.broken(); n != 0 {
		t.Errorf("%d sections overlapped", n)
	}
	if got, want := len(r.Results), len(rows); got != want {
		t.Errorf("%d results, want %d", got, want)
	}
	for _, c := range rows {
		res := r.find(c.name, c.system)
		if res == nil || res.Median.Samples == 0 && !c.mayBeEmpty() {
			t.Errorf("%v: %+v", c, res)
		}
	}
	return r
}

// A lock that does not stay with its client is found out.
func TestRetainNeedsRetention(t *testing.T) {
	w := new(wire)
	if err := retain(free{}, w, new(section)); err != nil {
		t.Error(err)
	}
	p := &pair{locks: [2]locker{free{}, free{}}}
	if _, err := p.takeOver(); err == nil {
		t.Error("a lock was taken over from a client that was not asked")
	}
}

// The contexts that timed locks get have a deadline, and end after the unlock.
func TestTimed(t *testing.T) {
	var to setup
	inner := new(noting)
	s := timed([]system{{connect: func(s setup) (client, error) { to = s; return inner, nil }}})[0]
	c, err := s.connect(setup{})
	if err != nil || !to.plain {
		t.Fatalf("the setup is %+v: %v", to, err)
	}
	l := c.locker("")
	if err := l.lock(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, ok := inner.ctx.Deadline(); !ok || inner.ctx.Err() != nil {
		t.Error("the context has no deadline, or has ended")
	}
	if err := l.unlock(); err != nil || inner.ctx.Err() == nil {
		t.Errorf("the context goes on after the unlock: %v", err)
	}
}

// noting is free, and notes the context of its lock.
type noting struct {
	free
	ctx context.Context
}

func (n *noting) locker(string) locker { return n }

func (n *noting) lock(ctx context.Context) error {
	n.ctx = ctx
	return nil
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
