package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/job"
)

// A set is the locks that one command holds.
type set struct {
	client redis.UniversalClient
	keys   []string // as the user has named them
	shared bool
	locks  map[string]*warlock.RWMutex
	leases map[string]*warlock.Lease // of the locks that are held
	lost   chan struct{}             // closed when a lease of those is lost
	once   sync.Once                 // closes lost
}

// locks returns the locks of keys. The library's words about a bad argument become an
// error.
func (r *runner) locks(
	cmd *cobra.Command, client redis.UniversalClient, keys []string,
) (s *set, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case error:
			err = p
		case string:
			err = errors.New(p)
		default:
			panic(p)
		}
	}()
	s = &set{
		client: client, keys: unique(keys), shared: r.shared, locks: make(map[string]*warlock.RWMutex),
		leases: make(map[string]*warlock.Lease), lost: make(chan struct{}),
	}
	opts := r.options(cmd)
	for _, key := range s.keys {
		s.locks[key] = warlock.NewRWMutex(client, key, r.ttl, opts...)
	}
	return s, nil
}

// lock locks all of s, or none. It waits for that long at most; 0: as long as it takes.
// All programs lock in the order of the keys' bytes, so none waits for another in a
// circle.
func (s *set) lock(ctx context.Context, wait time.Duration, try bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // no other lock helps when one is lost
		select {
		case <-s.lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() {
		if err == nil {
			return
		}
		if lost, _ := s.unlock(); lost != nil {
			err = lost
		}
	}()
	if wait > 0 && len(s.keys) > 1 { // one lock minds WithMaxWait, and says so
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	for _, key := range slices.Sorted(slices.Values(s.keys)) {
		if try {
			err = s.tryOne(ctx, key)
		} else {
			err = s.lockOne(ctx, key)
		}
		if err != nil {
			return err
		}
		s.hold(key)
	}
	return nil
}

func (s *set) lockOne(ctx context.Context, key string) error {
	if s.shared {
		return s.locks[key].RLockContext(ctx)
	}
	return s.locks[key].LockContext(ctx)
}

func (s *set) tryOne(ctx context.Context, key string) error {
	try := s.locks[key].TryLockContext
	if s.shared {
		try = s.locks[key].TryRLockContext
	}
	if ok, err := try(ctx); ok || err != nil {
		return err
	}
	text := "somebody else has it"
	if status, err := warlock.Inspect(ctx, s.client, key); err == nil && len(status.Holders) > 0 {
		text = "held by " + holderText(status.Holders[0])
	}
	return fmt.Errorf("%w (lock %s): %s", warlock.ErrNotAcquired, strconv.Quote(key), text)
}

// hold notes that the lock of key is held.
func (s *set) hold(key string) {
	l := s.locks[key].Lease()
	if s.shared {
		l = s.locks[key].RLease()
	}
	s.leases[key] = l
	context.AfterFunc(l.Context(), func() {
		if errors.Is(context.Cause(l.Context()), warlock.ErrLeaseLost) {
			s.once.Do(func() { close(s.lost) })
		}
	})
}

// lease returns what the leases of s allow together.
func (s *set) lease(ttl time.Duration) job.Lease {
	return job.Lease{
		TTL:  ttl,
		Lost: s.lost,
		Deadline: func() (first time.Time) {
			for _, l := range s.leases {
				if d := l.Deadline(); first.IsZero() || d.Before(first) {
					first = d
				}
			}
			return first
		},
	}
}

// unlock unlocks what is held. lost says that a lease was lost before, and err that
// Redis did not confirm a release.
func (s *set) unlock() (lost, err error) {
	for key := range s.leases {
		unlock := s.locks[key].UnlockContext
		if s.shared {
			unlock = s.locks[key].RUnlockContext
		}
		e := unlock(context.Background())
		if errors.Is(e, warlock.ErrLeaseLost) {
			lost = e
		} else if e != nil {
			err = e
		}
		delete(s.leases, key)
	}
	return lost, err
}
