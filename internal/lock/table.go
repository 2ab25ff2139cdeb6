package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/lease"
	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// A Table has a Lock for each id in use, and sends their requests together.
// Init makes it usable. It must not be copied after that. Its methods may be
// called concurrently. Those that Lock has too do the same for the lock of an
// id.
type Table struct {
	*terms
	prefix string

	mu      sync.Mutex        // guards the following; never held during a request to Redis
	entries map[string]*entry // of the ids in use
	peak    int               // the map keeps room for as many entries: the most that it has had
	pasts   *pasts            // of ids that are not in use; nil: nothing is retained
}

// An entry is the lock of one id, for as long as something uses it: a call that
// locks, while it is under way, a hold, or an idle lease. It is in the map while
// its uses are above 0. The Table's mu guards each step from or to 0.
type entry struct{ Lock }

// maxID is the longest id, in bytes.
const maxID = 64 << 10

// A Go map never shrinks: after 100 000 ids it kept 35 bytes for each of them
// (TestMemoryAfterAPeak). So the entries move to a new map when few of them are
// left after a peak. A move costs little, since it copies at most 1 of 64
// entries.
const (
	smallPeak = 1024 // a map that never had more entries stays
	peakShare = 64   // the entries move when fewer than 1 of so many is left
)

// spreadShare is the share of the ttl over which the renewals of locks that
// were taken together are spread, each time further.
const spreadShare = 12

// Init makes t a table of locks whose keys begin with prefix. It panics if an
// argument cannot be used.
func (t *Table) Init(client redis.UniversalClient, prefix string, ttl time.Duration, o Options) {
	checkPrefix(prefix)
	if _, err := protocol.New(client, prefix+"0"); err != nil {
		panic(err)
	}
	t.init(onServer(inBatches(client), prefix, ttl, &o), prefix, ttl, o)
}

// InitQuorum is Init for locks that the servers of clients keep by majority.
func (t *Table) InitQuorum(
	clients []redis.UniversalClient, prefix string, ttl time.Duration, o Options,
) {
	checkPrefix(prefix)
	b := onQuorum(clients, prefix, ttl, inBatches, &o)
	t.init(b, prefix, ttl, o)
}

// inBatches returns what sends the requests of many locks together.
func inBatches(client redis.UniversalClient) send.Sender { return send.NewPipeline(client) }

// checkPrefix panics if the keys of a table cannot begin with prefix.
func checkPrefix(prefix string) {
	if prefix == "" {
		panic(fmt.Errorf(`%w: the prefix is empty: name what is to be locked, such as "invoice:"`, ErrBadKey))
	}
}

// init makes t a table of locks that b keeps.
func (t *Table) init(b backend, prefix string, ttl time.Duration, o Options) {
	_, err := b.open(prefix + "0")
	if err == nil {
		err = checkTTL(prefix, ttl)
	}
	if err != nil {
		panic(err)
	}
	if o.Name == "" {
		o.Name = prefix
	}
	t.terms, t.prefix = newTerms(b, prefix, ttl, o), prefix
	t.timers, t.spread = lease.NewAlarms(o.Clock), ttl/spreadShare
	t.entries = make(map[string]*entry)
	if o.Retention > 0 {
		t.pasts = newPasts()
	}
}

// check panics if t is a zero value.
func (t *Table) check() {
	if t.terms == nil {
		panic("warlock: the Keyed was not made by NewKeyed")
	}
}

// Lock waits for the lock of id.
func (t *Table) Lock(id string, mode Mode) {
	_, err := t.hold(id, func(l *Lock) (*Hold, error) { return l.awaitDurable(mode) })
	if err != nil {
		panic(err)
	}
}

// LockContext waits until ctx ends, or until the tries are used up.
func (t *Table) LockContext(ctx context.Context, id string, mode Mode) error {
	_, err := t.acquire(ctx, id, mode)
	return err
}

// TryLock tries once. It panics if id cannot be used, and logs any other error.
func (t *Table) TryLock(id string, mode Mode) bool {
	h, err := t.hold(id, func(l *Lock) (*Hold, error) { return l.tryOrLog(mode), nil })
	if err != nil {
		panic(err)
	}
	return h != nil
}

// TryLockContext tries once.
func (t *Table) TryLockContext(ctx context.Context, id string, mode Mode) (bool, error) {
	h, err := t.hold(id, func(l *Lock) (*Hold, error) { return l.try(ctx, mode) })
	return h != nil, err
}

// Unlock panics if id is not locked, and logs any other error.
func (t *Table) Unlock(id string, mode Mode) {
	log := func() *slog.Logger { return t.logOf(id) }
	reportUnlock(log, names[mode].unlock, t.UnlockContext(context.Background(), id, mode))
}

// UnlockContext ends a hold of id, as that of Lock does.
func (t *Table) UnlockContext(ctx context.Context, id string, mode Mode) error {
	return t.unlockHold(ctx, id, nil, mode)
}

