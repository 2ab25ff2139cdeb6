package warlock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// These tests are of WithReplicas, on a master with a replica.

// eachDurable runs test with each side of each type of lock, for one replica.
func eachDurable(
	t *testing.T, ttl time.Duration,
	test func(t *testing.T, f face, master, replica *redistest.Server),
) {
	t.Helper()
	for name, kind := range kinds {
		for _, side := range []string{"writes", "reads"} {
			t.Run(name+" "+side, func(t *testing.T) {
				master, replica := acknowledging(t)
				writes, reads := kind(master.Client(), ttl, warlock.WithReplicas(1)).lock("42")
				f := writes
				if side == "reads" {
					f = reads
				}
				if !f.exists() {
					t.Skip("a Mutex has no such side")
				}
				test(t, f, master, replica)
			})
		}
	}
}

// acknowledging starts a master, and a replica that acknowledges what it gets.
func acknowledging(t *testing.T) (master, replica *redistest.Server) {
	t.Helper()
	master, replica = replicated(t)
	redistest.Eventually(t, func() bool {
		master.Do("SET", "probe", "1")
		return master.Do("WAIT", 1, 100) == int64(1)
	}, "the replica acknowledges writes")
	master.Do("DEL", "probe")
	return master, replica
}

// Promise: durability. A lock that is held is on the replica already.
func TestPromiseAReplicaHasTheLock(t *testing.T) {
	eachDurable(t, long, func(t *testing.T, f face, _, replica *redistest.Server) {
		for range 20 {
			if err := f.LockContext(within(t)); err != nil {
				t.Fatal(err)
			}
			if replica.Get(prefix+"42") == "" {
				t.Fatal("the replica has no lock")
			}
			f.Unlock()
		}
		if ok, err := f.TryLockContext(within(t)); !ok || replica.Get(prefix+"42") == "" {
			t.Fatalf("%t, %v", ok, err)
		}
		f.Unlock()
	})
}

// Fault 76.
func TestReplicaIsStopped(t *testing.T) {
	eachDurable(t, time.Second, func(t *testing.T, f face, master, replica *redistest.Server) {
		replica.Pause()
		resumed := false
		defer func() {
			if !resumed {
				replica.Resume()
			}
		}()
		for name, call := range map[string]func() error{
			"LockContext": func() error { return f.LockContext(within(t)) },
			"TryLockContext": func() error {
				ok, err := f.TryLockContext(within(t))
				if ok {
					return errors.New("true")
				}
				return err
			},
		} {
			err := call()
			if !errors.Is(err, warlock.ErrNotDurable) || errors.Is(err, warlock.ErrUnavailable) {
				t.Errorf("%s: %v, want ErrNotDurable", name, err)
			}
			contains(t, err.Error(), `"invoice:42"`, "0 of 1 replicas")
			if f.Lease() != nil {
				t.Errorf("%s: a lease is held", name)
			}
			redistest.Eventually(t, func() bool { return master.Get(prefix+"42") == "" }, "the lock is free")
		}
		if f.TryLock() {
			t.Error("TryLock: true")
		}
		locked := make(chan struct{})
		go func() {
			defer close(locked)
			f.Lock()
		}()
		select {
		case <-locked:
			t.Error("Lock returned, and no replica has the lock")
		case <-time.After(600 * time.Millisecond): // more than one try
		}
		resumed = true
		replica.Resume()
		<-locked
		f.Unlock()
	})
}

// A renewal that no replica has does not extend the lease.
func TestRenewalNeedsTheReplica(t *testing.T) {
	eachDurable(t, time.Second, func(t *testing.T, f face, master, replica *redistest.Server) {
		if err := f.LockContext(within(t)); err != nil {
			t.Fatal(err)
		}
		lease := f.Lease()
		first := lease.Deadline()
		redistest.Eventually(t, func() bool { return lease.Deadline().After(first) }, "it is renewed")
		replica.Pause()
		defer replica.Resume()
		select {
		case <-lease.Context().Done():
		case <-within(t).Done():
			t.Fatal("the lease lives on, and no replica has its renewals")
		}
		err := context.Cause(lease.Context())
		if !errors.Is(err, warlock.ErrLeaseLost) || !errors.Is(err, warlock.ErrNotDurable) {
			t.Errorf("the lease ended with %v", err)
		}
		if err := f.UnlockContext(within(t)); !errors.Is(err, warlock.ErrLeaseLost) {
			t.Errorf("UnlockContext: %v", err)
		}
	})
}

// The holder before needs no replica, and its unlock does not wait for one. The waiter
// that it hands the lock to makes sure by itself.
func TestHandOffIsConfirmed(t *testing.T) {
	eachDurable(t, time.Second, func(t *testing.T, f face, master, replica *redistest.Server) {
		m := warlock.NewMutex(master.Client(), prefix+"42", long)
		m.Lock()
		got := make(chan error, 1)
		go func() { got <- f.LockContext(within(t)) }()
		waiting(t, master, prefix+"42", 1)
		replica.Pause()
		defer replica.Resume()
		began := time.Now()
		m.Unlock()
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("Unlock took %v", took)
		}
		if err := <-got; !errors.Is(err, warlock.ErrNotDurable) {
			t.Errorf("LockContext: %v, want ErrNotDurable", err)
		}
		redistest.Eventually(t, func() bool { return master.Get(prefix+"42") == "" }, "the lock is free")
	})
}

