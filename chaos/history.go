package main

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// An op is one goroutine's way through a lock: from the call that locks to the return of the
// one that unlocks, as far as it came. Its process notes it, each time that it has
// come further; of one that was killed, the last note counts.
type op struct {
	Process   int // counted over all that were started
	Slot      int // which of the workers that is; a slot is filled again when its process was killed
	N         int // counted in the process
	Goroutine int
	Key       int
	Kind      string // of lock
	Read      bool
	Try       bool // it does not queue

	Called  instant
	Granted instant // returned with the lock; 0: not
	Refused instant // returned without; 0: not
	ID      string  // of the lease; shared by those to whom it was handed on, and by readers
	Token   int64

	// Alive is the last time at which the lease was looked at and found to be held: the time was
	// noted before it was looked at, so it was believed in until then at least.
	Alive stamp

	Lost  instant // found to be lost, or told so; 0: not
	Taken bool    // for the reason that the lock was found to be another's, or free

	Unlock   instant // called
	Unlocked instant // returned
	Released bool    // and returned no error
	Fault    string  // what should not be
}

// A stamp is a time at which a lease was held, and its deadline a little later, at a time when that had been
// read.
type stamp struct{ At, Read, Deadline instant }

func (o *op) granted() bool { return o.Granted != 0 }

// A request is one run of a script, as the client that sent it saw it.
type request struct {
	Process, Slot int
	Key           int
	ID            string
	Script        script
	Sent, Replied instant
	Answer        answer
	Queues        bool // an acquisition that does
	Op            int  // the number of the op that sent it; 0: it is not known, or none did
}

type script string

const (
	acquire script = "acquire"
	renew   script = "renew"
	release script = "release"
)

type answer string

const (
	yes     answer = "yes"
	no      answer = "no"
	unknown answer = "unknown" // an error, or none
)

// An effect is a fault that was made: when, to whom, and what it excuses.
type effect struct {
	Fault      string
	Start, End instant
	Slots      []int // of the workers; nil: all
	Key        int   // whose lock is lost; allKeys: any
	Does       does
}

const allKeys = -1

// does is what a fault can do that a lock cannot help.
type does int

const (
	halts   does = 1 << iota // processes do nothing for a while
	ends                     // or never again
	delays                   // requests, replies and messages are late, or get lost
	refuses                  // servers refuse to write, and say so
	loses                    // servers may forget what they have acknowledged, or find it expired
	wipes                    // and they do for certain

	slows    = delays | refuses
	troubles = halts | slows | loses
)

func (e *effect) touches(slot int) bool { return e.Slots == nil || slices.Contains(e.Slots, slot) }

// overlaps reports whether the effect lies in what is from a to b.
func (e *effect) overlaps(a, b instant) bool { return e.Start <= b && e.End >= a }

// A process is a worker's that was started.
type process struct {
	Slot           int
	Started, Ended instant // Ended: 0 while it runs
}

// A history is what happened in a run.
type history struct {
	TTL       time.Duration
	Keys      []string
	Counted   bool // dead waiters are told by PUBLISH
	Ops       []*op
	Requests  []*request
	Effects   []*effect
	Processes []process
	Began     instant

	stamps map[*op][]stamp
	last   map[string]instant // by ID: when the last request was sent by which the lease is known to live
	asked  map[string]instant // by ID: when the first of those who held under it called
	owns   map[*op]instant    // by op that holds under another's lease, see findOwns
}

// A recorder takes a history down, from several goroutines.
type recorder struct {
	mu  sync.Mutex // guards the following
	h   history
	ops map[[2]int]*op // by process and number
}

func newRecorder(ttl time.Duration, keys []string) *recorder {
	return &recorder{
		h:   history{TTL: ttl, Keys: keys, Began: now(), stamps: make(map[*op][]stamp)},
		ops: make(map[[2]int]*op),
	}
}

// took notes how far an op has come.
func (r *recorder) took(o *op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := [2]int{o.Process, o.N}
	known := r.ops[id]
	if known == nil {
		known = o
		r.ops[id] = o
		r.h.Ops = append(r.h.Ops, o)
	} else {
		*known = *o
	}
	stamps := r.h.stamps[known]
	if o.Alive.At != 0 && (len(stamps) == 0 || stamps[len(stamps)-1].At != o.Alive.At) {
		r.h.stamps[known] = append(stamps, o.Alive)
	}
}

func (r *recorder) sent(q *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Requests = append(r.h.Requests, q)
}

func (r *recorder) hit(e *effect) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Effects = append(r.h.Effects, e)
}

func (r *recorder) started(slot int) (number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Processes = append(r.h.Processes, process{Slot: slot, Started: now()})
	return len(r.h.Processes) - 1
}

func (r *recorder) ended(number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := &r.h.Processes[number]; p.Ended == 0 {
		p.Ended = now()
	}
}

// grants returns how often a lock was granted so far.
func (r *recorder) grants() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.h.Ops {
		if o.granted() {
			n++
		}
	}
	return n
}

