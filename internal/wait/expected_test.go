package wait

import (
	"testing"

	"github.com/warlock-go/warlock/internal/redistest"
)

// A grant that arrives before the answer by which its waiter would join is not released: the waiter will
// find itself the holder.
func TestGrantThatIsExpected(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		other, _ := join(t, b) // the mailbox is open for another
		id, _ := b.NewID()
		b.Expect(id)
		s.Do("SET", key, id, "PX", 600_000)
		tell(s, id, 1, 5)
		tell(s, other.id, 1, 6)
		next(t, other) // so the one before has arrived
		w := b.Stand(id)
		b.Forget(id)
		tell(s, id, 1, 5)
		tell(s, other.id, 1, 6)
		next(t, other)
		if got := s.Get(key); got != id {
			t.Errorf("the lock of one that is about to wait, or holds, is %q's", got)
		}
		w.Leave()
		tell(s, id, 1, 5)
		redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock of nobody is released")
		other.Leave()
	})
}
