// Command chaos tries to break the promises of warlock, with real servers, real
// processes and real faults. See the README.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/chaos/sim"
)

func main() {
	sim.IfWorker()
	if text := os.Getenv(jobVar); text != "" {
		exit(work(text, os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// exit ends the process, with status 1 if there is an error.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run runs the scenarios or the mutants that the arguments name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	switch {
	case o.simulate && o.mutants:
		return runSimulatedMutants(ctx, o, stdout, stderr)
	case o.simulate:
		return runSimulation(ctx, o, self, stdout, stderr)
	}
	p := &plan{seed: o.seed, duration: o.duration, program: self, keep: o.keep}
	if o.mutants {
		return runMutants(ctx, o.only, p, stdout, stderr)
	}
	chosen, err := choose(o.scenarios)
	if err != nil {
		return err
	}
	return runAll(ctx, chosen, p, stdout, stderr)
}

// options are the arguments of the command.
type options struct {
	scenarios string
	duration  time.Duration
	seed      uint64
	keep      string
	mutants   bool
	simulate  bool
	quorums   bool
	only      string
}

// parse returns the options in args. Its error says how to correct them.
func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.scenarios, "scenario", "all",
		"`names` of scenarios, separated by semicolons; or all")
	flags.DurationVar(&o.duration, "for", 20*time.Second,
		"how long each scenario has load and faults")
	flags.Uint64Var(&o.seed, "seed", rand.Uint64N(1<<32),
		"of the random numbers, which choose the faults and their times")
	flags.StringVar(&o.keep, "keep", "violations",
		"`folder` for the histories that show violations")
	flags.BoolVar(&o.mutants, "mutants", false,
		"break the library one line at a time, and show which judge notices")
	flags.BoolVar(&o.simulate, "sim", false,
		"simulate processes, servers and faults, from -seed on; -for counts for all")
	flags.BoolVar(&o.quorums, "quorum", false,
		"with -sim: only runs whose servers are a quorum")
	flags.StringVar(&o.only, "only", "",
		"with -mutants: `part` of the names of the mutants to try")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q: all settings are flags, see -help", flags.Arg(0))
	case o.duration < time.Second:
		err = fmt.Errorf("-for is %v: at least a second is needed", o.duration)
	case o.mutants && o.scenarios != "all":
		err = errors.New("-scenario and -mutants do not go together: each mutant has its scenario")
	case !o.mutants && o.only != "":
		err = errors.New("-only is for -mutants: name scenarios with -scenario")
	case o.simulate && o.scenarios != "all":
		err = errors.New("-scenario and -sim do not go together: a simulation has no scenarios")
	case o.quorums && !o.simulate:
		err = errors.New("-quorum is for -sim: no scenario has a quorum")
	}
	return o, err
}

// choose returns the scenarios that names names.
func choose(names string) (chosen []*scenario, err error) {
	var known []string
	for i := range scenarios {
		known = append(known, scenarios[i].name)
		if names == "all" {
			chosen = append(chosen, &scenarios[i])
		}
	}
	if names == "all" {
		return chosen, nil
	}
next:
	for name := range strings.SplitSeq(names, ";") {
		for i := range scenarios {
			if scenarios[i].name == strings.TrimSpace(name) {
				chosen = append(chosen, &scenarios[i])
				continue next
			}
		}
		return nil, fmt.Errorf("there is no scenario %q: there are %s", name, strings.Join(known, "; "))
	}
	return chosen, nil
}

// seedLine begins the output of each command.
const seedLine = "seed %d, %v of load each\n"

// runAll runs the scenarios one after another, and prints their verdicts.
func runAll(ctx context.Context, chosen []*scenario, p *plan, stdout, stderr io.Writer) error {
	fmt.Fprintf(stdout, seedLine, p.seed, p.duration)
	var verdicts []*verdict
	for _, sc := range chosen {
		bar := newBar(sc.name, p.duration, stderr)
		p.progress = bar.show
		v, err := sc.run(ctx, p)
		bar.end()
		if err != nil {
			return fmt.Errorf("seed %d: %w", p.seed, err)
		}
		verdicts = append(verdicts, v)
		v.report(stderr)
	}
	printTable(stdout, verdicts)
	for _, v := range verdicts {
		if !v.passed() {
			return fmt.Errorf("not all passed with seed %d: see above, and the folder %s", p.seed, p.keep)
		}
	}
	return nil
}

// A bar shows the progress of a scenario on a terminal.
type bar struct {
	*progressbar.ProgressBar
	name  string
	began judge.Instant
}

// newBar returns a bar. It shows nothing if w is no terminal.
func newBar(name string, load time.Duration, w io.Writer) *bar {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		w = io.Discard
	}
	return &bar{name: name, began: now(), ProgressBar: progressbar.NewOptions64(
		load.Milliseconds(), progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(20),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(false),
		progressbar.OptionThrottle(100*time.Millisecond))}
}

func (b *bar) show(what string, grants int) {
	b.Describe(fmt.Sprintf("%-14s %5d grants  %-20s", b.name, grants, what))
	done := min(now().Since(b.began).Milliseconds(), b.GetMax64()-1)
	_ = b.Set64(done) // fails only if the terminal does
}

func (b *bar) end() { _ = b.Finish() }

// state returns the verdict in one word, and details after a colon.
func (v *verdict) state() string {
	switch {
	case len(v.Violations) > 0:
		return fmt.Sprintf("FAILED: %d violations", len(v.Violations))
	case v.Invalid != "":
		return "INVALID: " + v.Invalid
	}
	return "passed"
}

// report prints what the judges found.
func (v *verdict) report(w io.Writer) {
	fmt.Fprintf(w, "%-14s %5d grants, %2d faults, %3.0f s: %s\n",
		v.Scenario, v.Grants, v.Faults, v.Took.Seconds(), v.state())
	const most = 3 // violations of each judge
	printed := make(map[string]int)
	for _, x := range v.Violations {
		if printed[x.Judge]++; printed[x.Judge] <= most {
			where := ""
			if x.Key != judge.AllKeys {
				where = " key " + lockKeys[x.Key] + ":"
			}
			what, more, _ := strings.Cut(x.What, "\n")
			if more != "" {
				what += " ..."
			}
			fmt.Fprintf(w, "  %s:%s %s\n", x.Judge, where, what)
		}
	}
}

// printTable prints a line for each verdict.
func printTable(w io.Writer, verdicts []*verdict) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, strings.Join([]string{
		"scenario", "grants", "faults", "leases lost", "by failovers", "overlaps allowed", "updates lost, fenced",
		"plain", "pairs in order", "crash to grant, ms", "most", "hand-off, ms", "99 %", "verdict", "",
	}, "\t"))
	for _, v := range verdicts {
		state, _, _ := strings.Cut(v.state(), ":")
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t\n",
			v.Scenario, v.Grants, v.Faults, v.Lost, v.notKept(), v.Excused, v.LostFenced, v.LostPlain, v.Pairs,
			ms(v.CrashTimes, v.CrashTimes.P50), ms(v.CrashTimes, v.CrashTimes.Max),
			ms(v.HandOffTimes, v.HandOffTimes.P50), ms(v.HandOffTimes, v.HandOffTimes.P99), state)
	}
	_ = t.Flush() // fails only if w does
}

// ms returns d in milliseconds, or "-" if t has no samples.
func ms(t times, d time.Duration) string {
	if t.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}
