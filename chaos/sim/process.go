package sim

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/drive"
	"github.com/warlock-go/warlock/chaos/judge"
)

// A process is a simulated process: clients, locks, a clock, and goroutines that
// use the locks.
type process struct {
	*world
	number, slot int
	clock        *clock
	habit        habit
	retains      bool            // locks, with the plan's Retention
	uses         judge.Options   // of its locks
	clients      []*redis.Client // by site
	hooks        []*drive.Hook   // by site
	keyed        []*warlock.Keyed
	locks        []any // by key: *warlock.Mutex, *warlock.RWMutex, or the id for keyed
	ops          atomic.Int64
	dials        atomic.Int64
	dead         atomic.Bool
	ctx          context.Context // ends with the process
	end          context.CancelFunc
	load         sync.WaitGroup

	mu     sync.Mutex // guards the following
	paused bool
	held   []func() // frames that came in its pause
	pauses []pauseSpan
	links  []*link
	heard  map[int]int // by site: how many links it hears messages by
}

type pauseSpan struct{ from, to time.Time }

// A habit is how a process uses its locks: the options that it gives to all of
// them.
type habit int

const (
	plain          habit = iota
	retries              // WithRetry
	withoutRenewal       // WithoutRenewal
	maxHold              // WithMaxHold
)

// options returns the options of the habit.
func (p *process) options() []warlock.Option {
	silent := slog.New(slog.DiscardHandler)
	o := []warlock.Option{
		warlock.WithClock(p.clock), warlock.WithLogger(silent),
		warlock.WithOwner(fmt.Sprint("process ", p.number)), // in each run the same
	}
	switch p.habit {
	case retries:
		o = append(o, warlock.WithRetry(3, p.plan.TTL/20))
	case withoutRenewal:
		o = append(o, warlock.WithoutRenewal())
	case maxHold:
		o = append(o, warlock.WithMaxHold(p.plan.TTL))
	}
	if p.plan.Durable {
		o = append(o, warlock.WithReplicas(1))
	}
	if p.plan.Persistent {
		o = append(o, warlock.QuorumPersistent())
	}
	if p.retains {
		o = append(o, warlock.WithRetention(p.plan.Retention))
	}
	if p.uses.MinHold > 0 {
		o = append(o, warlock.WithMinHold(p.uses.MinHold))
	}
	if p.uses.MaxWait > 0 {
		o = append(o, warlock.WithMaxWait(p.uses.MaxWait))
	}
	if p.uses.Observed {
		o = append(o, warlock.WithObserver(observer{p}))
	}
	return o
}

// chooseOptions chooses the options that the plan gives to some processes.
func (p *process) chooseOptions() {
	p.uses.Observed = p.plan.Observed
	if p.number%2 == 0 {
		p.uses.MinHold = p.plan.MinHold
	} else {
		p.uses.MaxWait = p.plan.MaxWait
	}
	p.recorder.Options(p.number, p.uses)
}

// An observer is the Observer of a process, which records events for the judges.
type observer struct{ *process }

func (o observer) Observe(ctx context.Context, e warlock.Event) {
	if o.dead.Load() {
		return
	}
	op, _ := ctx.Value(drive.OpNumber{}).(int)
	o.recorder.Event(&judge.Event{
		Process: o.number, Key: slices.Index(o.keys, e.Key), Op: op,
		Kind: judge.EventKind(e.Kind.String()), Read: e.Mode == warlock.ModeRead, Fence: e.Fence,
		At: o.now(),
	})
	o.tell(o.process, e.Key, "event: %v, token %d, of op %d", e.Kind, e.Fence, op)
}

// prefix begins all keys.
const prefix = "sim:"

