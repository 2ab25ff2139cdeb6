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

	"github.com/warlock-go/warlock/chaos/judge"
)

const (
	workerCount = 6
	ttl         = time.Second
)

// lockKeys are in four slots of a cluster. Three slots are far apart, and the
// fourth is near one of them.
var lockKeys = []string{prefix + "a", prefix + "b", prefix + "c", prefix + "d"}

// A plan says how to run a scenario.
type plan struct {
	seed     uint64
	duration time.Duration // of load and faults
	program  string        // what the workers run
	keep     string        // folder for the histories that show violations; empty: none is kept
	progress func(what string, grants int)
}

var errInterrupted = errors.New("interrupted")

// A scenarioRun is a scenario under way.
type scenarioRun struct {
	*testbed
	*scenario
	*plan
	ctx        context.Context // ends when the run is interrupted
	rng        *rand.Rand
	keys       []string
	backend    *backend
	network    *network
	workers    *workers
	recorder   *judge.Recorder
	store      *Store
	fault      string // the name of the fault under way
	faultsMade int

	successions []succession
	unwatch     func() // ends the watch of the machine's clock
}

// run runs a scenario, and judges it. An error says that the run failed, not
// the lock.
func (sc *scenario) run(ctx context.Context, p *plan) (v *verdict, err error) {
	t, err := newTestbed()
	if err != nil {
		return nil, err
	}
	defer t.stop()
	r := newScenarioRun(ctx, t, sc, p)
	failed := catch(func() {
		r.setUp()
		r.makeFaults()
		if ctx.Err() == nil { // a terminal's interrupt ends the servers, too
			v = r.finish()
		}
	})
	switch {
	case ctx.Err() != nil:
		return nil, errInterrupted
	case failed != nil:
		return nil, fmt.Errorf("scenario %s: %w", sc.name, failed)
	}
	return v, r.preserve(v)
}

func newScenarioRun(ctx context.Context, t *testbed, sc *scenario, p *plan) *scenarioRun {
	name := fnv.New64()
	_, _ = name.Write([]byte(sc.name)) // never fails
	return &scenarioRun{
		testbed: t, scenario: sc, plan: p, ctx: ctx, keys: lockKeys,
		rng:   rand.New(rand.NewPCG(p.seed, name.Sum64())),
		store: newStore(len(lockKeys)),
		recorder: judge.NewRecorder(&judge.History{
			TTL: ttl, Keys: lockKeys, Goroutines: goroutines, LineDelay: sc.lineDelay,
			PublishCounts: sc.backend != sentinel && sc.backend != cluster,
			Servers:       quorumSize(sc.backend), Began: now(),
		}),
	}
}

// setUp starts servers, proxies and workers.
func (r *scenarioRun) setUp() {
	r.progress("starting", 0)
	r.unwatch = watchClock(r.recorder)
	r.Cleanup(r.unwatch)
	r.backend = newBackend(r.testbed, r.scenario.backend)
	if quorumSize(r.backend.kind) > 0 {
		r.recorder.Fault(&judge.Fault{
			Name: "new servers", Start: now(), End: now().Add(firstQuarantine), Key: judge.AllKeys,
			Effects: judge.DelaysMessages,
		})
	}
	r.network = newNetwork(r.testbed, workerCount, r.backend.dialable())
	for slot := range workerCount {
		if r.lineDelay > 0 {
			r.network.slow(ofSlots([]int{slot}), requests, r.lineDelay, 0)
			r.network.slow(ofSlots([]int{slot}), replies, r.lineDelay, 0)
		}
	}
	socket := filepath.Join(r.TempDir(), "store")
	stop, err := r.store.serve(socket)
	r.must(err)
	r.Cleanup(stop)
	r.workers = &workers{
		testbed: r.testbed, program: r.program, recorder: r.recorder,
		running: make([]*workerProcess, workerCount),
	}
	r.workers.newJob = func(process, slot int) *job {
		return &job{
			Process: process, Slot: slot, Seed: r.seed, Backend: r.backend.kind,
			Addrs: r.backend.addrs(), Proxies: r.network.proxiesOf(slot), Store: socket,
			TTL: ttl, Keys: r.keys, Load: r.scenario.load,
		}
	}
	r.Cleanup(r.workers.killAll)
	for slot := range workerCount {
		r.workers.start(slot)
	}
}

