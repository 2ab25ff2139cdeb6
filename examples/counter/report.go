package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// A progress is a line that says how far the workers are. On a terminal the
// line is replaced 20 times a second. Elsewhere a new line is written each
// second.
type progress struct {
	out    io.Writer
	total  int
	done   []int
	shown  time.Time
	every  time.Duration
	before string // written before each line
	after  string // written behind each line
}

func newProgress(out io.Writer, total, procs int) *progress {
	p := &progress{out: out, total: total, done: make([]int, procs), every: time.Second, after: "\n"}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			p.every, p.before, p.after = 50*time.Millisecond, "\r", ""
		}
	}
	return p
}

func (p *progress) show(worker, done int) {
	p.done[worker] = done
	if time.Since(p.shown) < p.every {
		return
	}
	p.shown = time.Now()
	p.write()
}

func (p *progress) write() {
	sum := 0
	for _, n := range p.done {
		sum += n
	}
	percent := 100 * sum / p.total
	fmt.Fprintf(p.out, "%scounting: %d of %d (%d %%)%s", p.before, sum, p.total, percent, p.after)
}

// end writes the last line.
func (p *progress) end() {
	p.write()
	if p.after == "" {
		fmt.Fprintln(p.out)
	}
}

// A result is what the workers counted and measured.
type result struct {
	expected, counted int
	took              time.Duration
	waits             []time.Duration // empty without the lock
	fence             int64
}

func (r *result) write(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(table, "%s\t%v\n", name, value) }
	row("expected", r.expected)
	row("counted", r.counted)
	row("lost updates", r.expected-r.counted)
	if len(r.waits) > 0 {
		slices.Sort(r.waits)
		row("acquisitions/s", fmt.Sprintf("%.0f", float64(len(r.waits))/r.took.Seconds()))
		row("wait p50", r.percentile(50))
		row("wait p99", r.percentile(99))
		row("highest fencing token", r.fence)
	} else {
		row("updates/s", fmt.Sprintf("%.0f", float64(r.expected)/r.took.Seconds()))
	}
	_ = table.Flush() // an error is ignored, as fmt.Println's are
}

// percentile returns the wait that p % of the waits do not exceed. The waits
// are sorted.
func (r *result) percentile(p int) time.Duration {
	return r.waits[(len(r.waits)*p+99)/100-1].Round(time.Microsecond)
}
