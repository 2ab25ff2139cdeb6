// Package warlocktest is for tests of code that holds locks. It lets a lease run
// out, be stolen, or meet an outage of Redis, in one line each. It needs no server,
// and no test needs to sleep.
//
//	func TestPayStopsWhenTheLockIsLost(t *testing.T) {
//		r := warlocktest.Start(t)
//		mu := warlock.NewMutex(r.Client(), "invoice:42", ttl, warlock.WithClock(r.Clock()))
//		working, done := make(chan struct{}), make(chan error)
//		go func() { done <- Pay(t.Context(), mu, working) }() // the code under test
//		<-working                                             // it holds the lock
//		r.Steal("invoice:42")
//		r.Advance(ttl) // it renews its lease, and finds it lost
//		if err := <-done; !errors.Is(err, warlock.ErrLeaseLost) {
//			t.Errorf("Pay returned %v", err)
//		}
//	}
//
// The server is a miniredis in the process of the test. Choose by how the code
// under test takes its time:
//
//   - [Start] is for code that can be given a clock. Time stands still until
//     [Redis.Advance] moves it.
//   - [Bubble] is for code that uses package time, and for all else that runs in a
//     bubble of testing/synctest. Time is the bubble's.
//
// What can be lost, and how the code under test finds out:
//
//   - [Redis.Steal] and [Redis.Expire] take the lock away on the server. The holder
//     finds out at its next renewal, a third of its ttl after the last.
//   - [Redis.Down] keeps renewals from the server. The holder ends its lease by
//     itself, a little before its ttl is over.
//   - In a lock that is made [warlock.WithoutRenewal], [Redis.Advance] by the ttl is
//     enough.
//
// [Redis.Hold] is for the other side: the code under test finds the lock taken.
//
// The server has all replicas that [warlock.WithReplicas] asks for, and they have
// everything at once.
//
// For locks of a quorum, call [Start] for each server, and give the clients to
// [warlock.NewQuorumMutex]. Each server has a clock of its own.
//
// A real Redis differs from miniredis in details. Tests of what depends on them,
// such as failover, need a real one.
package warlocktest
