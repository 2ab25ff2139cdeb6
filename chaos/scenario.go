package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"
)

const (
	workers = 6
	ttl     = time.Second
)

// lockKeys are in three of a cluster's slots that are far apart, and in one near to one of them.
var lockKeys = []string{prefix + "a", prefix + "b", prefix + "c", prefix + "d"}

// A scenario is a load, the servers it runs on, and the faults that are made meanwhile, each as likely
// as any other.
type scenario struct {
	name    string
	backend string
	load    load
	away    time.Duration // how long every line takes, each way
	faults  []fault
	outage  bool // it ends with the death of all workers at once
}

// The usual load, and one with holds that are long enough to be renewed.
var (
	usual = load{Reads: 0.5, Hold: 200 * time.Millisecond}
	long  = load{Reads: 0.5, Hold: time.Second}
)

var scenarios = []scenario{
	{name: "calm", backend: single, load: usual},
	{name: "crash", backend: single, load: usual, faults: []fault{killWorkers}, outage: true},
	{name: "stop", backend: single, load: usual, faults: []fault{stopWorkers}},
	{name: "readers", backend: single, load: load{Reads: 0.97, Hold: 3 * ttl / 2, Even: true}, faults: []fault{killWorkers, stopWorkers}},
	{name: "churn", backend: single, load: load{Hold: 200 * time.Millisecond, Fresh: true, Pause: 400 * time.Millisecond}, away: 10 * time.Millisecond},
	{name: "slow", backend: single, load: long, faults: []fault{latency, slowThenGone}},
	{name: "cut", backend: single, load: usual, faults: []fault{cutLines, halfOpen, dropReplies}},
	{name: "clients", backend: single, load: usual, faults: []fault{killPubSub, killNormal, pauseServer, flushScript}},
	{name: "restart, kept", backend: aof, load: usual, faults: []fault{restartKept}},
	{name: "restart, empty", backend: single, load: usual, faults: []fault{restartEmpty}},
	{name: "memory", backend: single, load: usual, faults: []fault{fillMemory}},
	{name: "deleted", backend: single, load: long, faults: []fault{deleteLock, deleteLock, deleteLock, deleteAll}},
	{name: "shares", backend: single, load: load{Reads: 0.8, Hold: 400 * time.Millisecond}, faults: []fault{endShares}},
	{name: "refused", backend: single, load: usual, faults: []fault{loneMaster, readOnly}},
	{name: "clock", backend: clocked, load: usual, faults: []fault{moveClock}},
	{name: "sentinel", backend: sentinel, load: usual, faults: []fault{masterKilled, masterHung, failover}},
	{name: "moved", backend: pair, load: usual, faults: []fault{addressMoved}},
	{name: "cluster", backend: cluster, load: usual, faults: []fault{masterKilled, slotMoved, slotMoved, failover}},
	{name: "storm", backend: single, load: usual, faults: []fault{
		killWorkers, stopWorkers, latency, cutLines, halfOpen, dropReplies, slowThenGone, killPubSub, killNormal,
		pauseServer, flushScript, fillMemory, deleteLock, deleteAll, endShares, loneMaster, readOnly, restartEmpty,
	}},
}

// A plan is how a scenario is run.
type plan struct {
	seed     uint64
	duration time.Duration // of load and faults
	program  string        // of the workers
	keep     string        // folder for the histories that show violations
	progress func(what string, grants int)
}

var errInterrupted = errors.New("interrupted")

// A stage is a scenario under way.
type stage struct {
	*ground
	*scenario
	*plan
	ctx      context.Context // ends when the run is interrupted
	rng      *rand.Rand
	keys     []string
	backend  *backend
	network  *network
	crew     *crew
	recorder *recorder
	store    *Store
	fault    string // that is being made
	made     int    // how many, so far
}

// run runs a scenario and judges it. An error says that it could not be.
func (sc *scenario) run(ctx context.Context, p *plan) (v *verdict, err error) {
	g, err := newGround()
	if err != nil {
		return nil, err
	}
	defer g.clean()
	name := fnv.New64()
	_, _ = name.Write([]byte(sc.name)) // never fails
	s := &stage{
		ground: g, scenario: sc, plan: p, ctx: ctx, keys: lockKeys,
		rng:   rand.New(rand.NewPCG(p.seed, name.Sum64())),
		store: newStore(len(lockKeys)), recorder: newRecorder(ttl, lockKeys),
	}
	broke := guarded(func() {
		s.setUp()
		s.trouble()
		if ctx.Err() == nil { // a terminal's interrupt ends the servers, too
			v = s.finish()
		}
	})
	switch {
	case ctx.Err() != nil:
		return nil, errInterrupted
	case broke != nil:
		return nil, fmt.Errorf("scenario %s: %w", sc.name, broke)
	}
	return v, s.preserve(v)
}

