package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"go.uber.org/goleak"
)

// A worker is a process of this program that locks and unlocks, until it is told to stop,
// or is killed. It is told what to do by the environment, and by its standard input: a line
// says that it should come to an end, and the end of input that it should exit. What it does it
// writes to its standard output, as lines of JSON.
//
// It knows nothing of faults, and counts on nothing but what the library promises.

// jobVar is the environment variable that makes a process a worker.
const jobVar = "WARLOCK_CHAOS_JOB"

// A job is what a worker is to do.
type job struct {
	Process, Slot int
	Seed          uint64
	Backend       string            // how the servers belong together
	Addrs         []string          // of the servers, or Sentinels
	Through       map[string]string // by address: the proxy that leads there
	Store         string
	TTL           time.Duration
	Keys          []string
	Load          load
}

// A load is how the locks are used.
type load struct {
	Reads float64       // the share of holds that read, where that is possible
	Hold  time.Duration // the longest
	Even  bool          // holds are spread evenly up to that; if not, most are short
	Fresh bool          // a client of its own for each hold
	Pause time.Duration // the longest between one op and the next; 0: the usual
}

// goroutines is how many each worker has.
const goroutines = 4

// A line is what a worker says.
type line struct {
	Op      *op      `json:",omitempty"`
	Request *request `json:",omitempty"`
	End     *ending  `json:",omitempty"`
}

// An ending is what was left when all goroutines of the load had ended.
type ending struct {
	Leak string // goroutines
	IDs  int    // in use by the Keyed
}

// A laborer is a worker from inside.
type laborer struct {
	*job
	store   *rpc.Client
	ops     atomic.Int64
	closing sync.WaitGroup // of clients that were used once

	mu  sync.Mutex // guards the following
	out *json.Encoder
}

func work(text string, in io.Reader, out io.Writer) error {
	logging.Disable()           // connections break, and go-redis would say so
	signal.Ignore(os.Interrupt) // a terminal's reaches the first process too, which ends this one
	w := &laborer{job: new(job), out: json.NewEncoder(out)}
	if err := json.Unmarshal([]byte(text), w.job); err != nil {
		return fmt.Errorf("the job cannot be read: %w", err)
	}
	var err error
	if w.store, err = rpc.Dial("unix", w.Store); err != nil {
		return fmt.Errorf("no store: %w", err)
	}
	defer w.store.Close()
	lines := bufio.NewScanner(in)
	ctx, stop := context.WithCancel(context.Background())
	told := make(chan struct{})
	go func() { // ends with the input
		lines.Scan()
		stop()
		for lines.Scan() {
		}
		close(told)
	}()

	s := w.newSite()
	for s.client.Ping(ctx).Err() != nil && ctx.Err() == nil { // opens what a client keeps open
	}
	before := append(clientsOwn, goleak.IgnoreCurrent())
	var group sync.WaitGroup
	for g := range goroutines {
		group.Go(func() { w.labor(ctx, g, s) })
	}
	group.Wait()
	w.closing.Wait()
	w.say(line{End: &ending{leaked(before), s.keyed.Len()}})
	<-told
	return s.client.Close()
}

// clientsOwn are goroutines that a client of a Cluster, or behind Sentinel, starts when it learns of
// other servers, and keeps until it is closed.
var clientsOwn = []goleak.Option{
	goleak.IgnoreTopFunction("github.com/redis/go-redis/v9/maintnotifications.(*CircuitBreakerManager).cleanupLoop"),
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*sentinelFailover).listen"),
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*channel).initHealthCheck.func1"),
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*channel).initMsgChan.func1"),
}

// leaked waits until all goroutines but others have ended, for as long as that can take: the connection for
// messages is kept for a second.
func leaked(others []goleak.Option) string {
	const most = 10 * time.Second
	for began := time.Now(); ; {
		err := goleak.Find(others...)
		if err == nil {
			return ""
		}
		if time.Since(began) > most {
			return err.Error()
		}
	}
}

