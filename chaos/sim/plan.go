package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A Plan is what a seed stands for: who does what, and what goes wrong. A plan
// can be made smaller and run again.
type Plan struct {
	Seed       uint64
	TTL        time.Duration
	Keys       int // that are used
	FirstKey   int // of them
	Processes  int
	Goroutines int           // of each process
	Ops        int           // of each goroutine
	Hold       time.Duration // the longest hold
	Reads      float64       // the share of holds that read
	Releases   float64       // the share of ops that first release the last holder by its ID
	Pause      time.Duration // the longest time from an op to the next
	Extends    float64       // the share of holds whose lease is extended
	Retention  time.Duration // for which two of three processes retain locks; 0: none does
	Beat       time.Duration // goroutines lock at multiples of it, all at once; 0: at any time
	MinHold    time.Duration // with which every other process locks; 0: none does
	MaxWait    time.Duration // with which the other processes lock; 0: none does
	Observed   bool          // all processes have an Observer
	Sites      int           // independent servers; keys are spread over them
	Quorum     bool          // the sites are the servers of one quorum, and have all keys
	RunIDs     bool          // its servers tell their run IDs, as Redis does and miniredis does not
	Persistent bool          // all processes have QuorumPersistent
	Replicas   bool          // each site has a replica
	Durable    bool          // all processes have WithReplicas
	Lag        time.Duration // the longest lag of a replica
	Faults     []Fault
}

func (p *Plan) String() string {
	s := fmt.Sprintf("seed %d, %d processes of %d goroutines with %d ops each on %d keys, "+
		"holds up to %v, %.0f %% reads, %d sites",
		p.Seed, p.Processes, p.Goroutines, p.Ops, p.Keys, p.Hold, 100*p.Reads, p.Sites)
	if p.Retention > 0 {
		s += fmt.Sprintf(", locks retained for %v", p.Retention)
	}
	if p.Beat > 0 {
		s += fmt.Sprintf(", all at once every %v", p.Beat)
	}
	if p.MinHold > 0 {
		s += fmt.Sprintf(", held for %v at least", p.MinHold)
	}
	if p.MaxWait > 0 {
		s += fmt.Sprintf(", waits of %v at most", p.MaxWait)
	}
	if p.Observed {
		s += ", observed"
	}
	if p.Quorum {
		s += " of one quorum"
	}
	if p.RunIDs {
		s += ", with run IDs"
	}
	if p.Persistent {
		s += ", persistent"
	}
	if p.Replicas {
		s += fmt.Sprintf(" with replicas that lag by up to %v", p.Lag)
	}
	if p.Durable {
		s += ", which each lock needs"
	}
	for _, f := range p.Faults {
		s += "; " + f.String()
	}
	return s
}

// A Fault is something that goes wrong.
type Fault struct {
	Kind Kind
	At   time.Duration // from the beginning
	For  time.Duration // how long it lasts
	Slot int           // of the process that it hits; AllSlots: all
	// Others says that the process in Slot is spared, and all others are hit.
	Others bool
	Site   int           // of the server that it hits
	AtSite bool          // of links: it hits only those to the server of Site
	By     time.Duration // how far a clock, or a copy, then is ahead of the right time, or behind it
}

// AllSlots stands for all processes.
const AllSlots = -1

func (f Fault) String() string {
	s := fmt.Sprintf("%s at %v", f.Kind, f.At)
	if f.For > 0 {
		s += fmt.Sprintf(" for %v", f.For)
	}
	if f.AtSite {
		s += fmt.Sprintf(", links to the server of site %d", f.Site)
	}
	switch {
	case f.By != 0:
		return s + fmt.Sprintf(", to %v off, server of site %d", f.By, f.Site)
	case kinds[f.Kind].hits == oneProcess && f.Slot == AllSlots:
		return s + ", all processes"
	case f.Others:
		return s + fmt.Sprintf(", all processes but that in slot %d", f.Slot)
	case kinds[f.Kind].hits == oneProcess:
		return s + fmt.Sprintf(", process in slot %d", f.Slot)
	}
	return s + fmt.Sprintf(", server of site %d", f.Site)
}

// A Kind is a kind of fault.
type Kind int