// setUp starts servers, proxies and workers.
func (s *stage) setUp() {
	s.progress("starting", 0)
	s.backend = newBackend(s.ground, s.scenario.backend)
	s.recorder.h.Counted = s.backend.kind != sentinel && s.backend.kind != cluster
	s.network = newNetwork(s.ground, workers, s.backend.all())
	for slot := range workers {
		if s.away > 0 {
			s.network.slow([]int{slot}, requests, s.away, 0)
			s.network.slow([]int{slot}, replies, s.away, 0)
		}
	}
	socket := filepath.Join(s.TempDir(), "store")
	stop, err := s.store.serve(socket)
	s.must(err)
	s.Cleanup(stop)
	s.crew = &crew{ground: s.ground, program: s.program, recorder: s.recorder, members: make([]*member, workers)}
	s.crew.newJob = func(process, slot int) *job {
		return &job{
			Process: process, Slot: slot, Seed: s.seed, Backend: s.backend.kind, Addrs: s.backend.addrs(),
			Through: s.network.through(slot), Store: socket, TTL: ttl, Keys: s.keys, Load: s.scenario.load,
		}
	}
	s.Cleanup(s.crew.stop)
	for slot := range workers {
		s.crew.start(slot)
	}
}

// trouble makes a fault every one to three seconds for as long as the load is to last.
func (s *stage) trouble() {
	end := now().add(s.duration)
	for {
		pause := s.between(time.Second, 3*time.Second)
		if len(s.scenario.faults) == 0 || now().add(pause) > end {
			break
		}
		s.watch(now().add(pause))
		f := s.scenario.faults[s.rng.IntN(len(s.scenario.faults))]
		s.fault = f.name
		s.progress(f.name, s.recorder.grants())
		f.make(s)
		s.made++
		if s.ctx.Err() != nil {
			return
		}
	}
	s.watch(end)
}

// watch waits, and shows how far the run is.
func (s *stage) watch(until instant) {
	const step = 100 * time.Millisecond
	for left := until.since(now()); left > 0 && s.ctx.Err() == nil; left = until.since(now()) {
		s.wait(min(left, step))
		s.progress("", s.recorder.grants())
	}
}

// finish lets the load end, looks at what is left, and judges.
func (s *stage) finish() *verdict {
	s.progress("coming to an end", s.recorder.grants())
	if s.backend.kind == clocked {
		s.fault = "clock set right"
		s.setClock(0)
	}
	if s.outage {
		s.crew.stop()
	} else {
		s.crew.finish(30 * time.Second)
	}
	left := s.connectionsLeft()
	s.crew.dismiss()
	left = append(left, s.keysLeft()...)
	s.progress("judging", s.recorder.grants())
	return s.judge(left)
}

// wait waits for d, or until the run is interrupted.
func (s *stage) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// between returns a time at random.
func (s *stage) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rng.Int64N(int64(most-least)))
}

// some returns a number of slots at random.
func (s *stage) some(least, most int) []int {
	return s.rng.Perm(workers)[:least+s.rng.IntN(most-least+1)]
}

// connectionsLeft finds subscriptions that are still there when nobody waits.
func (s *stage) connectionsLeft() []violation {
	f := &finding{judge: "left behind"}
	for _, server := range s.backend.servers {
		var list string
		within(5*time.Second, func() bool {
			all, err := server.Admin.Do(context.Background(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
			s.must(err)
			list = ""
			for l := range strings.Lines(all) {
				if !strings.Contains(l, " name=sentinel-") {
					list += l
				}
			}
			return list == ""
		})
		if list != "" {
			f.add(allKeys, "subscriptions when nobody waits:\n%s", list)
		}
	}
	return f.violations
}

// keysLeft finds keys that do not expire, or not in time. What is left of a lock that nobody wants are its
// tokens, and of a queue what its dead leave.
func (s *stage) keysLeft() []violation {
	f := &finding{judge: "left behind"}
	// A floor lives for two minutes more than a lease, and longer by as much as its tokens are ahead of a clock that
	// was set back.
	const most = ttl + 4*time.Minute
	for _, server := range s.backend.masters() {
		var left []string
		within(2*ttl+3*time.Second, func() bool {
			left = nil
			for _, key := range server.Keys() {
				switch d := server.TTL(key); {
				case d == gone:
				case d == noExpiry || d > most:
					f.add(allKeys, "key %q lives for %v", key, d)
				case !strings.HasSuffix(key, ":fence"):
					left = append(left, key)
				}
			}
			return len(left) == 0 || len(f.violations) > 0
		})
		if len(left) > 0 {
			f.add(allKeys, "keys when all is quiet: %q", left)
		}
	}
	return f.violations
}

// What PTTL says, as go-redis returns it.
const (
	gone     = time.Duration(-2)
	noExpiry = time.Duration(-1)
)

// within waits until cond holds, for a time.
func within(most time.Duration, cond func() bool) {
	for limit := now().add(most); !cond() && now() < limit; {
		time.Sleep(20 * time.Millisecond)
	}
}
