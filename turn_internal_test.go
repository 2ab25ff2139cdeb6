package warlock

import (
	"context"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A reader that is let in under a share that is lost by the time it runs, as its process was stopped, asks for
// another.
func TestReaderIsLetInUnderALostShare(t *testing.T) {
	s := redistest.StartMini(t)
	clock := clockwork.NewFakeClock()
	rw := NewRWMutex(s.Client(), "invoice:42", time.Second, WithClock(clock), WithoutRenewal())
	rw.RLock()
	m := &rw.w
	m.mu.Lock()
	lost := m.turn.lastShare()
	m.turn.asking = make(chan struct{}) // as if another reader asked
	m.mu.Unlock()

	entered := make(chan *Lease)
	go func() {
		l, _ := m.enterAlive(context.Background(), protocol.Read)
		entered <- l
	}()
	waits := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.turn.waiting.Len() == 1
	}
	redistest.Eventually(t, waits, "a reader waits")
	clock.Advance(2 * time.Second)
	m.mu.Lock()
	m.turn.asking = nil
	lost.readers++
	m.turn.waiting.Remove(m.turn.waiting.Front()).(*claim).passed <- lost.lease
	m.mu.Unlock()

	if l := <-entered; l != nil {
		t.Errorf("it reads under a lease that is lost: %v", l.lease.Err())
	}
	m.leave() // the turn was its
	rw.RUnlock()
}
