package warlock_test

import (
	"errors"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

func TestReleaseByID(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		m := newMutex(s, long)
		l := lock(t, m)
		err := warlock.Release(t.Context(), client, key, "somebody else")
		if !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Release by a wrong ID: %v", err)
		}
		contains(t, err.Error(), `"invoice:42"`)
		if s.Get(key) != l.ID() {
			t.Fatal("Release by a wrong ID released")
		}
		if err := warlock.Release(t.Context(), client, key, l.ID()); err != nil {
			t.Errorf("Release: %v", err)
		}
		onlyFence(t, s)
		if err := warlock.Release(t.Context(), client, key, l.ID()); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Release of a free lock: %v", err)
		}
		if err := m.UnlockContext(t.Context()); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("UnlockContext by the holder: %v", err)
		}
	})
}

func TestExtendByID(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		m := newMutex(s, time.Minute)
		l := lock(t, m)
		if err := warlock.Extend(t.Context(), client, key, l.ID(), time.Hour); err != nil || s.TTL(key) < 59*time.Minute {
			t.Errorf("Extend: %v, the key lives for %v", err, s.TTL(key))
		}
		if err := warlock.Extend(t.Context(), client, key, l.ID(), time.Second); err != nil || s.TTL(key) < 59*time.Minute {
			t.Errorf("Extend by less: %v, the key lives for %v", err, s.TTL(key))
		}
		if err := warlock.Extend(t.Context(), client, key, "somebody else", time.Hour); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Extend by a wrong ID: %v", err)
		}
		unlock(t, m)
		if err := warlock.Extend(t.Context(), client, key, l.ID(), time.Hour); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Extend of a free lock: %v", err)
		}
		onlyFence(t, s)
	})
}

func TestByIDWithBadArguments(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	ctx := t.Context()
	for name, c := range map[string]struct {
		err  error
		says []string
	}{
		"release: nil client": {warlock.Release(ctx, nil, key, "id"), []string{"client", `"invoice:42"`}},
		"release: empty key":  {warlock.Release(ctx, client, "", "id"), []string{"key is empty"}},
		"release: braces":     {warlock.Release(ctx, client, "a{}", "id"), []string{`"a{}"`, "hash tag"}},
		"release: empty ID":   {warlock.Release(ctx, client, key, ""), []string{`"invoice:42"`, "lock not held"}},
		"extend: nil client":  {warlock.Extend(ctx, nil, key, "id", long), []string{"client", `"invoice:42"`}},
		"extend: empty key":   {warlock.Extend(ctx, client, "", "id", long), []string{"key is empty"}},
		"extend: short ttl":   {warlock.Extend(ctx, client, key, "id", time.Millisecond), []string{`"invoice:42"`, "1ms", "10ms"}},
	} {
		if c.err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		contains(t, c.err.Error(), append(c.says, "warlock: ")...)
	}
}

func TestByIDOnAnotherType(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		s.Do("RPUSH", key, "id")
		if err := warlock.Release(t.Context(), s.Client(), key, "id"); !errors.Is(err, warlock.ErrNotHeld) {
			t.Errorf("Release: %v", err)
		}
		if s.Do("LLEN", key) != int64(1) {
			t.Error("Release deleted a list")
		}
	})
}