// makeFaults lets the load run for the planned time. It makes a fault every one
// to three seconds.
func (r *scenarioRun) makeFaults() {
	end := now().Add(r.duration)
	for {
		pause := r.randomTime(time.Second, 3*time.Second)
		if len(r.scenario.faults) == 0 || now().Add(pause) > end {
			break
		}
		r.waitUntil(now().Add(pause))
		f := r.scenario.faults[r.rng.IntN(len(r.scenario.faults))]
		r.fault = f.name
		r.progress(f.name, r.recorder.Grants())
		f.make(r)
		r.faultsMade++
		if r.ctx.Err() != nil {
			return
		}
	}
	r.waitUntil(end)
}

// finish ends the load, looks at what is left, and judges.
func (r *scenarioRun) finish() *verdict {
	r.progress("coming to an end", r.recorder.Grants())
	if r.backend.kind == clocked {
		r.fault = "clock set right"
		r.setClock(0)
	}
	if r.killAtEnd {
		r.workers.killAll()
	} else {
		r.workers.finish(30 * time.Second)
	}
	left := r.subscriptionsLeft()
	r.workers.wait()
	left = append(left, r.keysLeft()...)
	r.unwatch()
	r.progress("judging", r.recorder.Grants())
	return r.judge(left)
}

// wait waits for d, or until the run is interrupted.
func (r *scenarioRun) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.ctx.Done():
	}
}

// waitUntil waits, and shows the progress.
func (r *scenarioRun) waitUntil(end judge.Instant) {
	const step = 100 * time.Millisecond
	for left := end.Since(now()); left > 0 && r.ctx.Err() == nil; left = end.Since(now()) {
		r.wait(min(left, step))
		r.progress("", r.recorder.Grants())
	}
}

// randomTime returns a random time from least to most.
func (r *scenarioRun) randomTime(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rng.Int64N(int64(most-least)))
}

// randomSlots returns from least to most random slots.
func (r *scenarioRun) randomSlots(least, most int) []int {
	return r.rng.Perm(workerCount)[:least+r.rng.IntN(most-least+1)]
}

// subscriptionsLeft finds subscriptions that exist although no worker waits.
func (r *scenarioRun) subscriptionsLeft() []judge.Violation {
	f := &judge.Findings{Judge: "left behind"}
	for _, server := range r.backend.servers {
		var list string
		poll(5*time.Second, func() bool {
			all, err := server.Admin.Do(context.Background(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
			r.must(err)
			list = ""
			for l := range strings.Lines(all) {
				if !strings.Contains(l, " name=sentinel-") {
					list += l
				}
			}
			return list == ""
		})
		if list != "" {
			f.Add(judge.AllKeys, "subscriptions when no worker waits:\n%s", list)
		}
	}
	return f.Violations
}

// keysLeft finds keys that do not expire in time. After the load, only the
// fence of a lock and the dead waiters of its queue may remain for a while.
func (r *scenarioRun) keysLeft() []judge.Violation {
	f := &judge.Findings{Judge: "left behind"}
	// A fence lives for two minutes longer than a lease. It lives even longer
	// if its tokens are ahead of a clock that was set back.
	const most = ttl + 4*time.Minute
	for _, server := range r.backend.masters() {
		var left []string
		poll(2*ttl+3*time.Second, func() bool {
			left = nil
			for _, key := range server.Keys() {
				switch d := server.TTL(key); {
				case d == gone || key == memoryKey && d > 0:
				case d == noExpiry || d > most:
					f.Add(judge.AllKeys, "key %q lives for %v", key, d)
				case !strings.HasSuffix(key, ":fence"):
					left = append(left, key)
				}
			}
			return len(left) == 0 || len(f.Violations) > 0
		})
		if len(left) > 0 {
			f.Add(judge.AllKeys, "keys when all is quiet: %q", left)
		}
	}
	return f.Violations
}

// memoryKey is in which a server of a quorum says since when it has forgotten nothing. It
// stays after the load.
const memoryKey = "warlock:quorum:memory"

// Answers of PTTL that are no time, as go-redis returns them.
const (
	gone     = time.Duration(-2)
	noExpiry = time.Duration(-1)
)

// poll waits until cond holds, but no longer than most.
func poll(most time.Duration, cond func() bool) {
	for limit := now().Add(most); !cond() && now() < limit; {
		time.Sleep(20 * time.Millisecond)
	}
}
