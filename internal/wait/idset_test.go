package wait

import (
	"testing"

	"github.com/warlock-go/warlock/internal/redistest"
)

// The mailbox does not release a grant to an expected ID that has not joined
// yet.
func TestGrantThatIsExpected(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		b := newMailbox(s.Client())
		other, _ := join(t, b) // the mailbox is open for another
		id, _ := b.NewID("")
		b.Expect(id)
		s.Do("SET", key, id, "PX", 600_000)
		tell(s, id, 1, 5)
		tell(s, other.id, 1, 6)
		next(t, other) // so the first notice has arrived too
		w := b.Register(id)
		b.Forget(id)
		tell(s, id, 1, 5)
		tell(s, other.id, 1, 6)
		next(t, other)
		if got := s.Get(key); got != id {
			t.Errorf("the ID waits or holds, but the lock is %q's", got)
		}
		w.Leave()
		tell(s, id, 1, 5)
		released := func() bool { return s.Get(key) == "" }
		redistest.Eventually(t, released, "the lock of an ID that is not registered is released")
		other.Leave()
	})
}
