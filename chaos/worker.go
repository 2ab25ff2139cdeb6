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

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/judge"
)

// This file is the program of a worker: a process that locks and unlocks until
// it is told to stop, or is killed. The environment has its job. A line of its
// standard input tells it to end its load, and the end of the input to exit. It
// writes what it does to its standard output, as messages in JSON.
//
// A worker knows nothing of faults. It relies only on what the library
// promises.

// jobVar is the environment variable that makes a process a worker.
const jobVar = "WARLOCK_CHAOS_JOB"

// A job is what a worker is to do.
type job struct {
	Process, Slot int
	Seed          uint64
	Backend       string            // the kind of the backend
	Addrs         []string          // of the servers, or Sentinels
	Proxies       map[string]string // by address: the worker's proxy for it
	Store         string            // the store's socket
	TTL           time.Duration
	Keys          []string
	Load          load
}

// A load says how a worker uses the locks.
type load struct {
	Reads  float64       // the share of holds that read, if the lock has readers
	Hold   time.Duration // the longest hold
	Even   bool          // all lengths of holds are equally likely; if not, most holds are short
	Single bool          // each op has its own client and lock
	Pause  time.Duration // the longest time from an op to the next; 0: 20 ms
	// Retains says that locks are retained, and that each worker mostly uses one.
	Retains bool
	// Replicas is how many replicas must have a lock before its holder; 0: none.
	Replicas int
}

// goroutines is how many goroutines of each worker lock.
const goroutines = 4

// A message is what a worker reports. One field is set.
type message struct {
	Op      *judge.Op      `json:",omitempty"`
	Request *judge.Request `json:",omitempty"`
	Left    *leftovers     `json:",omitempty"` // the last message
}

// leftovers are what a worker has left after the end of its load.
type leftovers struct {
	Goroutines string // their stacks; empty: none
	IDs        int    // in use by the Keyed
}

// A worker is the state of a worker in its own process.
type worker struct {
	*job
	store   *rpc.Client
	ops     atomic.Int64   // how many ops began
	closing sync.WaitGroup // goroutines that close clients of single ops

	mu  sync.Mutex // guards the following
	out *json.Encoder
}

// work does the job in text, and returns when in ends.
func work(text string, in io.Reader, out io.Writer) error {
	logging.Disable()           // go-redis would log that connections break
	signal.Ignore(os.Interrupt) // a terminal interrupts the parent too, which ends this process
	w := &worker{job: new(job), out: json.NewEncoder(out)}
	if err := json.Unmarshal([]byte(text), w.job); err != nil {
		return fmt.Errorf("the job cannot be read: %w", err)
	}
	var err error
	if w.store, err = rpc.Dial("unix", w.Store); err != nil {
		return fmt.Errorf("no store: %w", err)
	}
	defer w.store.Close()
	ctx, ended := watchInput(in)
	s := w.newLockSet()
	s.wait(ctx)
	before := append(clientsOwn, goleak.IgnoreCurrent())
	var group sync.WaitGroup
	for g := range goroutines {
		group.Go(func() { w.run(ctx, g, s) })
	}
	group.Wait()
	w.closing.Wait()
	w.send(message{Left: &leftovers{leaked(before), s.keyed.Len()}})
	<-ended
	return s.close()
}

// watchInput returns a context that ends with the first line of in, and a
// channel that is closed at the end of in.
func watchInput(in io.Reader) (context.Context, <-chan struct{}) {
	lines := bufio.NewScanner(in)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends with the input
		lines.Scan()
		stop()
		for lines.Scan() {
		}
		close(ended)
	}()
	return ctx, ended
}

// clientsOwn are goroutines of a client of a Cluster or behind Sentinel. The
// client starts them when it learns of other servers, and keeps them until its
// end.
var clientsOwn = []goleak.Option{
	goleak.IgnoreTopFunction(
		"github.com/redis/go-redis/v9/maintnotifications.(*CircuitBreakerManager).cleanupLoop"),
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*sentinelFailover).listen"),
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*channel).initHealthCheck.func1"),
	goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9.(*channel).initMsgChan.func1"),
}

