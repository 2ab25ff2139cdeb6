package lock

import (
	"context"
	"errors"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// Where there is an Observer, a call that locks takes a visit along in its context.
// Where there is none, nothing is made and no clock is read: each place that could
// tell something asks first whether anybody listens.

// An Event is something that happened to a lock in this process.
type Event struct {
	Kind              EventKind
	Name, Key         string
	Mode              Mode
	Path              Path
	Wait, Held, Slack time.Duration
	TTL               time.Duration
	Waited            bool
	Owner             string
	Fence             int64
	Err               error
}

// An EventKind says what happened.
type EventKind int

// The kinds of events.
const (
	Waiting EventKind = iota + 1
	Acquired
	NotAcquired
	Renewed
	RenewalFailed
	Released
	Lost
	Retained
	Returned
	Recalled
)

var eventNames = [...]string{
	"none", "waiting", "acquired", "not acquired", "renewed", "renewal failed", "released",
	"lost", "retained", "returned", "recalled",
}

func (k EventKind) String() string {
	if k < 0 || int(k) >= len(eventNames) {
		return "unknown"
	}
	return eventNames[k]
}

// A Path says how a call got a lock.
type Path int

// The paths.
const (
	ByFree Path = iota + 1
	ByQueue
	ByHandOff
	ByShare
	ByRetention
)

var pathNames = [...]string{"none", "free", "queued", "local", "shared", "retained"}

func (p Path) String() string {
	if p < 0 || int(p) >= len(pathNames) {
		return "unknown"
	}
	return pathNames[p]
}

// An Observer is told of events.
type Observer = func(ctx context.Context, e Event)

// observed reports whether anybody is told of events.
func (t *terms) observed() bool { return t != nil && len(t.Observers) > 0 }

// observe tells all Observers of e.
func (s site) observe(ctx context.Context, e Event) {
	e.Name, e.Key = s.Name, s.server.Key()
	for _, o := range s.Observers {
		s.tell(ctx, o, e)
	}
}

// tell tells one Observer of e. A panic of the Observer does no harm to the lock.
func (s site) tell(ctx context.Context, o Observer, e Event) {
	defer s.survive("warlock: an Observer panicked")
	o(ctx, e)
}

// A visit is a call that locks, as Observers are told of it. One goroutine uses it.
type visit struct {
	ctx    context.Context // the caller's
	began  time.Time
	waited bool // Observers were told that the call waits
	path   Path
	reused bool   // the lease was idle
	behind string // the ID that had the lock, as Redis last said; empty: not known
}

// visitKey is the context key of the visit of a call.
type visitKey struct{}

// visit has Observers told of a call, which locks or tries to. Its caller has asked
// whether there are any: the way without them is as short as it can be.
func (l *Lock) visit(
	ctx context.Context, mode Mode, call func(context.Context) (*Hold, error),
) (*Hold, error) {
	v := &visit{ctx: ctx, began: l.Clock.Now()}
	returned := false
	defer func() {
		if !returned { // a hook of the client panicked, or ended this goroutine
			l.observe(ctx, Event{
				Kind: NotAcquired, Mode: mode, Wait: l.Clock.Since(v.began), Waited: v.waited,
				Err: send.ErrExited,
			})
		}
	}()
	h, err := call(context.WithValue(ctx, visitKey{}, v))
	returned = true
	now := l.Clock.Now()
	e := Event{Kind: NotAcquired, Mode: mode, Wait: now.Sub(v.began), Waited: v.waited, Err: err}
	e.Owner = protocol.OwnerOf(v.behind)
	if h != nil {
		e.Kind, e.Path, e.Fence, e.TTL = Acquired, v.path, h.fence, l.ttl
		l.begin(h, mode, now)
		if v.reused {
			l.observe(ctx, Event{Kind: Returned, Mode: mode, Fence: h.fence})
		}
	}
	l.observe(ctx, e)
	return h, err
}

// visitOf returns the visit of the call whose context is ctx, or nil.
func (t *terms) visitOf(ctx context.Context) *visit {
	if !t.observed() {
		return nil
	}
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// waits tells Observers once that the call waits.
func (s site) waits(ctx context.Context, mode Mode) {
	v := s.visitOf(ctx)
	if v == nil || v.waited {
		return
	}
	v.waited = true
	s.observe(v.ctx, Event{Kind: Waiting, Mode: mode, Wait: s.Clock.Since(v.began)})
}

// comes notes by which path the call gets the lock.
func (t *terms) comes(ctx context.Context, by Path) {
	if v := t.visitOf(ctx); v != nil {
		v.path = by
	}
}

// comesAtOnce notes that the call did not have to wait for its turn. If it got the
// hold h, it needs no request.
func (t *turns) comesAtOnce(ctx context.Context, h *Hold, mode Mode) {
	v := t.visitOf(ctx)
	if v == nil || h == nil {
		return
	}
	v.reused = mode == Write || t.wasIdle(h)
	switch {
	case v.reused:
		v.path = ByRetention
	case mode == Read:
		v.path = ByShare
	}
}

// wasIdle reports, once, whether the lease under which h reads was idle.
func (t *turns) wasIdle(h *Hold) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.shares.newest()
	if s == nil || s.hold != h || !s.reused {
		return false
	}
	s.reused = false
	return true
}

// comesByOthers notes that the call waited for its turn. If it got a hold with that,
// another goroutine had it.
func (t *terms) comesByOthers(ctx context.Context, mode Mode) {
	if mode == Write {
		t.comes(ctx, ByHandOff)
	} else {
		t.comes(ctx, ByShare)
	}
}

// standsBehind notes who had the lock when Redis was asked.
func (t *terms) standsBehind(ctx context.Context, holder string) {
	if v := t.visitOf(ctx); v != nil {
		v.behind = holder
	}
}

// begin notes when a goroutine got the lock.
func (t *turns) begin(h *Hold, mode Mode, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mode == Write {
		h.began = now
		h.shown.Store(true) // by its token
		return
	}
	for _, s := range t.shares {
		if s.hold == h {
			s.began = append(s.began, now)
		}
	}
}

// A leaving is a hold that a goroutine ends, as Observers are told of it.
type leaving struct {
	hold  *Hold
	mode  Mode
	began time.Time // when the goroutine got the lock; zero: nobody is told of it
}

// leaveReaderLocked returns the leaving of a reader of s. Of several, it may be one
// that came before it.
func (s *share) leaveReaderLocked() leaving {
	l := leaving{hold: s.hold, mode: Read}
	if len(s.began) > 0 {
		l.began, s.began = s.began[0], s.began[1:]
	}
	return l
}

// unlockSeen has Observers told of an unlock, which free ends, also by a panic.
func (s site) unlockSeen(
	ctx context.Context, l leaving, free func() (keeps bool, err error),
) (keeps bool, err error) {
	defer func() { s.leaves(ctx, l, err) }()
	if keeps, err = free(); keeps {
		s.observe(ctx, Event{Kind: Retained, Mode: l.mode, Fence: l.hold.fence})
	}
	return keeps, err
}

// leaves tells Observers that a goroutine has unlocked, with that error. They are told
// nothing of a hold that came to no goroutine: the wait had ended at its grant.
func (s site) leaves(ctx context.Context, l leaving, err error) {
	if l.began.IsZero() {
		return
	}
	if errors.Is(err, ErrLeaseLost) {
		s.loses(l, err)
	}
	s.observe(ctx, Event{
		Kind: Released, Mode: l.mode, Fence: l.hold.fence, Held: s.since(l.began), Err: err,
	})
}

// loses tells Observers once that the lease of a hold has ended.
func (s site) loses(l leaving, err error) {
	if l.hold.mourned.Swap(true) {
		return
	}
	s.observe(context.Background(),
		Event{Kind: Lost, Mode: l.mode, Fence: l.hold.fence, Held: s.since(l.began), Err: err})
}

// since returns how long ago began was, and 0 if began is not known.
func (t *terms) since(began time.Time) time.Duration {
	if began.IsZero() {
		return 0
	}
	return t.Clock.Since(began)
}

// holdsUnder returns the holds under g, each once, as if their goroutines left.
func (t *turns) holdsUnder(g *grant) (all []leaving) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writer != nil && t.writer.grant == g {
		all = append(all, leaving{t.writer, Write, t.writer.began})
	}
	for _, s := range t.shares {
		if s.hold.grant == g {
			l := leaving{hold: s.hold, mode: Read}
			if len(s.began) > 0 {
				l.began = s.began[0]
			}
			all = append(all, l)
		}
	}
	return all
}
