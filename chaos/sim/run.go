package sim

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/jitter"
)

// An Outcome is what came of a run.
type Outcome struct {
	Plan     *Plan
	Report   *judge.Report
	Ops      int
	Faults   map[string]int // that happened, by kind
	Mishaps  map[string]int // frames, by their fate
	Together int            // requests that were sent with others
	Digest   uint64         // of all frames and when they arrived
	Took     time.Duration  // of the bubble's time
	Story    []string       // nil: none was asked for
}

// Run runs a plan. It must be called in a bubble. Other runs in the bubble must
// have ended. story asks for the story of the run.
//
// go-redis keeps timers in a package variable. A timer belongs to the bubble
// that made it, and its use in another bubble is a fatal error. So all runs of a
// process are in one bubble, one after another.
func Run(plan *Plan, story bool) *Outcome {
	return run(plan, func(w *world) {
		if story {
			w.story = new([]string)
		}
	})
}

// run runs a plan in a world that is prepared by prepare before anything
// happens.
func run(plan *Plan, prepare func(*world)) *Outcome {
	uuid.SetRand(&seeded{newWorldChance(plan)})
	defer uuid.SetRand(nil)
	jitter.Seed(rand.New(rand.NewPCG(plan.Seed, 2)))
	defer jitter.Seed(nil)
	before := runtime.NumGoroutine()
	w := newWorld(plan)
	prepare(w)
	stop := make(chan struct{})
	go w.scheduler.run(stop)
	for slot := range plan.Processes {
		w.run(w.start(slot), plan.Ops)
	}
	w.planFaults()
	left := w.finishOrKill()
	left = append(left, w.leftInRedis()...)
	w.close()
	close(stop)
	left = append(left, leftGoroutines(before)...)
	return w.outcome(left)
}

func newWorld(plan *Plan) *world {
	w := &world{
		plan: plan, began: time.Now(), scheduler: newScheduler(), digest: fnv.New64a(),
		processes: make([]*process, plan.Processes), happened: make(map[string]int),
	}
	for i := range max(keysOfRun, plan.Keys) {
		w.keys = append(w.keys, fmt.Sprint(prefix, string(rune('a'+i))))
	}
	w.holders = make([]string, len(w.keys))
	w.recorder = judge.NewRecorder(&judge.History{
		TTL: plan.TTL, Keys: w.keys, Goroutines: plan.Goroutines, Began: w.now(), PublishCounts: true,
		Punctual: !plan.Durable, // a replica takes its time
		Servers:  plan.servers(),
	})
	for range plan.Sites {
		master := w.newServer(len(w.servers))
		w.servers = append(w.servers, master)
		w.masters = append(w.masters, master)
		if plan.Replicas {
			replica := w.newServer(len(w.servers))
			w.servers = append(w.servers, replica)
			replica.follow(master)
		}
	}
	return w
}

// finishOrKill waits for the end of the load. If the load does not end, it kills
// the processes, and says so.
func (w *world) finishOrKill() (stuck []string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.finish()
	}()
	ops := w.plan.Processes * w.plan.Goroutines * w.plan.Ops
	longest := time.NewTimer(3*w.plan.span() + 5*time.Minute + time.Duration(ops)*w.plan.MinHold)
	defer longest.Stop()
	select {
	case <-done:
		return nil
	case <-longest.C:
	}
	w.tell(nil, "", "the load does not end")
	for _, p := range w.all {
		p.kill()
	}
	<-done
	return []string{"the load does not end"}
}

// finish waits for the end of the load of all processes, also of processes that
// start meanwhile.
func (w *world) finish() {
	for i := 0; ; i++ {
		w.mu.Lock()
		w.closing = i == len(w.all)
		closing := w.closing
		var p *process
		if !closing {
			p = w.all[i]
		}
		w.mu.Unlock()
		if closing {
			return
		}
		p.load.Wait()
	}
}

// leftInRedis waits for longer than any key may live, and returns what is left
// of the locks.
func (w *world) leftInRedis() (left []string) {
	// A mailbox stays open for a second, and a broken link for longestStray and a
	// second.
	time.Sleep(longestStray + 3*time.Second)
	for _, s := range w.servers {
		if n := len(s.redis.Mini.PubSubChannels("")); n > 0 {
			left = append(left, fmt.Sprintf("%s has %d subscriptions", s.name, n))
		}
	}
	longest := 5*time.Minute + 10*w.plan.TTL
	for _, f := range w.plan.Faults {
		longest += 2 * max(f.By, -f.By) // a clock that is set back lets keys live longer
	}
	time.Sleep(longest)
	for _, p := range w.all {
		if p.dead.Load() {
			continue // it held locks when it died
		}
		for _, k := range p.keyed {
			if n := k.Len(); n > 0 {
				left = append(left, fmt.Sprintf("the Keyed of process %d has %d IDs in use", p.number, n))
			}
		}
	}
	for _, s := range w.servers {
		s.setTime()
		if keys := slices.DeleteFunc(s.redis.Mini.Keys(), s.isMemory); len(keys) > 0 {
			left = append(left, fmt.Sprintf("%s has the keys %q", s.name, keys))
		}
	}
	return left
}

// close closes the clients and servers.
func (w *world) close() {
	for _, p := range w.all {
		for _, c := range p.clients {
			_ = c.Close() // that of a dead process is closed already
		}
		p.end()
		p.cutLinks(nil)
	}
	for _, s := range w.servers {
		s.redis.Close()
	}
}

// leftGoroutines waits until as many goroutines run as did before. It returns
// the goroutines of the library that are left.
func leftGoroutines(before int) []string {
	for range 20 {
		time.Sleep(time.Second)
		synctest.Wait()
		if runtime.NumGoroutine() <= before {
			return nil
		}
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var left []string
	for s := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(s, []byte("warlock/internal")) {
			left = append(left, string(s))
		}
	}
	return []string{fmt.Sprintf("goroutines are left:\n%s", strings.Join(left, "\n\n"))}
}

// outcome judges the run.
func (w *world) outcome(left []string) *Outcome {
	h := w.recorder.History()
	h.Faults, h.Breaks = append(h.Faults, w.faults...), w.breaks
	o := &Outcome{
		Plan: w.plan, Report: judge.Judge(h), Ops: len(h.Ops), Mishaps: make(map[string]int),
		Together: w.together, Digest: w.digest.Sum64(), Took: time.Since(w.began), Faults: w.happened,
	}
	for f, n := range w.mishaps {
		if n > 0 {
			o.Mishaps[fate(f).String()] = n
		}
	}
	o.Report.Violations = slices.Concat(o.Report.Violations,
		violations("left behind", left), violations("queue", w.problems))
	if w.story != nil {
		o.Story = *w.story
	}
	return o
}

// violations returns what the world itself found.
func violations(name string, found []string) []judge.Violation {
	f := &judge.Findings{Judge: name}
	for _, what := range found {
		f.Add(judge.AllKeys, "%s", what)
	}
	return f.Violations
}
