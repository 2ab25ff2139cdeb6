package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"golang.org/x/sys/unix"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A worker is a process that runs one seed after another, in one bubble: see
// Run. Its environment has its job. It writes a result to its standard output
// for each seed, as a line of JSON.

// jobVar is the environment variable that makes a process a worker.
const jobVar = "WARLOCK_SIM_JOB"

// A job is what a worker is to do.
type job struct {
	From, Step uint64 // the seeds are From, From+Step ...
	Most       int    // it stops after so many seeds; 0: when its input ends
	Again      uint64 // each seed that this divides is run twice; 0: none is
	Shrinks    int    // how many plans that fail it makes smaller
	Record     bool   // it records each run, and leaves out seeds that cannot be replayed
	Quorums    bool   // it leaves out seeds whose plans have no quorum
}

// A Result is what came of a seed.
type Result struct {
	Seed       uint64
	Ops        int
	Grants     int
	Faults     map[string]int
	Mishaps    map[string]int
	Together   int
	Idle       time.Duration // the longest time that a lock was idle while an op waited
	Again      bool          // it was run twice
	Differs    bool          // the second run was another
	Violations []judge.Violation
	Smallest   *Plan    // that fails in the same way; nil: none was looked for
	Story      []string // of Smallest
	Took       time.Duration
	Recordings []*Recording // by server; nil: none were asked for
}

// IfWorker does the job of a worker and ends the process, if the environment
// has one. A program that starts workers calls it first.
func IfWorker() {
	text := os.Getenv(jobVar)
	if text == "" {
		return
	}
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		fmt.Fprintln(os.Stderr, "sim: the job cannot be read:", err)
		os.Exit(2)
	}
	prepare()
	signal.Ignore(os.Interrupt) // a terminal interrupts the parent too, which ends this process
	// Only a test can have a bubble.
	os.Args = os.Args[:1]
	all := func(_, _ string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "worker", F: func(t *testing.T) {
		stopped := make(chan struct{}) // of no bubble
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // the end of the input is all that matters
			close(stopped)
		}()
		out := json.NewEncoder(os.Stdout)
		synctest.Test(t, func(*testing.T) { j.work(out, stopped) })
	}}}, nil, nil)
}

// prepare prepares the process for runs. With one processor the order in which
// goroutines run depends on the scheduler of the run alone.
func prepare() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(400)
	logging.Disable() // go-redis would log that connections break
}

// work runs the seeds, and writes their results.
func (j *job) work(out *json.Encoder, stopped <-chan struct{}) {
	for n, seed := 0, j.From; j.Most == 0 || n < j.Most; seed += j.Step {
		plan := NewPlan(seed)
		if j.Record && !plan.replayable() || j.Quorums && !plan.Quorum {
			continue
		}
		n++
		if err := out.Encode(j.runSeed(seed)); err != nil {
			return // nobody reads
		}
		if isClosed(stopped) {
			return
		}
	}
}

// isClosed reports whether a channel of no bubble is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (j *job) runSeed(seed uint64) *Result {
	began := realTime()
	o, recordings := j.run(NewPlan(seed))
	r := o.result()
	r.Recordings = recordings
	if j.Again > 0 && seed%j.Again == 0 {
		r.Again, r.Differs = true, Run(NewPlan(seed), false).Digest != o.Digest
	}
	if slices.ContainsFunc(r.Violations, decided) && j.Shrinks > 0 {
		j.Shrinks--
		r.Smallest, r.Story = Shrink(o)
	}
	r.Took = realTime() - began
	return r
}

// run runs a plan as the job is to.
func (j *job) run(plan *Plan) (*Outcome, []*Recording) {
	if j.Record {
		return RunRecorded(plan)
	}
	return Run(plan, false), nil
}

// result returns what a parent process needs of an outcome.
func (o *Outcome) result() *Result {
	return &Result{
		Seed: o.Plan.Seed, Ops: o.Ops, Grants: o.Report.Grants, Faults: o.Faults, Mishaps: o.Mishaps,
		Together: o.Together, Idle: o.Report.LongestIdle, Violations: o.Report.Violations,
	}
}

// realTime returns the time of a clock that is not the bubble's.
func realTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // Linux has had this clock since 2.6
	}
	return time.Duration(ts.Nano())
}

// readResults calls take with each result that a worker writes, until its output
// ends.
func readResults(out io.Reader, take func(*Result)) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		r := new(Result)
		if json.Unmarshal(line, r) == nil { // the others are of package testing
			take(r)
		}
		if err != nil {
			return
		}
	}
}
