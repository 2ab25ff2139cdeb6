package board

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

func TestMain(m *testing.M) {
	logging.Disable() // go-redis's: servers are killed on purpose
	os.Exit(m.Run())
}

const ttl = time.Minute

// hold locks key until the test ends.
func hold(t *testing.T, s *redistest.Server, key string) *warlock.Mutex {
	t.Helper()
	m := warlock.NewMutex(s.Client(), key, ttl)
	if err := m.LockContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// wait lets another process wait for key until the test ends, and returns when it
// is in the queue, as waiter n.
func wait(t *testing.T, s *redistest.Server, key string, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	m := warlock.NewMutex(s.Client(), key, ttl)
	go func() { done <- m.LockContext(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err == nil {
			t.Errorf("a waiter got %s", key)
		}
	})
	redistest.Eventually(t, func() bool {
		status, err := warlock.Inspect(ctx, s.Admin, key)
		return err == nil && len(status.Waiting) == n
	}, "waiter %d of %s is in the queue", n, key)
}

func keys(s Snapshot) (keys []string) {
	for _, l := range s.Locks {
		keys = append(keys, l.Key)
	}
	return keys
}

// look looks once, and fails the test on an error.
func look(t *testing.T, b *Board) Snapshot {
	t.Helper()
	s := b.Look(t.Context())
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	return s
}

func TestTheBusiestComeFirst(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := &Board{Client: s.Client()}
	if got := look(t, b); len(got.Locks) != 0 || got.At.IsZero() {
		t.Errorf("no lock is held: %+v", got)
	}
	hold(t, s, "old")
	look(t, b) // which sees old before the others
	for _, key := range []string{"b", "a", "one", "two", "first"} {
		hold(t, s, key)
	}
	wait(t, s, "two", 1)
	wait(t, s, "two", 2)
	wait(t, s, "first", 1)
	wait(t, s, "one", 1)
	look(t, b)
	got := look(t, b)
	if want := []string{"two", "first", "one", "old"}; !slices.Equal(keys(got)[:4], want) {
		t.Errorf("order: %v, want %v first", keys(got), want)
	}
	if n, longest := got.Locks[0].Waiters(), got.Locks[0].LongestWait(); n != 2 || longest <= 0 {
		t.Errorf("two has %d waiters, the first for %v", n, longest)
	}
	if l := got.Locks[3]; l.Waiters() != 0 || l.LongestWait() != 0 {
		t.Errorf("old has waiters: %+v", l)
	}
	b.Pattern = "o*"
	if want := []string{"one", "old"}; !slices.Equal(keys(look(t, b)), want) {
		t.Errorf("a pattern is of no effect: %v, want %v", keys(look(t, b)), want)
	}
}

func TestEqualLocksAreInTheOrderOfTheirKeys(t *testing.T) {
	at := time.Now()
	lock := func(key string) Lock { return Lock{warlock.Status{Key: key}, at} }
	got := []Lock{lock("c"), lock("a"), lock("b")}
	slices.SortFunc(got, busier)
	if want := []string{"a", "b", "c"}; !slices.Equal(keys(Snapshot{Locks: got}), want) {
		t.Errorf("order: %v, want %v", got, want)
	}
}

func TestSinceIsOfTheHolder(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := &Board{Client: s.Client()}
	m := hold(t, s, "k")
	first := look(t, b).Locks[0].Since
	if first.IsZero() || first.After(time.Now()) {
		t.Errorf("Since is %v", first)
	}
	if again := look(t, b).Locks[0].Since; again != first {
		t.Errorf("the same holder is there since %v, and before since %v", again, first)
	}
	m.Unlock()
	hold(t, s, "k")
	if next := look(t, b).Locks[0].Since; !next.After(first) {
		t.Errorf("another holder is there since %v, which the first was, too", next)
	}
}

// Redis names readers in an order that changes.
func TestReadersStandInTheOrderInWhichTheyCame(t *testing.T) {
	b := new(Board)
	status := func(ids ...string) warlock.Status {
		s := warlock.Status{Key: "k", Mode: warlock.ModeRead}
		for _, id := range ids {
			s.Holders = append(s.Holders, warlock.Holder{ID: id})
		}
		return s
	}
	var first time.Time
	for i, c := range []struct {
		ids, want []string
		same      bool // Since is as before
	}{
		{[]string{"b"}, []string{"b"}, false},
		{[]string{"a", "c", "b"}, []string{"b", "a", "c"}, true},
		{[]string{"c", "b", "a"}, []string{"b", "a", "c"}, true},
		{[]string{"c", "a"}, []string{"a", "c"}, false},
		{nil, nil, false},
		{[]string{"a"}, []string{"a"}, false},
	} {
		since := make(map[string]seen)
		l := b.found(status(c.ids...), since)
		b.since = since
		var got []string
		for _, h := range l.Holders {
			got = append(got, h.ID)
		}
		if !slices.Equal(got, c.want) || (l.Since == first) != c.same {
			t.Errorf("look %d: %q since %v, want %q; before since %v", i, got, l.Since, c.want, first)
		}
		first = l.Since
	}
}

func TestAnErrorKeepsThePicture(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := &Board{Client: s.Client()}
	hold(t, s, "k")
	before := look(t, b)
	s.Kill()
	for range 2 {
		got := b.Look(t.Context())
		if got.Err == nil || !slices.Equal(keys(got), []string{"k"}) || !got.At.After(before.At) {
			t.Errorf("without Redis: %v, error %v at %v", keys(got), got.Err, got.At)
		}
		if got.Locks[0].Since != before.Locks[0].Since || got.Found != before.At {
			t.Errorf("the picture has changed: %+v", got)
		}
	}
	s.Restart()
	if got := look(t, b); len(got.Locks) != 0 {
		t.Errorf("after a restart: %v", keys(got))
	}
}

// A key that is no lock does not hold up the picture of the others.
func TestAnErrorOfOneLock(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := &Board{Client: s.Client()}
	hold(t, s, "bad")
	look(t, b)
	s.Do("DEL", "bad")
	s.Do("LPUSH", "bad", "x")
	hold(t, s, "new")
	got := b.Look(t.Context())
	if want := []string{"bad", "new"}; got.Err == nil || !slices.Equal(keys(got), want) {
		t.Errorf("%v, error %v; want %v and an error", keys(got), got.Err, want)
	}
	s.Do("DEL", "bad")
	if got := look(t, b); !slices.Equal(keys(got), []string{"new"}) {
		t.Errorf("when it is gone: %v", keys(got))
	}
}

func TestManyLocks(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	client := s.Client()
	const most = Most + 2
	for i := range most {
		m := warlock.NewMutex(client, "k"+string(rune('a'+i%26))+time.Duration(i).String(), ttl)
		if err := m.LockContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, s, "ka0s", 1)
	got := look(t, &Board{Client: client})
	if len(got.Locks) != Most || got.More != 2 || got.Locks[0].Key != "ka0s" {
		t.Errorf("%d locks and %d more; the first is %s", len(got.Locks), got.More, got.Locks[0].Key)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	b := &Board{Client: s.Client(), Every: time.Millisecond}
	looks := 0
	b.Run(ctx, func(s Snapshot) {
		if looks++; looks == 3 {
			cancel(errors.New("seen"))
		}
		if s.Err != nil {
			t.Errorf("look %d: %v", looks, s.Err)
		}
	})
	if looks != 3 {
		t.Errorf("%d looks, want 3", looks)
	}
	b.Every = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	b.Run(ctx, func(Snapshot) { stop() }) // does not wait for an hour
	b.Run(ctx, func(Snapshot) { t.Error("a look after the end of its context") })
}
