package lock

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
)

// What Inspect says.
type (
	Status = protocol.Status
	Holder = protocol.Holder
	Waiter = protocol.Waiter
)

// OwnerOf returns the owner that id names, or "".
func OwnerOf(id string) string { return protocol.OwnerOf(id) }

// Inspect asks Redis who holds the lock and who waits for it.
func Inspect(ctx context.Context, client redis.UniversalClient, key string) (s Status, err error) {
	server, err := protocol.New(client, key)
	if err != nil {
		return s, err
	}
	var answer Status // belongs to the request while that is under way
	err = within(ctx, server, "inspect", func() (err error) {
		answer, err = server.Inspect(ctx)
		return err
	})
	if err != nil {
		return s, err
	}
	return answer, nil
}

// listPage is how many keys a server looks at for one SCAN. That takes it about
// 0.1 ms.
const listPage = 500

// List yields the locks that are held or waited for, whose keys match pattern.
func List(
	ctx context.Context, client redis.UniversalClient, pattern string,
) iter.Seq2[Status, error] {
	if pattern == "" {
		pattern = "*"
	}
	return func(yield func(Status, error) bool) {
		servers, err := scanned(ctx, client)
		if err != nil {
			yield(Status{}, fmt.Errorf("warlock: list %s: %w", protocol.Quote(pattern), err))
			return
		}
		l := &lister{client: client, seen: make(map[string]bool), yield: yield}
		for _, server := range servers {
			for _, names := range protocol.CompanionPatterns(pattern) {
				if err := l.scan(ctx, server, names); err != nil {
					if !errors.Is(err, errLeft) {
						yield(Status{}, fmt.Errorf("warlock: list %s: %w", protocol.Quote(pattern), err))
					}
					return
				}
			}
		}
	}
}

// scanned returns the servers on which the keys are.
func scanned(
	ctx context.Context, client redis.UniversalClient,
) (servers []redis.Cmdable, err error) {
	if err := protocol.Check(client); err != nil {
		return nil, err
	}
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return []redis.Cmdable{client}, nil
	}
	var mu sync.Mutex
	err = cluster.ForEachMaster(ctx, func(_ context.Context, master *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		servers = append(servers, master)
		return nil
	})
	return servers, err
}

// errLeft says that the loop over a List was left.
var errLeft = errors.New("left")

// A lister is one loop over a List.
type lister struct {
	client redis.UniversalClient
	seen   map[string]bool // the keys of locks: a lock has several companions
	yield  func(Status, error) bool
}

// scan yields the locks whose companions on server match names.
func (l *lister) scan(ctx context.Context, server redis.Cmdable, names string) error {
	for cursor := uint64(0); ; {
		found, next, err := server.Scan(ctx, cursor, names, listPage).Result()
		if err != nil {
			return err
		}
		var locks []*protocol.Lock
		for _, name := range found {
			key := protocol.KeyOf(name)
			if key == "" || l.seen[key] {
				continue
			}
			l.seen[strings.Clone(key)] = true
			if lock, err := protocol.New(l.client, key); err == nil {
				locks = append(locks, lock)
			}
		}
		if err := l.inspect(ctx, locks); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// inspect yields those of locks that are held or waited for.
func (l *lister) inspect(ctx context.Context, locks []*protocol.Lock) error {
	statuses, errs := protocol.InspectTogether(ctx, l.client, locks)
	for i, s := range statuses {
		err := errs[i]
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			err = locks[i].Explain("list", err)
			s.Key = locks[i].Key()
		case !s.Held && len(s.Waiting) == 0:
			continue
		}
		if !l.yield(s, err) {
			return errLeft
		}
	}
	return nil
}
