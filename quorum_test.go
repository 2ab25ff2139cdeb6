package warlock_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// startQuorum starts so many servers. Each call of the result returns a client for each.
func startQuorum(t *testing.T, n int) (servers []*redistest.Server, clients func() []redis.UniversalClient) {
	t.Helper()
	for range n {
		servers = append(servers, redistest.Start(t))
	}
	return servers, func() (all []redis.UniversalClient) {
		for _, s := range servers {
			all = append(all, s.Client())
		}
		return all
	}
}

func TestQuorumExcludes(t *testing.T) {
	_, clients := startQuorum(t, 3)
	a := warlock.NewQuorumMutex(clients(), "k", time.Second)
	b := warlock.NewQuorumMutex(clients(), "k", time.Second)
	began := time.Now()
	a.Lock()
	t.Log("first lock", time.Since(began))
	if ok, err := b.TryLockContext(t.Context()); ok || err != nil {
		t.Fatalf("TryLock of a held lock: %v, %v", ok, err)
	}
	got := make(chan error, 1)
	go func() { got <- b.LockContext(t.Context()) }()
	time.Sleep(50 * time.Millisecond)
	first := a.Lease().Fence()
	began = time.Now()
	a.Unlock()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	t.Log("handed off in", time.Since(began))
	if b.Lease().Fence() <= first {
		t.Error("the token has not risen")
	}
	if err := b.UnlockContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		began = time.Now()
		a.Lock()
		l := time.Since(began)
		a.Unlock()
		t.Log("lock", l, "pair", time.Since(began))
	}
	_ = context.Background
}