// start starts a process in a slot.
func (w *world) start(slot int) *process {
	number := w.recorder.Start(slot, w.now())
	chance := w.chance(uint64(number), 0)
	p := &process{world: w, number: number, slot: slot, heard: make(map[int]int)}
	p.ctx, p.end = context.WithCancel(context.Background())
	p.clock = &clock{
		start:  time.Now(),
		offset: time.Duration(chance.Int64N(int64(2*time.Hour))) - time.Hour,
		rate:   1 + (chance.Float64()-0.5)/125, // 0.4 % off at most
	}
	habits := [...]habit{plain, plain, plain, retries, withoutRenewal, withoutRenewal, maxHold}
	p.habit = habits[chance.IntN(len(habits))]
	p.retains = w.plan.Retention > 0 && number%3 > 0
	p.chooseOptions()
	for site := range w.plan.Sites {
		hook := drive.NewHook(number, slot, w.keys, w.now, p.noteRequest)
		if w.plan.Quorum {
			hook.Server = site
		}
		client := redis.NewClient(p.clientOptions(site))
		client.AddHook(hook)
		p.clients, p.hooks = append(p.clients, client), append(p.hooks, hook)
	}
	if w.plan.Quorum {
		p.makeQuorumLocks()
	} else {
		p.makeLocks()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.processes[slot] = p
	w.all = append(w.all, p)
	return p
}

// makeLocks makes the locks of the process, each over the client of its site.
func (p *process) makeLocks() {
	ttl := p.plan.TTL
	for _, client := range p.clients {
		p.keyed = append(p.keyed, warlock.NewKeyed(client, prefix, ttl, p.options()...))
	}
	for key, name := range p.keys {
		client := p.clients[p.siteOf(key)]
		switch kind := key % 3; {
		case kind == 0:
			p.locks = append(p.locks, warlock.NewMutex(client, name, ttl, p.options()...))
		case kind == 1 && p.slot%2 == 0:
			p.locks = append(p.locks, warlock.NewRWMutex(client, name, ttl, p.options()...))
		default:
			p.locks = append(p.locks, name[len(prefix):])
		}
	}
}

// clientOptions returns the options of the client for a site. Slots differ in
// them, as services do.
func (p *process) clientOptions(site int) *redis.Options {
	o := &redis.Options{
		Addr: "127.0.0.1:" + strconv.Itoa(6379+site),
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			return p.dial(site)
		},
		DialerRetries: 1, // see dial
		ReadTimeout:   500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond,
		// Nothing that go-redis draws by chance: its chance has another seed.
		MinRetryBackoff: 8 * time.Millisecond, MaxRetryBackoff: 8 * time.Millisecond,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	switch p.slot % 4 {
	case 1:
		o.ContextTimeoutEnabled = true
	case 2:
		o.MaxRetries = -1
	case 3:
		o.PoolSize, o.PoolTimeout = 2, 200*time.Millisecond
	}
	return o
}

// hooksOf returns the hooks of the clients for a key.
func (p *process) hooksOf(key int) []*drive.Hook {
	if p.plan.Quorum {
		return p.hooks
	}
	site := p.siteOf(key)
	return p.hooks[site : site+1]
}

// noteRequest notes a request, unless the process is dead.
func (p *process) noteRequest(q *judge.Request) {
	if p.dead.Load() {
		q.Answer = judge.Unknown // the process does not learn it, and cannot act on it
	}
	p.recorder.Request(q)
	p.tell(p, p.keys[q.Key], "%s of %s, sent at %.6f: %s", q.Script, q.ID,
		time.Duration(q.Sent-judge.Instant(time.Hour)).Seconds(), q.Answer)
}

// addLink notes a link of the process.
func (p *process) addLink(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links = append(p.links, l)
}

// cutLinks breaks the links to a server; nil: all.
func (p *process) cutLinks(s *server) {
	p.mu.Lock()
	links := slices.Clone(p.links)
	p.mu.Unlock()
	for _, l := range links {
		if s == nil || l.server == s {
			l.breaks()
		}
	}
}

// pause lets the process do nothing for d. Its clock stands still, and so do its
// links. Timers that are not of its clock go on: what they do is not seen
// outside.
func (p *process) pause(d time.Duration) {
	p.mu.Lock()
	if p.paused {
		p.mu.Unlock()
		return
	}
	now := time.Now()
	p.paused = true
	p.pauses = append(p.pauses, pauseSpan{now, now.Add(d)})
	p.mu.Unlock()
	p.clock.stop()
	p.scheduler.after(d, p.goOn)
}

func (p *process) goOn() {
	p.clock.goOn()
	p.mu.Lock()
	held := p.held
	p.paused, p.held = false, nil
	p.mu.Unlock()
	for i, f := range held {
		p.scheduler.after(time.Duration(i+1)*time.Microsecond, f)
	}
}

// hold keeps f until the process goes on, and reports whether it is paused.
func (p *process) hold(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused {
		p.held = append(p.held, f)
	}
	return p.paused
}

func (p *process) isPaused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused
}

// pausedBetween reports whether the process was paused at some time from a to b.
func (p *process) pausedBetween(a, b time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.pauses, func(s pauseSpan) bool {
		return !s.from.After(b) && !s.to.Before(a)
	})
}

// crash kills the process of a slot, and starts another. What is left of the
// dead process reaches nobody: its links are broken, and it cannot dial. Its
// goroutines end soon.
func (w *world) crash(slot int) {
	w.processes[slot].kill()
	w.run(w.start(slot), (w.plan.Ops+1)/2)
}

func (p *process) kill() {
	if p.dead.Swap(true) {
		return
	}
	p.recorder.End(p.number, p.now())
	p.cutLinks(nil)
	p.end()
	for _, c := range p.clients {
		_ = c.Close() // it is closed once
	}
}