// unlockHold is UnlockContext for the goroutine that locked with h.
func (t *Table) unlockHold(ctx context.Context, id string, h *Hold, mode Mode) (err error) {
	e := t.lookUp(id)
	if e == nil { // unlockHold will say that it is not locked
		if e, err = t.newEntry(id); err != nil {
			return fmt.Errorf("%w (%w)", err, ErrNotHeld)
		}
	}
	keeps := false
	defer func() {
		switch {
		case errors.Is(err, ErrNotHeld):
		case keeps:
			t.limitIdle()
		default: // a hold has ended, with or without its lease, or by a panic
			t.leave(id, e)
		}
	}()
	keeps, err = e.unlockHold(ctx, h, mode)
	return err
}

// Do locks id, runs fn, and unlocks id.
func (t *Table) Do(ctx context.Context, id string, mode Mode, fn func(context.Context) error) error {
	h, err := t.acquire(ctx, id, mode)
	if err != nil {
		return err
	}
	return do(ctx, h, fn, func(ctx context.Context) error { return t.unlockHold(ctx, id, h, mode) })
}

// TryDo is Do with one try. It reports whether fn ran.
func (t *Table) TryDo(
	ctx context.Context, id string, mode Mode, fn func(context.Context) error,
) (bool, error) {
	h, err := t.hold(id, func(l *Lock) (*Hold, error) { return l.try(ctx, mode) })
	if h == nil {
		return false, err
	}
	unlock := func(ctx context.Context) error { return t.unlockHold(ctx, id, h, mode) }
	return true, do(ctx, h, fn, unlock)
}

// Held returns the hold under which id is locked, or nil.
func (t *Table) Held(id string, mode Mode) *Hold {
	if e := t.lookUp(id); e != nil {
		return e.Held(mode)
	}
	return nil
}

// Waiting returns how many goroutines wait for their turn at id.
func (t *Table) Waiting(id string) int {
	if e := t.lookUp(id); e != nil {
		return e.Waiting()
	}
	return 0
}

// Len returns how many ids are in use, apart from those whose leases are idle.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.entries)
	if t.Retention == 0 {
		return n
	}
	for _, e := range t.entries {
		if g, _ := e.idleGrant(); g != nil {
			n--
		}
	}
	return n
}

// lockWithin locks id as LockContext does, apart from MaxWait.
func (t *Table) lockWithin(ctx context.Context, id string, mode Mode) error {
	_, err := t.hold(id, func(l *Lock) (*Hold, error) { return l.acquireWithin(ctx, mode) })
	return err
}

// acquire locks id as LockContext does.
func (t *Table) acquire(ctx context.Context, id string, mode Mode) (*Hold, error) {
	return t.hold(id, func(l *Lock) (*Hold, error) { return l.acquire(ctx, mode) })
}

// hold locks id by lock, and keeps its entry if that returns a hold.
func (t *Table) hold(id string, lock func(*Lock) (*Hold, error)) (h *Hold, err error) {
	e, err := t.use(id)
	if err != nil {
		return nil, err
	}
	defer func() {
		if h == nil {
			t.leave(id, e)
		}
	}()
	return lock(&e.Lock)
}

// server returns the lock of id on its server, or an error if there can be
// none.
func (t *Table) server(id string) (server, error) {
	switch {
	case id == "":
		return nil, fmt.Errorf("%w: the id is empty: name which of %s is to be locked",
			ErrBadKey, protocol.Quote(t.prefix))
	case len(id) > maxID:
		return nil, fmt.Errorf("%w: the id %s is longer than 64 KiB: use a hash of it",
			ErrBadKey, protocol.Quote(id))
	}
	return t.open(t.prefix + id)
}

// newEntry returns an entry for id, which nobody uses yet.
func (t *Table) newEntry(id string) (*entry, error) {
	t.check()
	server, err := t.server(id)
	if err != nil {
		return nil, err
	}
	e := &entry{Lock{turns{site: site{server, t.terms}}}}
	if t.pasts != nil {
		e.gone = func() { t.leave(id, e) }
	}
	return e, nil
}

// use returns the entry of id, counted once more.
func (t *Table) use(id string) (*entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil {
		var err error
		if e, err = t.newEntry(id); err != nil {
			return nil, err
		}
		t.entries[e.site.server.Key()[len(t.prefix):]] = e // shares the lock's copy of the id
		if t.pasts != nil {
			e.past = t.pasts.of(id)
		}
	}
	e.uses.Add(1)
	t.peak = max(t.peak, len(t.entries))
	return e, nil
}

// leave counts one use of the entry of id less.
func (t *Table) leave(id string, e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.uses.Add(-1) > 0 {
		return
	}
	if t.pasts != nil {
		t.pasts.keep(id, e.past)
	}
	e.unwatch()
	delete(t.entries, id)
	if t.peak > smallPeak && len(t.entries) < t.peak/peakShare {
		t.shrinkLocked()
	}
}

// shrinkLocked moves the entries to a map that has room for no more than these.
func (t *Table) shrinkLocked() {
	t.peak = len(t.entries)
	entries := make(map[string]*entry, t.peak)
	maps.Copy(entries, t.entries)
	t.entries = entries
}

// lookUp returns the entry of id, or nil if it is not in use.
func (t *Table) lookUp(id string) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entries[id]
}

func (t *Table) logOf(id string) *slog.Logger { return t.log().With("key", t.prefix+id) }
