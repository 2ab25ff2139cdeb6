package lock

import (
	"context"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A reader is let in under a share. Its process is stopped until the share's
// lease is lost. The reader then asks for another.
func TestReaderIsLetInUnderALostShare(t *testing.T) {
	s := redistest.StartMini(t)
	clock := clockwork.NewFakeClock()
	l := newLock(s.Client(), time.Second, Options{Clock: clock, NoRenewal: true})
	l.Lock(Read)
	l.mu.Lock()
	lost := l.shares.newest()
	l.queue.enter(Read, false) // as if another reader asked
	l.mu.Unlock()

	entered := make(chan *Hold)
	go func() {
		h, _ := l.takeTurn(context.Background(), Read)
		entered <- h
	}()
	redistest.Eventually(t, func() bool { return l.Waiting() == 1 }, "a reader waits")
	clock.Advance(2 * time.Second)
	l.mu.Lock()
	lost.readers += l.queue.letIn(lost.hold)
	l.mu.Unlock()

	if h := <-entered; h != nil {
		t.Errorf("it reads under a lease that is lost: %v", h.lease.Err())
	}
	l.leave() // the turn was its
	l.Unlock(Read)
}

// A goroutine whose context ends at its grant gives back what it got.
func TestWaitThatEndsAtItsGrant(t *testing.T) {
	s := redistest.StartMini(t)
	for name, mode := range map[string]Mode{"a writer": Write, "a reader": Read} {
		t.Run(name, func(t *testing.T) {
			l := newLock(s.Client(), time.Minute, Options{})
			l.Lock(mode)
			held := l.Held(mode)
			l.mu.Lock()
			if mode == Read {
				l.queue.enter(Read, false) // as if another reader asked
			}
			c, place := l.queue.wait(mode)
			l.mu.Unlock()
			l.mu.Lock()
			if mode == Read {
				l.shares.newest().readers += l.queue.letIn(held)
			} else {
				l.queue.pass(held)
			}
			h, served := l.queue.withdraw(c, place)
			l.mu.Unlock()
			if !served || h != held {
				t.Fatalf("withdrawn: %p, %v; want the hold that it got, %p", h, served, held)
			}
			if mode == Read {
				l.Unlock(Read) // its own
			}
			l.Unlock(mode)
			if h := l.Held(mode); h != nil {
				t.Error("it is locked when all have unlocked it")
			}
		})
	}
}
