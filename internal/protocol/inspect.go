package protocol

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/send"
)

// A Status says who holds a lock and who waits for it.
type Status struct {
	Key         string
	Held        bool
	Mode        Mode     // if it is held
	Holders     []Holder // one that writes, or those that read, at most MostInspected
	MoreHolders int      // beside these
	Waiting     []Waiter // in their order, at most MostInspected
	MoreWaiting int      // beside these; some may be dead
	Fence       int64    // the last token; 0: none is known
}

// A Holder is an ID that holds a lock.
type Holder struct {
	ID        string
	Remaining time.Duration // negative: its lease never ends
}

// A Waiter is an ID that waits for a lock.
type Waiter struct {
	ID   string
	Mode Mode
	For  time.Duration
}

// MostInspected is of how many holders, and of how many waiters, Inspect tells.
const MostInspected = 1000

// Inspect asks who holds the lock and who waits for it. It changes nothing.
func (l *Lock) Inspect(ctx context.Context) (Status, error) {
	reply, err := l.run(ctx, repeatable, inspectScript, send.Way{}, MostInspected)
	if err != nil {
		return Status{}, err
	}
	return l.status(reply)
}

// InspectTogether is Inspect for many locks of one client, whose requests go to the
// servers together. Each lock has a status or an error.
func InspectTogether(
	ctx context.Context, client redis.UniversalClient, locks []*Lock,
) ([]Status, []error) {
	statuses, errs := make([]Status, len(locks)), make([]error, len(locks))
	pipe := client.Pipeline()
	cmds := make([]*redis.Cmd, len(locks))
	for i, l := range locks {
		cmds[i] = command(ctx, "evalsha", inspectScript.hash, l.keys[:], []any{MostInspected})
		_ = pipe.Process(ctx, cmds[i]) // only notes the command
	}
	_, _ = pipe.Exec(ctx) // each command carries its error
	for i, l := range locks {
		if err := cmds[i].Err(); err != nil && !send.Lost(err) { // by itself, it follows a redirection
			statuses[i], errs[i] = l.Inspect(ctx)
			continue
		} else if err != nil {
			errs[i] = err
			continue
		}
		statuses[i], errs[i] = l.status(cmds[i].Val())
	}
	return statuses, errs
}

// status reads the reply to Inspect.
func (l *Lock) status(reply any) (Status, error) {
	s := Status{Key: l.Key()}
	list, _ := reply.([]any)
	parts := reader{values: list}
	switch parts.text() {
	case "free":
	case "read":
		s.Held, s.Mode = true, Read
	case "write":
		s.Held, s.Mode = true, Write
	default:
		parts.bad = true
	}
	s.Fence, _ = strconv.ParseInt(parts.text(), 10, 64) // another program may have set it
	holders := reader{values: parts.list()}
	for len(holders.values) > 0 {
		s.Holders = append(s.Holders, Holder{holders.text(), milliseconds(holders.number())})
	}
	s.MoreHolders = int(parts.number())
	waiters := reader{values: parts.list()}
	for len(waiters.values) > 0 {
		id, mode := waiters.text(), Write
		if waiters.text() == modes[Read] {
			mode = Read
		}
		waited := time.Duration(waiters.number()) * time.Microsecond
		s.Waiting = append(s.Waiting, Waiter{id, mode, waited})
	}
	s.MoreWaiting = int(parts.number())
	if parts.bad || holders.bad || waiters.bad {
		return Status{}, unexpected("inspect", reply)
	}
	return s, nil
}

// A reader reads the parts of a reply, one after another.
type reader struct {
	values []any
	bad    bool // a part was missing, or of another type
}

func next[T any](r *reader) (value T) {
	if len(r.values) == 0 {
		r.bad = true
		return value
	}
	value, ok := r.values[0].(T)
	r.values, r.bad = r.values[1:], r.bad || !ok
	return value
}

func (r *reader) text() string  { return next[string](r) }
func (r *reader) number() int64 { return next[int64](r) }
func (r *reader) list() []any   { return next[[]any](r) }
