package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A Search runs seeds in worker processes, as many at a time as there are
// processors.
type Search struct {
	Program  string        // the workers: a program that calls IfWorker
	From     uint64        // the first seed
	For      time.Duration // how long; 0: until Most
	Most     int           // how many seeds; 0: no limit
	Again    uint64        // each seed that this divides is run twice; 0: none is
	Failures int           // it ends after so many seeds that fail; 0: no limit
	Shrinks  int           // how many seeds that fail each worker makes smaller
	Quorums  bool          // only seeds whose plans have a quorum
	Progress func(*Totals) // is called after each seed; nil: nothing is
}

// Totals are what came of a search.
type Totals struct {
	Runs, Ops, Grants int
	Together          int      // requests that were sent with others
	Again             int      // how many seeds were run twice
	Differ            []uint64 // the seeds whose second run was another
	Faults, Mishaps   map[string]int
	Idle              time.Duration
	IdleSeed          uint64
	Failed            []*Result // seeds with violations
	Undecided         []uint64  // seeds of whose calls no judge knows an order
	Took              time.Duration
}

// Run runs the search, until it ends or ctx does.
func (s *Search) Run(ctx context.Context) (*Totals, error) {
	began := time.Now()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.For)
		defer cancel()
	}
	t := &Totals{Faults: make(map[string]int), Mishaps: make(map[string]int)}
	var mu sync.Mutex // guards t
	take := func(r *Result) {
		mu.Lock()
		defer mu.Unlock()
		t.add(r)
		t.Took = time.Since(began)
		if s.Progress != nil {
			s.Progress(t)
		}
		if s.Failures > 0 && len(t.Failed) >= s.Failures || s.Most > 0 && t.Runs >= s.Most {
			stop()
		}
	}
	workers := uint64(runtime.NumCPU())
	errs := make([]error, workers)
	var group sync.WaitGroup
	for i := range workers {
		j := job{
			From: s.From + i, Step: workers, Again: s.Again, Shrinks: s.Shrinks, Quorums: s.Quorums,
		}
		if s.Most > 0 {
			if j.Most = (s.Most + int(workers-1-i)) / int(workers); j.Most == 0 {
				continue
			}
		}
		group.Go(func() { errs[i] = s.runWorker(ctx, j, take) })
	}
	group.Wait()
	t.Took = time.Since(began)
	return t, errors.Join(errs...)
}

// runWorker runs a worker until its job or ctx ends.
func (s *Search) runWorker(ctx context.Context, j job, take func(*Result)) error {
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	cmd := exec.Command(s.Program)
	cmd.Env = append(os.Environ(), jobVar+"="+string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the worker ends with the thread that started it
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	// It ends after the seed that it is at.
	defer context.AfterFunc(ctx, func() { _ = in.Close() })()
	var progress atomic.Int64
	stopWatch := watch(&progress, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer stopWatch()
	readResults(out, func(r *Result) {
		progress.Add(1)
		take(r)
	})
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("a worker from seed %d in steps of %d: %w\n%s",
			j.From, j.Step, err, head(stderr.Bytes()))
	}
	return nil
}

// watch calls hangs if progress has stood still for three times longestShrink.
// It counts seconds in which this process runs: a machine that is suspended
// lets nothing hang. It goes on until the caller calls stop.
func watch(progress *atomic.Int64, hangs func()) (stop func()) {
	ended := make(chan struct{})
	go func() {
		second := time.NewTicker(time.Second)
		defer second.Stop()
		for last, still := int64(0), 0; ; {
			select {
			case <-second.C:
			case <-ended:
				return
			}
			now := progress.Load()
			if still++; now != last {
				last, still = now, 0
			}
			if still == 3*int(longestShrink/time.Second) {
				hangs()
			}
		}
	}()
	return func() { close(ended) }
}

// head returns the beginning of what a worker that failed wrote.
func head(text []byte) []byte {
	const most = 1 << 16
	return text[:min(len(text), most)]
}

// add adds a result.
func (t *Totals) add(r *Result) {
	t.Runs++
	t.Ops += r.Ops
	t.Grants += r.Grants
	t.Together += r.Together
	for k, n := range r.Faults {
		t.Faults[k] += n
	}
	for k, n := range r.Mishaps {
		t.Mishaps[k] += n
	}
	if r.Again {
		t.Again++
	}
	if r.Differs {
		t.Differ = append(t.Differ, r.Seed)
	}
	if r.Idle > t.Idle {
		t.Idle, t.IdleSeed = r.Idle, r.Seed
	}
	switch {
	case len(r.Violations) == 0:
	case slices.ContainsFunc(r.Violations, decided):
		t.Failed = append(t.Failed, r)
	default:
		t.Undecided = append(t.Undecided, r.Seed)
	}
}

func decided(v judge.Violation) bool { return v.Judge != judge.Undecided }

// Err returns why the search has failed, or nil: seeds show violations, or more
// than 1 + 1 % of the seeds are undecided.
func (t *Totals) Err() error {
	switch n := len(t.Undecided); {
	case len(t.Failed) > 0:
		return fmt.Errorf("%d seeds show violations: go test ./sim -run Sim -seed %d -v tells one again",
			len(t.Failed), t.Failed[0].Seed)
	case n > 1+t.Runs/100:
		return fmt.Errorf("%d of %d seeds are undecided: %v", n, t.Runs, t.Undecided)
	}
	return nil
}

// FaultCount returns how many faults there were, and how many frames met a
// mishap.
func (t *Totals) FaultCount() (faults, mishaps int) {
	for _, n := range t.Faults {
		faults += n
	}
	for _, n := range t.Mishaps {
		mishaps += n
	}
	return faults, mishaps
}

// Print prints the totals as a table, and the stories of what failed.
func (t *Totals) Print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	faults, mishaps := t.FaultCount()
	row := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("runs", "%d in %.1f s", t.Runs, t.Took.Seconds())
	row("operations", "%d, %.0f a second", t.Ops, float64(t.Ops)/max(t.Took.Seconds(), 1e-9))
	row("grants", "%d", t.Grants)
	row("requests sent together", "%d", t.Together)
	row("faults", "%d: %s", faults, counts(t.Faults))
	row("frames lost or strayed", "%d: %s", mishaps, counts(t.Mishaps))
	row("longest idle", "%v, in seed %d", t.Idle, t.IdleSeed)
	row("run twice", "%d, of which %d differed %v", t.Again, len(t.Differ), t.Differ)
	row("seeds with violations", "%d", len(t.Failed))
	row("seeds that are undecided", "%d %v", len(t.Undecided), t.Undecided)
	_ = table.Flush() // fails only if w does
	for _, r := range t.Failed {
		r.print(w)
	}
}

// counts returns counts as text, by name.
func counts(m map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
	}
	return strings.Join(parts, ", ")
}

// print prints the violations of a seed, and the story of the smallest plan that
// shows them.
func (r *Result) print(w io.Writer) {
	for _, v := range r.Violations {
		fmt.Fprintf(w, "seed %d: %s, key %d: %s\n", r.Seed, v.Judge, v.Key, v.What)
	}
	if r.Smallest == nil {
		return
	}
	fmt.Fprintf(w, "the smallest plan that fails so: %v\n", r.Smallest)
	for _, line := range r.Story {
		fmt.Fprintln(w, line)
	}
}