const (
	Crash     Kind = iota // the process dies, and a new one starts in its slot
	Pause                 // the process does nothing for a while
	Lossy                 // frames are lost, links break, frames arrive as strays
	Slow                  // frames are late
	Deaf                  // messages of subscriptions are lost
	Cut                   // all links break
	Restart               // the server restarts with its data
	Forget                // the server restarts without its data
	Flush                 // the server forgets its scripts
	ReadOnly              // the server refuses to write, as a replica does
	Loading               // the server loads its data
	OutOfRoom             // the server has no memory left
	Jump                  // the server's clock jumps
	Promote               // the replica becomes the master, and the master its replica
	Move                  // the same, while old links go on to the old master
	Freeze                // the server does nothing for a while; links stay
	Part                  // nothing arrives at the server, or from it, by the links
	Revert                // the server restarts with an older copy of its data
	kindsOfFaults
)

// A target is what a kind of fault hits.
type target int

const (
	oneProcess target = iota
	oneSite
)

// kinds describes the kinds. Links are where a lock's belief, its wake-ups and
// its repetitions meet, so they get most of the faults.
var kinds = [kindsOfFaults]struct {
	name    string
	hits    target
	weight  int
	longest time.Duration // it lasts at most so long
	effects judge.Effects
}{
	Crash:     {"crash", oneProcess, 4, 0, judge.StopsProcess | judge.KillsProcess},
	Pause:     {"pause", oneProcess, 4, 3 * time.Second, judge.StopsProcess},
	Lossy:     {"lossy", oneProcess, 6, 2 * time.Second, judge.DelaysMessages},
	Slow:      {"slow", oneProcess, 3, 2 * time.Second, judge.DelaysMessages},
	Deaf:      {"deaf", oneProcess, 3, 3 * time.Second, judge.LosesMessages},
	Cut:       {"cut", oneProcess, 3, 0, judge.DelaysMessages},
	Restart:   {"restart", oneSite, 1, 500 * time.Millisecond, judge.DelaysMessages},
	Forget:    {"restart, empty", oneSite, 2, 500 * time.Millisecond, losesAll},
	Flush:     {"SCRIPT FLUSH", oneSite, 2, 0, 0},
	ReadOnly:  {"READONLY", oneSite, 2, time.Second, judge.RefusesWrites},
	Loading:   {"LOADING", oneSite, 2, time.Second, judge.RefusesWrites},
	OutOfRoom: {"OOM", oneSite, 2, time.Second, judge.RefusesWrites},
	Jump:      {"clock jump", oneSite, 2, 0, mayLose},
	Promote:   {"failover", oneSite, 3, time.Second, mayLose | judge.SplitsServers},
	Move:      {"address moved", oneSite, 6, time.Second, judge.DelaysMessages},
	// Only of a quorum:
	Freeze: {"freeze", oneSite, 0, 2 * time.Second, judge.HitsMinority},
	Part:   {"partition", oneProcess, 0, 2 * time.Second, judge.HitsMinority},
	Revert: {"restart, old copy", oneSite, 0, 500 * time.Millisecond, judge.HitsMinority},
}

const (
	mayLose  = judge.DelaysMessages | judge.MayLoseData
	losesAll = mayLose | judge.LosesData
)

func (k Kind) String() string { return kinds[k].name }

// NewPlan returns the plan of a seed.
func NewPlan(seed uint64) *Plan {
	r := rand.New(rand.NewPCG(seed, 0))
	p := &Plan{
		Seed:       seed,
		TTL:        time.Second,
		Keys:       [...]int{1, 2, keysOfRun}[r.IntN(3)],
		FirstKey:   r.IntN(keysOfRun),
		Processes:  2 + r.IntN(7),
		Goroutines: 1 + r.IntN(3),
		Ops:        4 + r.IntN(12),
		Reads:      [...]float64{0, 0.3, 0.6, 0.9}[r.IntN(4)],
		Releases:   [...]float64{0.01, 0.01, 0.1}[r.IntN(3)],
		Extends:    [...]float64{0.05, 0.05, 0.3}[r.IntN(3)],
		Sites:      [...]int{1, 1, 1, 1, 2, 5}[r.IntN(6)],
		Replicas:   r.IntN(3) == 0,
		Lag:        time.Millisecond << (2 * r.IntN(6)),
	}
	if r.IntN(8) == 0 { // a crowd, whose requests go in batches
		p.Keys, p.Processes, p.Goroutines = crowdKeys, 2+r.IntN(2), 8
	}
	p.Hold = [...]time.Duration{p.TTL / 20, p.TTL / 5, p.TTL, 2 * p.TTL}[r.IntN(4)]
	p.Pause = [...]time.Duration{p.TTL / 100, p.TTL / 20, p.TTL}[r.IntN(3)]
	p.Retention, p.Beat = drawRetention(seed)
	p.drawOptions()
	p.drawDurable()
	if p.Beat > 0 { // so that requests meet at one key, and idle times follow holds
		p.Keys, p.Hold = 1, p.TTL/20
	}
	if r.IntN(8) > 0 { // the others run without faults
		p.Faults = drawFaults(r, p)
		p.addFailover()
	}
	p.drawQuorum()
	return p
}

