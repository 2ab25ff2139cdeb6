// Package sim runs the real library and its real scripts in a simulated world,
// in a bubble of testing/synctest, where time costs nothing. A run has some
// processes, servers, and faults. All that happens by chance depends on a seed.
// So a run that fails can be run again, and made smaller.
package sim

import (
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// A world is one run.
type world struct {
	plan      *Plan
	began     time.Time
	scheduler *scheduler
	recorder  *judge.Recorder
	keys      []string
	servers   []*server
	processes []*process // by slot; the one that lives

	mu       sync.Mutex // guards the following
	all      []*process
	masters  []*server // by site
	weather  []*weather
	story    *[]string // nil: none is told
	digest   hash.Hash64
	mishaps  [fates]int
	together int      // requests that were sent with others
	holders  []string // by key: the ID under which it was last granted
	faults   []*judge.Fault
	breaks   []judge.Break
	happened map[string]int // by kind
	problems []string       // with the queues of servers
	closing  bool
}

// chance returns a source of chance that depends on the seed and on parts.
func (w *world) chance(parts ...uint64) *rand.Rand {
	h := fnv.New64a()
	for _, p := range parts {
		_ = binary.Write(h, binary.LittleEndian, p) // a hash takes everything
	}
	return rand.New(rand.NewPCG(w.plan.Seed, h.Sum64()))
}

// now returns the instant of the run. It is never 0.
func (w *world) now() judge.Instant { return w.instant(time.Now()) }

func (w *world) instant(t time.Time) judge.Instant {
	return judge.Instant(time.Hour + t.Sub(w.began))
}

// serverOf returns the server that the address of a site leads to.
func (w *world) serverOf(site int) *server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.masters[site]
}

// siteOf returns the site that has a key. Of a quorum, it is the first.
func (w *world) siteOf(key int) int {
	if w.plan.Quorum {
		return 0
	}
	return key % w.plan.Sites
}

// hash adds a frame that arrives to the digest of the run.
func (w *world) hash(link string, p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(w.digest, "%d %s %d ", time.Since(w.began), link, len(p))
	_, _ = w.digest.Write(p)
}

func (w *world) countMishap(f fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mishaps[f]++
}

// countTogether counts the requests of a frame that has several.
func (w *world) countTogether(scripts []script) {
	requests := 0
	for _, s := range scripts {
		requests += s.requests
	}
	if requests < 2 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.together += requests
}

// problem notes that something is wrong with a queue.
func (w *world) problem(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	w.tell(nil, "", "%s", what)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, what)
}

// tell adds a line to the story: what happens to a process, or does a process,
// with a key.
func (w *world) tell(p *process, key, format string, args ...any) {
	if w.story == nil {
		return
	}
	who := "world"
	if p != nil {
		who = fmt.Sprintf("process %d", p.number)
	}
	if key != "" {
		who += " " + key
	}
	line := fmt.Sprintf("%12.6f  %-20s ", time.Since(w.began).Seconds(), who) +
		fmt.Sprintf(format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	*w.story = append(*w.story, line)
}

// tellFrame tells of a frame that arrives.
func (w *world) tellFrame(l *link, d direction, p []byte) {
	if w.story == nil {
		return
	}
	text := strings.ReplaceAll(string(p), "\r\n", " ")
	if len(text) > longestFrame {
		text = text[:longestFrame] + "..."
	}
	w.tell(l.process, "", "%v %s, link %s: %q", d, l.server.name, l.name, text)
}

const longestFrame = 400

// A weather is a time in which the links of some processes are bad.
type weather struct {
	slot     int // of the process; AllSlots: all
	site     int // that the links lead to; allSites: all
	from, to time.Time
	parted   bool    // no frame arrives
	lossy    float64 // the share of frames that meet a mishap
	deaf     float64 // the share of messages that are lost
	slow     time.Duration
	fault    *judge.Fault
	world    *world
}

// allSites stands for all sites.
const allSites = -1

// weatherAt returns the weather of a slot's links to a site, or nil if it is good.
func (w *world) weatherAt(slot, site int) *weather {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.weather {
		hits := (x.slot == AllSlots || x.slot == slot) && (x.site == allSites || x.site == site)
		if hits && !now.Before(x.from) && now.Before(x.to) {
			return x
		}
	}
	return nil
}

// lastsUntil says that the weather is felt until t.
func (x *weather) lastsUntil(t time.Time) {
	x.world.mu.Lock()
	defer x.world.mu.Unlock()
	x.fault.End = max(x.fault.End, x.world.instant(t))
}
