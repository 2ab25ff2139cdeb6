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

// A bench has the settings of one run, and its servers.
type bench struct {
	server   *server
	quorumOf map[int]voters // by their number; empty: no case to run needs them
	voters   voters         // the servers of the case that runs; nil: it runs on server

	ttl    time.Duration
	rounds int
	window time.Duration
	// warmUp is how long a load runs before its measurement starts. Meanwhile it
	// opens connections, loads scripts and subscribes.
	warmUp       time.Duration
	park         time.Duration // how long waiters of warlock are counted
	parkPeers    time.Duration // how long waiters of a peer are counted
	settleParked time.Duration // from the start of the waiters to the count
	hold         time.Duration // how long many locks are held
	heldLocks    int
	usedIDs      int
	idsAtOnce    int   // of one LockAll
	few          int64 // how many hand-offs to measure, however slow they are
	killsOurs    int
	killsPeers   int
	systems      []system
	cases        []string // names of the cases to run; empty: all
}

func main() {
	if name := os.Getenv(holdVar); name != "" {
		exit(hold(name))
	}
	b := newBench()
	flag.IntVar(&b.rounds, "rounds", 5, "number of rounds; the report shows medians")
	flag.DurationVar(&b.window, "window", 2*time.Second, "time of one measurement")
	flag.DurationVar(&b.park, "park", time.Minute,
		"how long waiters of warlock are parked; waiters of a peer are parked for a sixth of it")
	flag.DurationVar(&b.hold, "hold", time.Minute, "how long many locks are held")
	flag.IntVar(&b.killsOurs, "kills", 50,
		"how many holders of warlock to kill; a fifth as many are killed of each peer")
	only := flag.String("cases", "", "names of cases, separated by commas; empty: all")
	short := flag.Bool("short", false, "run everything in about 2 minutes, for a look")
	out := flag.String("out", "",
		`folder for the results; empty: "results", or none with -short or -cases. `+
			`With -cases, the results of other cases that are there stay`)
	draw := flag.String("draw", "",
		"draw the plots of the results in this folder anew, and measure nothing")
	flag.Parse()
	if *draw != "" {
		exit(drawAnew(*draw))
	}
	if flag.NArg() > 0 || b.rounds < 1 || b.window <= 0 || b.killsOurs < 1 {
		exit(fmt.Errorf("bad arguments %q: see -help", flag.Args()))
	}
	if *only != "" {
		b.cases = strings.Split(*only, ",")
	}
	if *short {
		b.shorten()
	}
	b.parkPeers, b.killsPeers = b.park/6, max(1, b.killsOurs/5)
	if *out == "" && !*short && *only == "" {
		*out = "results"
	}
	exit(b.main(*out))
}

// newBench returns the bench of a whole run, but for what the flags say.
func newBench() *bench {
	return &bench{
		ttl: 10 * time.Second, systems: systems,
		warmUp: 300 * time.Millisecond, settleParked: 2 * time.Second,
		few: 30, heldLocks: 100_000, usedIDs: 1_000_000, idsAtOnce: 1000,
	}
}

// shorten makes the run last about 2 minutes.
func (b *bench) shorten() {
	b.rounds, b.window, b.warmUp = 1, 200*time.Millisecond, 100*time.Millisecond
	b.park, b.settleParked = 3*time.Second, time.Second
	b.killsOurs, b.few = 5, 5
	b.hold, b.heldLocks, b.usedIDs = 5*time.Second, 5_000, 20_000
}

// exit ends the process, with status 1 if there is an error.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// main runs the cases and reports. It fails if exclusion failed anywhere.
func (b *bench) main(out string) error {
	report, err := b.measure()
	if err != nil {
		return err
	}
	report.print(os.Stdout)
	if out != "" && len(b.cases) > 0 {
		if err := report.keep(out, b.names()); err != nil {
			return err
		}
	}
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

// start starts the servers of the steps.
func (b *bench) start(steps []step) (err error) {
	if b.server, err = startServer(); err != nil {
		return err
	}
	if !slices.ContainsFunc(steps, func(s step) bool { return ofQuorum(s.name) }) {
		return nil
	}
	b.quorumOf = make(map[int]voters)
	for _, n := range quorumSizes {
		if b.quorumOf[n], err = startVoters(n); err != nil {
			return errors.Join(err, b.stop())
		}
	}
	return nil
}

// stop stops the servers.
func (b *bench) stop() error {
	err := b.server.stop()
	for _, v := range b.quorumOf {
		err = errors.Join(err, v.stop())
	}
	return err
}

// measure runs the cases on servers of its own. It stops the servers, also on
// an interrupt.
func (b *bench) measure() (*report, error) {
	steps := b.plan()
	if len(steps) == 0 {
		return nil, fmt.Errorf("no case is named %q: the cases are %q",
			strings.Join(b.cases, ","), slices.Compact(b.names()))
	}
	if err := b.start(steps); err != nil {
		return nil, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() { // ends with the process
		<-interrupted
		exit(errors.Join(errors.New("interrupted"), b.stop()))
	}()
	r := newReport(b)
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
			return nil, errors.Join(fmt.Errorf("%s, %s: %w", s.name, s.sys.name, err), b.stop())
		}
		_ = bar.Add(1) // fails only if the terminal does
	}
	return r, b.stop()
}

// A step is one measurement of one system.
type step struct {
	name string
	sys  system
	run  func(system) (measurement, error)
}