// leaked waits until all goroutines except others have ended. It returns the
// stacks of those that have not ended after 10 s. The library keeps the
// connection for messages for 1 s.
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

// send writes a message at once, so that it outlives the process.
func (w *worker) send(m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.out.Encode(m); err != nil {
		os.Exit(3) // the parent process is gone
	}
}

// client returns a client. Each slot has its own settings, as services may have.
func (w *worker) client(addrs []string, hook redis.Hook) redis.UniversalClient {
	o := redis.UniversalOptions{Addrs: addrs, Dialer: w.dial}
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

// dial connects to the proxy of an address.
func (w *worker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if proxy, ok := w.Proxies[addr]; ok {
		addr = proxy
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// run carries out one op after another until ctx ends.
func (w *worker) run(ctx context.Context, g int, s *lockSet) {
	rng := rand.New(rand.NewPCG(w.Seed, uint64(w.Process*goroutines+g)))
	const usual = 20 * time.Millisecond
	pause := cmp.Or(w.Load.Pause, usual)
	for ctx.Err() == nil {
		w.runOp(&judge.Op{
			Process: w.Process, Slot: w.Slot, Number: int(w.ops.Add(1)), Goroutine: g,
			Key: w.chooseKey(rng),
		}, rng, s)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rng.Int64N(int64(pause)))):
		}
	}
}

// chooseKey returns the key of an op.
func (w *worker) chooseKey(rng *rand.Rand) int {
	const own = 0.95
	if key := rng.IntN(len(w.Keys)); !w.Load.Retains || rng.Float64() >= own {
		return key
	}
	return w.Slot % len(w.Keys)
}

// runOp carries out an op.
func (w *worker) runOp(o *judge.Op, rng *rand.Rand, s *lockSet) {
	c := w.Load.choose(rng)
	if w.Load.Single {
		s = w.newLockSet()
		defer w.closing.Go(func() { // later, as the library may still release in the background
			time.Sleep(2 * w.TTL)
			_ = s.close()
		})
	}
	a := s.newAttempt(o, rng.Float64() < w.Load.Reads, w)
	defer func() {
		if r := recover(); r != nil { // for example of an unlock that should not fail
			o.Problem = fmt.Sprint("panic: ", r)
			w.send(message{Op: o})
			panic(r)
		}
	}()
	o.Called = now()
	w.send(message{Op: o})
	granted, err := a.lock(c)
	o.Try = c.try
	if !granted {
		o.Refused, o.GaveUp = now(), err != nil
		durable := w.Load.Replicas > 0 && errors.Is(err, warlock.ErrNotDurable)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !c.try && !durable {
			o.Problem = fmt.Sprintf("LockContext: %v", err)
		}
		w.send(message{Op: o})
		return
	}
	o.Granted = now()
	a.noteGrant()
	w.send(message{Op: o})
	a.hold(c)
	a.unlock(c)
	w.send(message{Op: o})
}

// choices are what chance decides for one op.
type choices struct {
	try       bool
	timeout   time.Duration // of LockContext; 0: none
	hold      time.Duration
	cancelled bool // the context of the unlock has ended
}

func (l *load) choose(rng *rand.Rand) choices {
	var c choices
	switch x := rng.Float64(); {
	case x < 0.1:
		c.try = true
	case x < 0.35:
		c.timeout = time.Duration(rng.Int64N(int64(300 * time.Millisecond)))
	}
	u := rng.Float64()
	if !l.Even { // half are below 1/8, and a third is short enough for a local hand-off
		u = u * u * u
	}
	c.hold = time.Duration(u * float64(l.Hold))
	c.cancelled = rng.Float64() < 0.05
	return c
}