// waiting waits until so many wait for the lock of key.
func waiting(t *testing.T, s *redistest.Server, key string, n int) {
	t.Helper()
	redistest.Eventually(t, func() bool {
		status, err := warlock.Inspect(context.Background(), s.Client(), key)
		return err == nil && len(status.Waiting) == n
	}, "%d wait", n)
}

// An unlock does not wait for replicas, whatever else the Keyed sends.
func TestUnlockDoesNotWaitForReplicas(t *testing.T) {
	master, replica := acknowledging(t)
	k := warlock.NewKeyed(master.Client(), prefix, long, warlock.WithReplicas(1))
	const held = 50
	for i := range held {
		k.Lock(fmt.Sprint("held", i))
	}
	replica.Pause()
	defer replica.Resume()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := make(chan struct{}, held)
	for i := range held {
		go func() {
			_ = k.LockContext(ctx, fmt.Sprint("wanted", i))
			asked <- struct{}{}
		}()
	}
	redistest.Eventually(t, func() bool { return len(master.Keys()) > 2*held }, "locks are asked for")
	began := time.Now()
	for i := range held {
		k.Unlock(fmt.Sprint("held", i))
	}
	if took := time.Since(began); took > 500*time.Millisecond { // the server waits for a second
		t.Errorf("%d unlocks took %v", held, took)
	}
	cancel()
	for range held {
		<-asked
	}
}

// One WAIT serves a whole batch.
func TestOneWaitForABatch(t *testing.T) {
	master, replica := acknowledging(t)
	k := warlock.NewKeyed(master.Client(), prefix, long, warlock.WithReplicas(1))
	ids := make([]string, 500)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	master.Do("CONFIG", "RESETSTAT")
	unlock, err := k.LockAll(within(t), ids...)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	var calls int
	_, after, _ := strings.Cut(master.Do("INFO", "commandstats").(string), "cmdstat_wait:calls=")
	if _, err := fmt.Sscanf(after, "%d,", &calls); err != nil || calls > len(ids)/20 {
		t.Errorf("%d WAITs for %d locks, %v", calls, len(ids), err)
	}
	for _, id := range ids {
		if replica.Get(prefix+id) == "" {
			t.Fatalf("the replica has no lock of %s", id)
		}
	}
}

// WAIT that is refused is an error that no waiting mends, also for Lock.
func TestWaitIsRefused(t *testing.T) {
	login := func(o *redis.Options) { o.Username, o.Password = "billing", "secret" }
	for name, c := range map[string]struct {
		args []string
		rule string
		says string
	}{
		"denied":  {nil, "-wait", "NOPERM"},
		"unknown": {[]string{"--rename-command", "WAIT", ""}, "+@all", "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t, c.args...)
			s.Do("ACL", "SETUSER", "billing", "on", ">secret", "~*", "&*", "+@all", c.rule)
			m := warlock.NewMutex(s.Client(login), key, long, warlock.WithReplicas(1))
			err := m.LockContext(within(t))
			ended := errors.Is(err, context.DeadlineExceeded)
			if err == nil || ended || errors.Is(err, warlock.ErrUnavailable) {
				t.Fatalf("LockContext: %v, want an error at once", err)
			}
			contains(t, err.Error(), "warlock: ", `"invoice:42"`, c.says, "WithReplicas")
			redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is free")
			if ok, err := m.TryLockContext(within(t)); ok || err == nil {
				t.Errorf("TryLockContext: %t, %v", ok, err)
			}
			redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is free")
			if panicOf(m.Lock) == "" {
				t.Error("Lock did not panic")
			}
			redistest.Eventually(t, func() bool { return s.Get(key) == "" }, "the lock is free")
		})
	}
}

// A failover to the replica keeps the lock, also one that was taken a moment before.
func TestFailoverKeepsADurableLock(t *testing.T) {
	master, replica := acknowledging(t)
	m := warlock.NewMutex(master.Client(), key, long, warlock.WithReplicas(1))
	if err := m.LockContext(within(t)); err != nil {
		t.Fatal(err)
	}
	id, fence := m.Lease().ID(), m.Lease().Fence()
	master.Kill()
	replica.Do("REPLICAOF", "NO", "ONE")
	status, err := warlock.Inspect(within(t), replica.Client(), key)
	if err != nil || len(status.Holders) != 1 || status.Holders[0].ID != id || status.Fence < fence {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestReplicasOnACluster(t *testing.T) {
	t.Parallel() // a cluster takes two seconds to come up
	a, b, replica := redistest.StartNode(t), redistest.StartNode(t), redistest.StartNode(t)
	redistest.Cluster(t, a, b)
	redistest.Meet(t, a, replica)
	id, _ := a.Do("CLUSTER", "MYID").(string)
	redistest.Eventually(t, func() bool {
		return replica.Client().ClusterReplicate(t.Context(), id).Err() == nil
	}, "the node becomes a replica")
	redistest.Eventually(t, func() bool { return replica.Info("master_link_status") == "up" },
		"it is in sync")
	addrs := []string{a.Addr, b.Addr}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	defer client.Close()
	k := warlock.NewKeyed(client, prefix, long, warlock.WithReplicas(1))
	durable, refused := 0, 0
	for i := range 20 { // on either master, of which one has a replica
		switch err := k.LockContext(within(t), fmt.Sprint(i)); {
		case err == nil:
			durable++
			k.Unlock(fmt.Sprint(i))
		case errors.Is(err, warlock.ErrNotDurable):
			refused++
		default:
			t.Fatal(err)
		}
	}
	if durable == 0 || refused == 0 {
		t.Errorf("%d locks were durable, %d not", durable, refused)
	}
}
