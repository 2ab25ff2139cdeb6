package quorum

import (
	"testing"
	"testing/synctest"
	"time"
)

// What a server is owed ends with the lease, also if the server stays away.
func TestDebtsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := &server{}, &Lock{Quorum: &Quorum{}}
		s.rests = time.Now().Add(time.Hour) // it is away
		l.owe(s, giving{id: "a:1", ttl: time.Second}, firstDebt)
		time.Sleep(2 * time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.debts) > 0 || s.paying {
			t.Errorf("%d debts are left; paying: %v", len(s.debts), s.paying)
		}
	})
}
