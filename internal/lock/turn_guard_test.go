package lock

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A handshake is a context for one goroutine. A send to ended returns when the
// goroutine has received it from Done. So the test knows that the goroutine has
// seen the end of the context.
type handshake struct {
	context.Context
	ended chan struct{}
}

func (c handshake) Done() <-chan struct{} { return c.ended }
func (c handshake) Err() error            { return c.Context.Err() }

// A goroutine's context ends while the goroutine waits for its turn. Before the
// goroutine can leave the queue, it gets a hold. The hold is given back in the
// background.
func TestGrantAtTheEndOfTheWait(t *testing.T) {
	for name, mode := range map[string]Mode{"a writer": Write, "a reader": Read} {
		t.Run(name, func(t *testing.T) {
			s := redistest.StartMini(t)
			l := newLock(s.Client(), time.Minute, Options{})
			l.Lock(mode)
			held := l.Held(mode)
			if mode == Read {
				l.mu.Lock()
				l.queue.enter(Read, false) // as if another reader asked
				l.mu.Unlock()
			}
			parent, cancel := context.WithCancel(t.Context())
			ctx := handshake{parent, make(chan struct{})}
			done := result(func() error { return l.LockContext(ctx, mode) })
			redistest.Eventually(t, func() bool { return l.Waiting() == 1 }, "it waits")

			l.mu.Lock()
			cancel()
			ctx.ended <- struct{}{}
			if mode == Read {
				l.shares.newest().readers += l.queue.letIn(held)
			} else {
				l.queue.pass(held)
			}
			l.mu.Unlock()
			if err := await(t, done, "LockContext returns"); !errors.Is(err, context.Canceled) {
				t.Fatalf("LockContext: %v", err)
			}
			if mode == Read {
				l.Unlock(Read) // of the first reader
			}
			redistest.Eventually(t, func() bool { return l.Held(mode) == nil && s.Get(lockKey) == "" },
				"nothing is held")
		})
	}
}

// A writer gets a hold whose lease is lost before the writer runs. The writer
// asks for the lock, and its context ends. It holds nothing.
func TestLostHandOff(t *testing.T) {
	s, clock := redistest.StartMini(t), clockwork.NewFakeClock()
	client := s.Client()
	l := newLock(client, time.Second, Options{Clock: clock, NoRenewal: true})
	l.Lock(Write)
	ctx, cancel := context.WithCancel(t.Context())
	done := result(func() error { return l.LockContext(ctx, Write) })
	redistest.Eventually(t, func() bool { return l.Waiting() == 1 }, "a writer waits")
	clock.Advance(2 * time.Second)
	s.Do("SET", lockKey, "other", "PX", 600_000)
	l.mu.Lock()
	l.queue.pass(l.writer)
	l.mu.Unlock()
	redistest.Eventually(t, func() bool {
		return s.Do("EXISTS", "warlock:{"+lockKey+"}:waiters") == int64(1)
	}, "the writer asks")
	if l.Held(Write) != nil {
		t.Error("the lost hold is held while the writer asks")
	}
	cancel()
	if err := await(t, done, "LockContext returns"); !errors.Is(err, context.Canceled) {
		t.Errorf("LockContext: %v", err)
	}
	if h := l.Held(Write); h != nil {
		t.Errorf("the lost hold is held: %v", h.lease.Err())
	}
	if err := l.UnlockContext(t.Context(), Write); !errors.Is(err, ErrNotHeld) {
		t.Errorf("an unlock: %v, want ErrNotHeld", err)
	}
}

// A writer that tries while its own process reads is refused without a request.
func TestTryLockBesideReaders(t *testing.T) {
	s := redistest.StartMini(t)
	client := s.Client()
	l := newLock(client, time.Minute, Options{})
	l.Lock(Read)
	scripts := redistest.CountScripts(client)
	if ok, err := l.TryLockContext(t.Context(), Write); ok || err != nil {
		t.Errorf("TryLock beside a reader: %v, %v", ok, err)
	}
	if n := scripts.Load(); n != 0 {
		t.Errorf("%d requests were sent, want none", n)
	}
	l.Unlock(Read)
}
