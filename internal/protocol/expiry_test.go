package protocol_test

import (
	"testing"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// The companions of a lock expire, even if some were deleted by hand or evicted
// while the queue lived on.
func TestRecordsExpireThoughTheQueueLives(t *testing.T) {
	for name, deleted := range map[string][]any{
		"waiters": {waiters}, "deadlines": {deadlines}, "both": {waiters, deadlines},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				l := newLock(t, s.Client())
				acquire(t, l, id(0, 0))
				enqueue(t, l, protocol.Request{ID: id(1, 1), TTL: 10 * ttl}) // the queue lives long
				s.Do(append([]any{"DEL"}, deleted...)...)
				for n := range 2 {
					enqueue(t, l, protocol.Request{ID: id(2, n), TTL: ttl})
					for _, k := range []string{queue, waiters, deadlines} {
						if left := s.TTL(k); left <= 0 {
							t.Errorf("%s does not expire: PTTL says %v", k, left)
						}
					}
				}
			})
		})
	}
}