// plan returns the steps in their order.
func (b *bench) plan() []step {
	p := &planner{bench: b}
	p.contended()
	p.turns(handOver, b.rounds, b.systems, p.inWindow(b.handOff))
	p.retained()
	p.replicated()
	p.quorums()
	p.turns(manyHeld, 1, []system{keyed}, func(s system) (measurement, error) {
		return b.held(s, b.heldLocks, b.hold)
	})
	p.turns(manyUsed, 1, []system{keyed, retainedKeyed}, func(s system) (measurement, error) {
		return b.used(s, b.usedIDs)
	})
	p.turns(manyAtOnce, b.rounds, []system{keyed}, func(s system) (measurement, error) {
		return b.lockAll(s, b.idsAtOnce, b.window)
	})
	p.turns(park, 1, b.systems, b.parkedOf)
	p.turns(killed, 1, b.systems, b.killsOf)
	return p.steps
}

// names returns the names of all cases, in their order.
func (b *bench) names() (names []string) {
	all := *b
	all.cases, all.rounds = nil, 1
	for _, s := range all.plan() {
		names = append(names, s.name)
	}
	return names
}

// A planner collects the steps of a bench.
type planner struct {
	*bench
	steps []step
}

// runs reports whether a case is to run. The names of some cases have commas, at
// which main has cut them.
func (b *bench) runs(name string) bool {
	named := func(name string) bool {
		return strings.Contains(","+strings.Join(b.cases, ",")+",", ","+name+",")
	}
	return len(b.cases) == 0 || named(name) || ofQuorum(name) && named(inQuorum)
}

// turns adds a case, unless it is not to run. The systems take turns in it, so
// that a disturbance of the machine meets all of them.
func (p *planner) turns(
	name string, rounds int, systems []system, run func(system) (measurement, error),
) {
	if !p.runs(name) {
		return
	}
	for range rounds {
		for _, s := range systems {
			p.steps = append(p.steps, step{name, s, run})
		}
	}
}

// under returns a run of a system under l.
func (p *planner) under(l load) func(system) (measurement, error) {
	return func(s system) (measurement, error) { return p.contend(s, l, p.window) }
}

// inWindow returns a run of a system by measure.
func (p *planner) inWindow(
	measure func(system, time.Duration) (measurement, error),
) func(system) (measurement, error) {
	return func(s system) (measurement, error) { return measure(s, p.window) }
}

// contended adds the cases in which goroutines lock without a pause.
func (p *planner) contended() {
	one, many := p.under(load{1, 1, 1}), p.under(load{1, 64, 1})
	withRaw := append([]system{raw}, p.systems...)
	p.turns(uncontended, p.rounds, append([]system{raw, cancellable, keyed}, p.systems...), one)
	p.turns(uncontendedPlain, p.rounds, plain(withRaw), one)
	p.turns(uncontendedTimed, p.rounds, timed(withRaw), one)
	p.turns(oneProcess, p.rounds, append([]system{reading}, p.systems...), many)
	p.turns(oneProcessTimed, p.rounds, timed(p.systems), many)
	p.turns(manyKeys, p.rounds, append([]system{keyed}, p.systems...),
		p.under(load{1, crowd, crowd}))
	p.turns(among, p.rounds, []system{reading}, p.inWindow(p.writerAmong))
	for _, n := range crowds {
		p.turns(clients(n), p.rounds, p.systems, p.under(load{n, 1, 1}))
	}
}

// retained adds the cases in which clients retain locks.
func (p *planner) retained() {
	with := []system{systems[0], retained}
	p.turns(relock, p.rounds, []system{raw, retained, fenced}, p.under(load{1, 1, 1}))
	p.turns(idleTaken, p.rounds, with, func(s system) (measurement, error) {
		if s.retains {
			return p.takeOver(s, p.window)
		}
		return p.handOff(s, p.window)
	})
	p.turns(twoInTurn, p.rounds, with, p.inWindow(p.inTurn))
	p.turns(twoAtOnce, p.rounds, with, p.under(load{2, 1, 1}))
	p.turns(hotKeys, p.rounds, []system{keyed, retainedKeyed, redislockFast},
		p.under(load{1, hot, hot}))
}

// parkedOf is parked for as long as the system's waiters are counted.
func (b *bench) parkedOf(s system) (measurement, error) {
	if s.name == ours {
		return b.parked(s, b.park)
	}
	return b.parked(s, b.parkPeers)
}

// killsOf is kills for as many holders as are killed of the system.
func (b *bench) killsOf(s system) (measurement, error) {
	if s.name == ours {
		return b.kills(s, b.killsOurs)
	}
	return b.kills(s, b.killsPeers)
}

// Names of the cases.
const (
	uncontended = "uncontended"
	oneProcess  = "one process"
	manyKeys    = "256 keys"
	manyHeld    = "many held"
	manyUsed    = "many used once"
	manyAtOnce  = "many at once"
	among       = "a writer among 8 readers"
	handOver    = "hand-off"
	park        = "parked"
	killed      = "killed"

	uncontendedPlain = "uncontended on a default client"
	uncontendedTimed = "uncontended with a deadline"
	oneProcessTimed  = "one process with a deadline"

	relock    = "relock"
	idleTaken = "idle takeover"
	twoInTurn = "two in turn"
	twoAtOnce = "two at once"
	hotKeys   = "64 hot keys"

	replicated     = "replicas"
	replicatedKeys = "replicas of 64 keys"
)

// crowd is how many goroutines one client has where each has its own key.
const crowd = 256

// hot is how many goroutines one client has in the case of hot keys, each with
// its own key.
const hot = 64

// crowds are the numbers of clients that contend for one key.
var crowds = []int{2, 8, 32, 128}

func clients(n int) string { return fmt.Sprintf("%d clients", n) }