// drawRetention draws for how long locks are retained. In half of the runs none
// is. Where locks are, processes may ask for them at one instant.
func drawRetention(seed uint64) (retention, beat time.Duration) {
	r := rand.New(rand.NewPCG(seed, 1))
	const ms = time.Millisecond
	retention = [...]time.Duration{0, 0, 0, 50 * ms, 300 * ms, time.Hour}[r.IntN(6)]
	if retention > 0 {
		beat = [...]time.Duration{0, 0, 20 * ms, 100 * ms}[r.IntN(4)]
	}
	return retention, beat
}

// drawOptions draws the options of locks that half of the runs have.
func (p *Plan) drawOptions() {
	r := rand.New(rand.NewPCG(p.Seed, 3))
	const ms = time.Millisecond
	p.MinHold = [...]time.Duration{0, 0, 0, 30 * ms, 200 * ms, p.TTL * 5 / 4}[r.IntN(6)]
	p.MaxWait = [...]time.Duration{0, 0, 0, 50 * ms, 300 * ms, 3 * p.TTL}[r.IntN(6)]
	p.Observed = r.IntN(2) == 0
}

// keysOfRun is the number of keys of a run, and crowdKeys that of a crowd: more
// than the requests after which a Keyed sends its requests together.
const (
	keysOfRun = 5
	crowdKeys = 16
)

// drawFaults draws some faults. Those of a run are of a few kinds, so that each
// kind also meets the protocol undisturbed by others.
func drawFaults(r *rand.Rand, p *Plan) (faults []Fault) {
	var chosen []Kind
	for range 1 + r.IntN(3) {
		k := drawKind(r, p)
		if !slices.ContainsFunc(chosen, func(c Kind) bool { return excludes(c, k) }) {
			chosen = append(chosen, k)
		}
	}
	span := p.span()
	for range 1 + r.IntN(5) {
		f := Fault{Kind: chosen[r.IntN(len(chosen))], Slot: r.IntN(p.Processes), Site: r.IntN(p.Sites)}
		f.At = time.Duration(r.Int64N(int64(span)))
		k := kinds[f.Kind]
		if k.longest > 0 {
			f.For = time.Duration(r.Int64N(int64(k.longest)))
		}
		if f.Kind != Crash && f.Kind != Pause && r.IntN(4) == 0 {
			f.Slot = AllSlots
		}
		if f.Kind == Jump {
			// So it is set back by 2 minutes at most, for which a fence outlives a lease.
			f.By = time.Duration(r.Int64N(int64(2*time.Minute))) - time.Minute
		}
		f.Others = f.Kind == Pause && f.At%2 == 0 // half of them; drawn with the time
		faults = append(faults, f)
	}
	return faults
}

// excludes reports whether two kinds together are more than the library
// promises to bear. If a clock is set back, and the last tokens are lost too, or
// the clock is another server's, nothing is left that tokens could rise from.
func excludes(a, b Kind) bool {
	loses := func(k Kind) bool { return k == Forget || k == Promote || k == Move }
	return a == Jump && loses(b) || b == Jump && loses(a)
}

// drawKind draws a kind by its weight.
func drawKind(r *rand.Rand, p *Plan) Kind {
	for {
		total := 0
		for _, k := range kinds {
			total += k.weight
		}
		x := r.IntN(total)
		for k := range kindsOfFaults {
			if x -= kinds[k].weight; x < 0 {
				if (k == Promote || k == Move) && !p.Replicas {
					break
				}
				return k
			}
		}
	}
}

// span returns about how long the load takes.
func (p *Plan) span() time.Duration {
	return time.Duration(p.Ops) * (p.Pause/2 + p.Hold/4 + 20*time.Millisecond)
}
