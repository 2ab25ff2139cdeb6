package protocol_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// Other programs can write to the companions of a lock. Whatever they write,
// the lock can be released, and tokens rise.

func TestGarbageInTheFence(t *testing.T) {
	for _, garbage := range []string{
		"", "abc", "-1", "nan", "inf", "-inf", "1e300", "0x7fffffffffffffff", "1.5", "9007199254740991",
		"9007199254740993", "99999999999999999999999999",
	} {
		t.Run(garbage, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				l := newLock(t, s.Client())
				before := acquire(t, l, id(0, 0))
				if err := release(t, l, id(0, 0)); err != nil {
					t.Fatal(err)
				}
				s.Do("SET", fence, garbage)
				for n := range 5 {
					r := protocol.Request{ID: id(1, n), TTL: ttl, Reserve: 4096, Mode: protocol.Mode(n % 2)}
					g, err := l.Acquire(t.Context(), r)
					if err != nil || !g.Granted || g.Token <= before {
						t.Fatalf("after the token %d: %+v, %v", before, g, err)
					}
					before = g.Token
					enqueue(t, l, protocol.Request{ID: id(2, n)})
					if err := release(t, l, id(1, n)); err != nil || s.Get(key) != id(2, n) {
						t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
					}
					if err := release(t, l, id(2, n)); err != nil || s.Get(key) != "" {
						t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
					}
				}
				if s.TTL(fence) <= 0 {
					t.Error("the fence does not expire")
				}
			})
		})
	}
}

func TestGarbageInTheQueue(t *testing.T) {
	const huge = "99999999999999999999"
	for name, record := range map[string]string{
		"nothing": "", "words": "a b c d e f", "a ttl beyond all": "1 " + huge + " 1 0 0 w",
		"tokens beyond all": "1 1000 1 " + huge + " 0 w",
		"asked beyond all":  huge + " 1000 1 0 0 w", "a round beyond all": "1 1000 " + huge + " 0 0 w",
	} {
		for _, place := range []string{"-inf", "inf", "-1e300", "1e300", "1"} {
			t.Run(name+" at "+place, func(t *testing.T) {
				redistest.Each(t, func(t *testing.T, s *redistest.Server) {
					l := newLock(t, s.Client())
					acquire(t, l, id(0, 0))
					s.Do("ZADD", queue, place, "stranger")
					s.Do("HSET", waiters, "stranger", record)
					s.Do("ZADD", deadlines, place, "stranger")
					enqueue(t, l, protocol.Request{ID: id(1, 1)})
					if err := release(t, l, id(0, 0)); err != nil || s.Get(key) != id(1, 1) {
						t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
					}
					if err := release(t, l, id(1, 1)); err != nil || s.Get(key) != "" {
						t.Errorf("release: %v, the lock is %q's", err, s.Get(key))
					}
				})
			})
		}
	}
}

func TestGarbageAmongTheReaders(t *testing.T) {
	for _, deadline := range []string{"-inf", "inf", "1e300", "-1", "0"} {
		t.Run(deadline, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				l := newLock(t, s.Client())
				read(t, l, id(0, 0), ttl)
				s.Do("ZADD", readers, deadline, "stranger")
				read(t, l, id(0, 1), ttl)
				for n := range 2 {
					if err := release(t, l, id(0, n)); err != nil {
						t.Errorf("release: %v", err)
					}
				}
				if s.TTL(key) == -1 {
					t.Error("the lock never expires")
				}
			})
		})
	}
}

// A plain lock has the value that stands for readers. No reader joins it, and
// only its holder deletes it.
func TestPlainLockThatLooksShared(t *testing.T) {
	const shared = "warlock:readers"
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l := newLock(t, s.Client())
		s.Do("SET", key, shared, "PX", ttl.Milliseconds())
		refused(t, l, protocol.Request{ID: id(0, 0), TTL: ttl, Mode: protocol.Read})
		refused(t, l, protocol.Request{ID: id(0, 1), TTL: ttl, Mode: protocol.Write})
		g := refused(t, l, protocol.Request{ID: id(0, 2), TTL: ttl, Mode: protocol.Read, Round: 1})
		if g.HandsOff || g.Holder != shared {
			t.Errorf("the refusal is %+v, want that nobody hands the lock off", g)
		}
		for _, id := range []string{id(0, 0), id(0, 2), "a stranger"} {
			if err := release(t, l, id); !errors.Is(err, protocol.ErrNotHeld) {
				t.Errorf("release of %s: %v", id, err)
			}
		}
		if err := renew(t, l, id(0, 0), 1, ttl); !errors.Is(err, protocol.ErrNotHeld) {
			t.Errorf("renewal of a stranger: %v", err)
		}
		if got := fmt.Sprint(s.Get(key), s.Do("EXISTS", readers)); got != shared+"0" {
			t.Errorf("the lock and the readers are %s", got)
		}
		if err := l.Extend(t.Context(), shared, 2*ttl); err != nil || s.TTL(key) <= ttl {
			t.Errorf("Extend by the holder: %v", err)
		}
		if err := release(t, l, shared); err != nil || s.Get(key) != "" {
			t.Errorf("release by the holder: %v, the lock is %q's", err, s.Get(key))
		}
	})
}