// say writes a line at once: what a process that is killed has said stays said.
func (w *laborer) say(l line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.out.Encode(l); err != nil {
		os.Exit(3) // whoever listened is gone
	}
}

// connect returns a client. Each slot has its own settings: what a service may have chosen.
func (w *laborer) connect(hook redis.Hook) redis.UniversalClient {
	o := redis.UniversalOptions{Addrs: w.Addrs, Dialer: w.dial}
	switch w.Slot {
	case 1:
		o.ContextTimeoutEnabled = true
	case 2:
		o.ReadTimeout, o.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	case 3:
		o.MaxRetries = -1
	case 4:
		o.PoolSize, o.PoolTimeout = 2, 500*time.Millisecond
	case 5:
		o.ContextTimeoutEnabled, o.ReadTimeout = true, 500*time.Millisecond
	}
	switch w.Backend {
	case sentinel:
		o.MasterName = masterName
		client := redis.NewFailoverClient(o.Failover())
		client.AddHook(hook)
		return client
	case cluster:
		client := redis.NewClusterClient(o.Cluster())
		client.OnNewNode(func(node *redis.Client) { node.AddHook(hook) })
		return client
	}
	client := redis.NewClient(o.Simple())
	client.AddHook(hook)
	return client
}

// dial connects by the proxy.
func (w *laborer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if through, ok := w.Through[addr]; ok {
		addr = through
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// labor holds one lock after another until ctx ends.
func (w *laborer) labor(ctx context.Context, g int, s *site) {
	rng := rand.New(rand.NewPCG(w.Seed, uint64(w.Process*goroutines+g)))
	const usual = 20 * time.Millisecond
	pause := cmp.Or(w.Load.Pause, usual)
	for ctx.Err() == nil {
		o := &op{Process: w.Process, Slot: w.Slot, N: int(w.ops.Add(1)), Goroutine: g, Key: rng.IntN(len(w.Keys))}
		w.one(o, rng, s)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.Int64N(int64(pause)))):
		}
	}
}

// one takes an op through a lock.
func (w *laborer) one(o *op, rng *rand.Rand, s *site) {
	d := w.Load.draw(rng)
	if w.Load.Fresh {
		s = w.newSite()
		defer w.closing.Go(func() { // later: what was given up is released in the background
			time.Sleep(2 * w.TTL)
			_ = s.client.Close()
		})
	}
	h := s.way(o, rng.Float64() < w.Load.Reads, w)
	defer func() {
		if r := recover(); r != nil { // as an unlock does where the library has lost count
			o.Fault = fmt.Sprint("panic: ", r)
			w.say(line{Op: o})
			panic(r)
		}
	}()
	o.Called = now()
	w.say(line{Op: o})
	ok, err := h.enter(d)
	o.Try = d.try
	if !ok {
		o.Refused = now()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !d.try {
			o.Fault = fmt.Sprintf("LockContext: %v", err)
		}
		w.say(line{Op: o})
		return
	}
	o.Granted = now()
	h.begin()
	w.say(line{Op: o})
	h.hold(d)
	h.leave(d)
	w.say(line{Op: o})
}

// A draw is what chance has decided for one hold.
type draw struct {
	try       bool
	timeout   time.Duration // of LockContext; 0: none
	hold      time.Duration
	cancelled bool // the context of the unlock has ended
}

func (l *load) draw(rng *rand.Rand) draw {
	var d draw
	switch x := rng.Float64(); {
	case x < 0.1:
		d.try = true
	case x < 0.35:
		d.timeout = time.Duration(rng.Int64N(int64(300 * time.Millisecond)))
	}
	u := rng.Float64()
	if !l.Even { // half of them below an eighth, and a third short enough for a local hand-off
		u = u * u * u
	}
	d.hold = time.Duration(u * float64(l.Hold))
	d.cancelled = rng.Float64() < 0.05
	return d
}
