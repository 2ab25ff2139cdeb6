package docs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

func TestProgramsOfComingFrom(t *testing.T) { runPrograms(t, "coming-from.md") }

// ttl outlives each test.
const ttl = time.Minute

// A peer is a way to take the lock named invoice that is not warlock's.
type peer struct {
	key  string // in Redis
	lock func(t *testing.T, s *redistest.Server) (unlock func(), taken bool)
}

func lockRedsync(t *testing.T, s *redistest.Server) (unlock func(), taken bool) {
	m := redsync.New(goredis.NewPool(s.Client())).NewMutex("invoice", redsync.WithExpiry(ttl))
	err := m.TryLock()
	if _, ok := errors.AsType[*redsync.ErrTaken](err); ok {
		return nil, true
	}
	fatalIf(t, err)
	return func() {
		_, err := m.Unlock()
		fatalIf(t, err)
	}, false
}

func lockRedislock(t *testing.T, s *redistest.Server) (unlock func(), taken bool) {
	l, err := redislock.Obtain(t.Context(), s.Client(), "invoice", ttl, nil)
	if errors.Is(err, redislock.ErrNotObtained) {
		return nil, true
	}
	fatalIf(t, err)
	return func() { fatalIf(t, l.Release(t.Context())) }, false
}

func lockRueidislock(t *testing.T, s *redistest.Server) (unlock func(), taken bool) {
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: rueidis.ClientOption{InitAddress: []string{s.Addr}},
		KeyValidity:  ttl,
		KeyMajority:  1,
		TryNextAfter: redistest.Patience,
	})
	fatalIf(t, err)
	t.Cleanup(locker.Close)
	_, cancel, err := locker.TryWithContext(t.Context(), "invoice")
	if errors.Is(err, rueidislock.ErrNotLocked) {
		return nil, true
	}
	fatalIf(t, err)
	return cancel, false
}

// lockNode does what node-redis-warlock does, and anybody who uses SET NX PX.
func lockNode(t *testing.T, s *redistest.Server) (unlock func(), taken bool) {
	set, err := s.Admin.SetNX(t.Context(), "invoice:lock", "an ID", ttl).Result()
	fatalIf(t, err)
	if !set {
		return nil, true
	}
	return func() { s.Do("DEL", "invoice:lock") }, false
}

func fatalIf(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPeersExclude checks the table of coming-from.md: a lock of a peer and a
// Mutex on its key exclude each other.
func TestPeersExclude(t *testing.T) {
	for name, p := range map[string]peer{
		"redsync":            {"invoice", lockRedsync},
		"redislock":          {"invoice", lockRedislock},
		"rueidislock":        {"rueidislock:0:invoice", lockRueidislock},
		"node-redis-warlock": {"invoice:lock", lockNode},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			mu := warlock.NewMutex(s.Client(), p.key, ttl)
			unlock, taken := p.lock(t, s)
			if taken {
				t.Fatal("the peer finds a free lock taken")
			}
			tryLock(t, mu, false)
			unlock()
			tryLock(t, mu, true)
			if _, taken := p.lock(t, s); !taken {
				t.Error("the peer has the lock beside the Mutex")
			}
			mu.Unlock()
			if _, taken := p.lock(t, s); taken {
				t.Error("the peer finds the lock taken after Unlock")
			}
		})
	}
}

// TestUnlockServesWaitersBeforePeers checks that a peer does not get a lock that
// another process of warlock waits for.
func TestUnlockServesWaitersBeforePeers(t *testing.T) {
	s := redistest.Start(t)
	mu := warlock.NewMutex(s.Client(), "invoice", ttl)
	waiting := warlock.NewMutex(s.Client(), "invoice", ttl)
	tryLock(t, mu, true)
	locked := make(chan error)
	go func() { locked <- waiting.LockContext(t.Context()) }()
	redistest.Eventually(t, func() bool {
		return s.Do("ZCARD", "warlock:{invoice}:queue") == int64(1)
	}, "the other process waits")
	mu.Unlock()
	if _, taken := lockRedislock(t, s); !taken {
		t.Error("redislock got the lock before the process that waited")
	}
	fatalIf(t, <-locked)
	waiting.Unlock()
}

func tryLock(t *testing.T, mu *warlock.Mutex, want bool) {
	t.Helper()
	if ok, err := mu.TryLockContext(t.Context()); ok != want || err != nil {
		t.Fatalf("TryLockContext: %v, %v, want %v", ok, err, want)
	}
}

// TestErrorsOfPeers checks what coming-from.md says of two errors of a wait.
func TestErrorsOfPeers(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "invoice", "somebody")
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()

	m := redsync.New(goredis.NewPool(s.Client())).NewMutex("invoice")
	err := m.LockContext(short)
	if !errors.Is(err, redsync.ErrFailed) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("redsync, whose context has ended: %v", err)
	}
	retry := &redislock.Options{RetryStrategy: redislock.LinearBackoff(time.Hour)}
	_, err = redislock.Obtain(t.Context(), s.Client(), "invoice", 10*time.Millisecond, retry)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("redislock, whose context has no deadline: %v", err)
	}
}