// history returns what was recorded, in order. Nothing is recorded any more.
func (r *recorder) history() *history {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &r.h
	h.finish()
	return h
}

// finish puts the history in order, and works out what the judges need.
func (h *history) finish() {
	slices.SortFunc(h.Ops, func(a, b *op) int { return cmp.Compare(a.Called, b.Called) })
	slices.SortFunc(h.Requests, func(a, b *request) int { return cmp.Compare(a.Sent, b.Sent) })
	h.last, h.asked = make(map[string]instant), make(map[string]instant)
	for _, o := range h.Ops {
		if _, known := h.asked[o.ID]; !known && o.granted() {
			h.asked[o.ID] = o.Called
		}
	}
	for _, q := range h.Requests {
		lives := q.Script == acquire && q.Answer != unknown // a refused one may be granted by a message
		lives = lives || q.Script == renew && q.Answer == yes
		if lives {
			h.last[q.ID] = max(h.last[q.ID], q.Sent)
		}
	}
	h.findOwns()
}

// findOwns notes in h.owns each reader that was granted a lease of its own and then held under the lease of another
// reader of its process, though no server said meanwhile that the other lease was there. The time in h.owns
// is the last at which the reader's own lease is known to have been there, or not to have been granted yet.
func (h *history) findOwns() {
	h.owns = make(map[*op]instant)
	asks := make(map[[2]int][]*request) // by process and op
	others := make(map[string][]*request)
	for _, q := range h.Requests {
		switch {
		case q.Script == acquire && q.Op != 0 && q.Answer != unknown:
			id := [2]int{q.Process, q.Op}
			asks[id] = append(asks[id], q)
		case q.Answer == yes:
			others[q.ID] = append(others[q.ID], q)
		}
	}
	for _, o := range h.Ops {
		own := asks[[2]int{o.Process, o.N}]
		if !o.granted() || !o.Read || len(own) == 0 || slices.ContainsFunc(own, func(q *request) bool { return q.ID == o.ID }) {
			continue
		}
		last := own[len(own)-1]
		confirms := func(q *request) bool { return q.Script == renew && q.Sent >= last.Sent && q.Sent <= o.Granted }
		if slices.ContainsFunc(others[o.ID], confirms) {
			continue
		}
		h.owns[o] = last.Sent
		for _, q := range others[last.ID] { // a release that found it there
			h.owns[o] = max(h.owns[o], min(q.Sent, o.Granted))
		}
	}
}

// of returns the ops of a key that were granted, in the order of their returns.
func (h *history) of(key int) (ops []*op) {
	for _, o := range h.Ops {
		if o.Key == key && o.granted() {
			ops = append(ops, o)
		}
	}
	slices.SortFunc(ops, func(a, b *op) int { return cmp.Compare(a.Granted, b.Granted) })
	return ops
}

// runsOut returns from when on the lease of o may have run out: its ttl after the last request was
// sent that let it live. The server counts from later.
func (h *history) runsOut(o *op) instant { return h.last[o.ID].add(h.TTL) }

// joined reports whether o is a reader that was let in under a lease that another of its process had.
// A reader that was granted a lease of its own did not join, unless a server then said that the other
// lease was there.
func (h *history) joined(o *op) bool {
	return o.Read && h.asked[o.ID] < o.Called && h.owns[o] == 0
}

// called returns when o called, or a later time by which its own lease had not ended.
func (h *history) called(o *op) instant { return max(o.Called, h.owns[o]) }

const never = instant(1<<63 - 1)

// forgotten returns from when on servers may have forgotten the lease of o; never if they did not.
// One that was renewed after that was not forgotten. If o held under another's lease instead of its own, its own
// counts, see findOwns.
func (h *history) forgotten(o *op) instant {
	first := never
	for _, e := range h.Effects {
		hits := e.Does&loses != 0 && (e.Key == allKeys || e.Key == o.Key)
		if hits && e.End >= max(h.last[o.ID], h.owns[o]) {
			first = min(first, max(e.Start, o.Called))
		}
	}
	return first
}

// left returns from when on o does not hold any more by its own account, or that of its
// process; never if it is not known to.
func (h *history) left(o *op) instant {
	end := never
	for _, at := range []instant{o.Unlock, o.Lost, h.Processes[o.Process].Ended} {
		if at != 0 {
			end = min(end, at)
		}
	}
	return end
}

// excused reports whether a fault that does any of what lies in what was from a to b, for
// a process of that slot.
func (h *history) excused(slot int, what does, a, b instant) bool {
	return slices.ContainsFunc(h.Effects, func(e *effect) bool {
		return e.Does&what != 0 && e.touches(slot) && e.overlaps(a, b)
	})
}

// hit is excused, for whichever process.
func (h *history) hit(what does, a, b instant) bool {
	return slices.ContainsFunc(h.Effects, func(e *effect) bool { return e.Does&what != 0 && e.overlaps(a, b) })
}
