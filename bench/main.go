// Command bench measures warlock beside its peers: the same server, the same
// ttl, in turns within one run. See the README.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A bench is one run.
type bench struct {
	server       *server
	ttl          time.Duration
	rounds       int
	window       time.Duration
	park         time.Duration // of warlock
	parkPeers    time.Duration
	settleParked time.Duration
	hold         time.Duration // of many locks
	heldLocks    int
	usedIDs      int
	few          int64 // hand-offs that are waited for, however slow
	killsOurs    int
	killsPeers   int
	systems      []system
	cases        []string // of which to run; empty: all
}

func main() {
	if name := os.Getenv(holdVar); name != "" {
		exit(hold(name))
	}
	b := &bench{ttl: 10 * time.Second, systems: systems, settleParked: 2 * time.Second, few: 30, heldLocks: 100_000, usedIDs: 1_000_000}
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, of which the median counts")
	flag.DurationVar(&b.window, "window", 2*time.Second, "time of one measurement")
	flag.DurationVar(&b.park, "park", time.Minute, "time for which waiters of warlock are parked; a sixth of it for peers")
	flag.DurationVar(&b.hold, "hold", time.Minute, "time for which many locks are held")
	flag.IntVar(&b.killsOurs, "kills", 50, "holders of warlock to kill; a fifth of them of each peer")
	only := flag.String("cases", "", "names of cases, with commas between; all if empty")
	short := flag.Bool("short", false, "run everything in less than a minute, for a look")
	out := flag.String("out", "", "folder for results; nothing is written if it is empty and -short or -cases is given")
	flag.Parse()
	if flag.NArg() > 0 || b.rounds < 1 || b.window <= 0 || b.killsOurs < 1 {
		exit(fmt.Errorf("bad arguments %q: see -help", flag.Args()))
	}
	if *only != "" {
		b.cases = strings.Split(*only, ",")
	}
	if *short {
		b.rounds, b.window, b.park, b.killsOurs, b.settleParked, b.few = 1, 300*time.Millisecond, 3*time.Second, 5, time.Second, 5
		b.hold, b.heldLocks, b.usedIDs = 5*time.Second, 5_000, 20_000
	}
	b.parkPeers, b.killsPeers = b.park/6, max(1, b.killsOurs/5)
	if *out == "" && !*short && *only == "" {
		*out = "results"
	}
	exit(b.main(*out))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// main runs all, reports, and errs if exclusion failed anywhere.
func (b *bench) main(out string) error {
	report, err := b.measure()
	if err != nil {
		return err
	}
	report.print(os.Stdout)
	if out != "" {
		if err := report.write(out); err != nil {
			return err
		}
	}
	if n := report.broken(); n > 0 {
		return fmt.Errorf("%d critical sections overlapped or lost an update", n)
	}
	return nil
}

// measure starts a server, runs the cases, and stops it, also on an interrupt.
func (b *bench) measure() (*report, error) {
	var err error
	if b.server, err = startServer(); err != nil {
		return nil, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() { // ends with the process
		<-interrupted
		exit(errors.Join(errors.New("interrupted"), b.server.stop()))
	}()
	r := newReport(b)
	steps := b.plan()
	bar := progressbar.NewOptions(len(steps), progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetWidth(20), progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
	for _, s := range steps {
		bar.Describe(fmt.Sprintf("%-14s %-18s", s.name, s.sys.name))
		m, err := s.run(s.sys)
		if err == nil {
			r.add(s.name, s.sys.name, m)
			err = b.server.flush()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s, %s: %w", s.name, s.sys.name, err), b.server.stop())
		}
		_ = bar.Add(1) // a terminal that cannot be written to
	}
	return r, b.server.stop()
}

// A step is one measurement of one system.
type step struct {
	name string
	sys  system
	run  func(system) (measurement, error)
}

// plan returns the steps in an order in which the systems take turns, so that
// what the machine does meanwhile meets all alike.
func (b *bench) plan() (steps []step) {
	under := func(l load) func(system) (measurement, error) {
		return func(s system) (measurement, error) { return b.contend(s, l, b.window) }
	}
	turns := func(name string, rounds int, systems []system, run func(system) (measurement, error)) {
		if len(b.cases) > 0 && !slices.Contains(b.cases, name) {
			return
		}
		for range rounds {
			for _, s := range systems {
				steps = append(steps, step{name, s, run})
			}
		}
	}
	turns(uncontended, b.rounds, append([]system{raw, cancellable, keyed}, b.systems...), under(load{1, 1, 1}))
	turns(oneProcess, b.rounds, append([]system{reading}, b.systems...), under(load{1, 64, 1}))
	turns(manyKeys, b.rounds, append([]system{keyed}, b.systems...), under(load{1, crowd, crowd}))
	turns(among, b.rounds, []system{reading}, func(s system) (measurement, error) { return b.writerAmong(s, b.window) })
	for _, n := range crowds {
		turns(clients(n), b.rounds, b.systems, under(load{n, 1, 1}))
	}
	turns(handOver, b.rounds, b.systems, func(s system) (measurement, error) { return b.handOff(s, b.window) })
	turns(manyHeld, 1, []system{keyed}, func(s system) (measurement, error) { return b.held(s, b.heldLocks, b.hold) })
	turns(manyUsed, 1, []system{keyed}, func(s system) (measurement, error) { return b.used(s, b.usedIDs) })
	turns(park, 1, b.systems, func(s system) (measurement, error) {
		if s.name == ours {
			return b.parked(s, b.park)
		}
		return b.parked(s, b.parkPeers)
	})
	turns(killed, 1, b.systems, func(s system) (measurement, error) {
		if s.name == ours {
			return b.kills(s, b.killsOurs)
		}
		return b.kills(s, b.killsPeers)
	})
	return steps
}

// Names of the cases.
const (
	uncontended = "uncontended"
	oneProcess  = "one process"
	manyKeys    = "256 keys"
	manyHeld    = "many held"
	manyUsed    = "many used once"
	among       = "a writer among 8 readers"
	handOver    = "hand-off"
	park        = "parked"
	killed      = "killed"
)

// crowd is the number of goroutines, and of keys, of one client where each has its own.
const crowd = 256

// crowds are the numbers of clients that contend for one key.
var crowds = []int{2, 8, 32, 128}

func clients(n int) string { return fmt.Sprintf("%d clients", n) }
