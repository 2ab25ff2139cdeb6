// Command chaos tries to break the promises of warlock, with real servers, real processes and real
// faults. See the README.
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
)

func main() {
	if text := os.Getenv(jobVar); text != "" {
		exit(work(text, os.Stdin, os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run reads the arguments and does what they say.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	names := flags.String("scenario", "all", "`names` of scenarios with semicolons between, or all")
	duration := flags.Duration("for", 20*time.Second, "how long each has load and faults")
	seed := flags.Uint64("seed", rand.Uint64N(1<<32), "of chance: what faults there are, and when")
	keep := flags.String("keep", "violations", "`folder` for the histories that show violations")
	mutated := flags.Bool("mutants", false, "break the library a line at a time, and show that it is noticed")
	only := flags.String("only", "", "with -mutants: `part` of the names of those to try")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q: all settings are flags, see -help", flags.Arg(0))
	case *duration < time.Second:
		return fmt.Errorf("-for is %v: at least a second is needed", *duration)
	}
	switch {
	case *mutated && *names != "all":
		return errors.New("-scenario and -mutants do not go together: each mutant has its scenario")
	case !*mutated && *only != "":
		return errors.New("-only is for -mutants: name scenarios with -scenario")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := &plan{seed: *seed, duration: *duration, program: self, keep: *keep}
	if *mutated {
		return runMutants(ctx, *only, p, stdout, stderr)
	}
	chosen, err := choose(*names)
	if err != nil {
		return err
	}
	return runAll(ctx, chosen, p, stdout, stderr)
}

// choose returns the scenarios of those names.
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

// runAll runs the scenarios one after another, and prints what came of them.
func runAll(ctx context.Context, chosen []*scenario, p *plan, stdout, stderr io.Writer) error {
	fmt.Fprintf(stdout, "seed %d, %v of load each\n", p.seed, p.duration)
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

// A bar shows how far a scenario is, if there is a terminal to show it on.
type bar struct {
	*progressbar.ProgressBar
	name  string
	began instant
}

func newBar(name string, load time.Duration, w io.Writer) *bar {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		w = io.Discard
	}
	return &bar{name: name, began: now(), ProgressBar: progressbar.NewOptions64(load.Milliseconds(),
		progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(20), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(false), progressbar.OptionThrottle(100*time.Millisecond))}
}

func (b *bar) show(what string, grants int) {
	b.Describe(fmt.Sprintf("%-14s %5d grants  %-20s", b.name, grants, what))
	_ = b.Set64(min(now().since(b.began).Milliseconds(), b.GetMax64()-1)) // a terminal that cannot be written to
}

func (b *bar) end() { _ = b.Finish() }

// state is the verdict in a word, and more after a colon.
func (v *verdict) state() string {
	switch {
	case len(v.Violations) > 0:
		return fmt.Sprintf("FAILED: %d violations", len(v.Violations))
	case v.Invalid != "":
		return "INVALID: " + v.Invalid
	}
	return "passed"
}

// report says at once what was found.
func (v *verdict) report(w io.Writer) {
	fmt.Fprintf(w, "%-14s %5d grants, %2d faults, %3.0f s: %s\n", v.Scenario, v.Grants, v.Faults, v.Took.Seconds(), v.state())
	const most = 3 // of each judge
	said := make(map[string]int)
	for _, x := range v.Violations {
		if said[x.Judge]++; said[x.Judge] <= most {
			where := ""
			if x.Key != allKeys {
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
	fmt.Fprintln(t, "scenario\tgrants\tfaults\tleases lost\toverlaps allowed\tupdates lost, fenced\tplain\tpairs in order\tcrash to grant, ms\tmost\thand-off, ms\t99 %\tverdict\t")
	for _, v := range verdicts {
		state, _, _ := strings.Cut(v.state(), ":")
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t\n", v.Scenario, v.Grants, v.Faults, v.Lost, v.Excused,
			v.LostFenced, v.LostPlain, v.Pairs, ms(v.Crashes, v.Crashes.P50), ms(v.Crashes, v.Crashes.Max),
			ms(v.HandOffs, v.HandOffs.P50), ms(v.HandOffs, v.HandOffs.P99), state)
	}
	_ = t.Flush() // as with the standard output everywhere
}

func ms(t times, d time.Duration) string {
	if t.N == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}
