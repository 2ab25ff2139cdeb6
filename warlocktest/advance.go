package warlocktest

import (
	"math"
	"strings"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// How time moves.
//
//  1. The clock moves first, and the server follows. So the server is never ahead
//     of the clock, and ends no lease before the holder's deadline has passed.
//  2. The server follows before a request arrives. So it counts a lease from when
//     the request was sent, or from later. The holder counts from when it sent it.
//  3. By 1 and 2 no holder believes in its lease for longer than the server does.
//  4. Time moves in steps that are short beside the ttl of each lease. After each
//     step the code under test has time for the renewals that are due.
//
// It cannot be known whether a lock still has something to do: a goroutine that
// the clock has started may not have run yet. So Advance looks at the server. A
// lease that is overdue there is waited for, with a bound, since its holder may
// have chosen not to renew it. The bound counts ticks of the machine's clock, which
// come late if the machine is busy. Nothing depends on a single wait: a holder has
// three more tries, and each is waited for.
const (
	stepsPerTTL  = 12               // so 4 of them from one renewal to the next
	shortestStep = time.Millisecond // the least that a ttl counts in
	tick         = time.Millisecond // of real time, after each step
	patience     = 30               // ticks; commands in a batch wait for up to 10 ms
)

// Advance moves the clock and the server forward by d. It moves them in steps, a
// twelfth of the shortest ttl at a time, so that held locks are renewed meanwhile
// as they are in real time. A lease that nobody renews ends, and so does one whose
// ttl is shorter than what Redis is down for.
//
// Each step takes about 1 ms of real time, and up to 30 ms where a lease is
// overdue for its renewal. A longer d needs no more steps if no lock is held.
//
// When Advance returns, all leases of the time are renewed. It does not wait for
// anything else that the passing of time has started: wait for the end of a lease
// by [warlock.Lease.Context], and for the code under test by what it does. A
// timer that is due within a step finds the clock at the end of the step.
//
// In a bubble, Advance sleeps for d, and then waits until all other goroutines
// wait.
//
// Advance fails the test if d is negative.
func (r *Redis) Advance(d time.Duration) {
	r.t.Helper()
	if d < 0 {
		r.t.Fatalf("warlocktest: Advance(%v): time does not go back", d)
	}
	if r.clock == nil {
		time.Sleep(d)
		synctest.Wait()
		return
	}
	r.moving.Lock()
	defer r.moving.Unlock()
	r.settle()
	for d > 0 {
		step := min(d, r.leases.step())
		r.clock.Advance(step)
		r.follow()
		r.settle()
		d -= step
	}
}

// follow moves the server's time to that of the clock.
func (r *Redis) follow() {
	r.following.Lock() // so that no later call is overtaken by an earlier one
	defer r.following.Unlock()
	r.server.Mini.SetTime(r.clock.Now())
}

// settle waits until requests are answered and no lease is overdue, or until it
// has waited for long enough.
func (r *Redis) settle() {
	for n := 1; ; n++ {
		<-time.After(tick)
		overdue := r.leases.look(r.server.Mini, r.clock.Now())
		if !r.network.isUp() {
			return
		}
		if n == patience {
			r.leases.leave()
			return
		}
		if r.scripts.none() && !overdue {
			return
		}
	}
}

// leases are those that the server has, by their locks' keys and their IDs: of
// writers, of readers, and the places of waiters, which last as long as a lease
// and are kept in the same way.
type leases map[leaseID]*lease

type leaseID struct{ key, id string }

// A lease is what is known of one lease.
type lease struct {
	ends time.Time
	left time.Duration
	ttl  time.Duration // the shortest that it was given

	// overdue is how much is left of the lease when it ought to have been renewed
	// for certain.
	overdue time.Duration
}

// look looks at the server, whose time is now. It reports whether a lease is
// overdue.
func (l *leases) look(mini *miniredis.Miniredis, now time.Time) (overdue bool) {
	found := make(leases)
	eachLease(mini, now, func(id leaseID, left time.Duration) {
		le := (*l)[id]
		switch ends := now.Add(left); {
		case le == nil:
			le = newLease(ends, left)
		case ends.After(le.ends): // it was renewed, or extended
			le = newLease(ends, min(left, le.ttl))
		}
		le.left = left
		found[id] = le
		overdue = overdue || left < le.overdue
	})
	*l = found
	return overdue
}

// newLease returns a lease of ttl. Its renewal is due when 2/3 of the ttl are left.
func newLease(ends time.Time, ttl time.Duration) *lease {
	return &lease{ends: ends, ttl: ttl, overdue: ttl * 3 / 5}
}

// leave stops waiting for the leases that are overdue, until their holders must
// have tried again: a sixth of the ttl later. A lease that was extended before it
// was first seen is due later, so it is waited for until it is about to end.
func (l leases) leave() {
	for _, le := range l {
		if le.left < le.overdue {
			le.overdue = max(le.left-le.ttl/6, le.left/4)
		}
	}
}

// step returns how far time may move at once.
func (l leases) step() time.Duration {
	step := time.Duration(math.MaxInt64)
	for _, le := range l {
		step = min(step, max(shortestStep, min(le.ttl/stepsPerTTL, le.left/4)))
	}
	return step
}

// The suffixes of the companions of a lock, see package protocol.
const (
	fenceSuffix     = ":fence"
	readersSuffix   = ":readers"
	deadlinesSuffix = ":deadlines"
)

// companion returns the name of a companion of the lock key.
func companion(key, suffix string) string {
	_, rest, _ := strings.Cut(key, "{")
	if strings.Index(rest, "}") > 0 { // it has a hash tag
		return key + ":warlock" + suffix
	}
	return "warlock:{" + key + "}" + suffix
}

// eachLease calls f with each lease, share and place of a waiter that ends, and how
// much is left of it at now, the server's time.
func eachLease(mini *miniredis.Miniredis, now time.Time, f func(id leaseID, left time.Duration)) {
	for _, key := range mini.Keys() {
		if !mini.Exists(companion(key, fenceSuffix)) {
			continue // it is no lock
		}
		if id, err := mini.Get(key); err == nil && mini.TTL(key) > 0 {
			f(leaseID{key, id}, mini.TTL(key))
		}
		for _, suffix := range []string{readersSuffix, deadlinesSuffix} {
			set := companion(key, suffix)
			ids, _ := mini.ZMembers(set) // none if there is no such set
			for _, id := range ids {
				ms, err := mini.ZScore(set, id)
				if left := time.UnixMilli(int64(ms)).Sub(now); err == nil && left > 0 {
					f(leaseID{set, id}, left)
				}
			}
		}
	}
}
