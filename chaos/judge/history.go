package judge

import (
	"cmp"
	"slices"
	"time"
)

// An Instant is a time in nanoseconds. All processes of a run read it from the
// same clock, which goes on while a process is stopped.
type Instant int64

// Add returns the instant d after i.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Since returns the time from j to i.
func (i Instant) Since(j Instant) time.Duration { return time.Duration(i - j) }

// never is after every instant of a run.
const never = Instant(1<<63 - 1)

// A History says what the processes of a run did, and what was done to them.
// The caller fills the fields, by itself or with a Recorder.
type History struct {
	TTL        time.Duration
	Keys       []string
	Goroutines int // how many goroutines lock in each process
	// LineDelay is how long each message takes between a process and a server, if
	// nothing is wrong. 0: no time.
	LineDelay time.Duration
	// PublishCounts says that the library learns from PUBLISH which waiters are
	// dead. That is so without Sentinel and Cluster.
	PublishCounts bool
	// Punctual says that nothing takes time but messages, and that a message takes
	// less than a millisecond unless something is wrong.
	Punctual bool
	// Servers is how many servers keep each lock, by majority. 0: one server keeps it.
	Servers   int
	Ops       []*Op
	Requests  []*Request
	Faults    []*Fault
	Processes []Process // by number
	Breaks    []Break
	Events    []*Event // of the processes with an Observer, in their order
	Began     Instant

	// The following are set by prepare.
	lastAlive    map[string]Instant // by ID: when the last request was sent that kept the lease alive
	aliveUntil   map[string]Instant // by ID: when the lease can expire at the earliest
	firstCalled  map[string]Instant // by ID: when the first op that held under it called
	firstGranted map[string]Instant // by ID: when the first op that held under it was granted it
	firstStray   map[string]Instant // by ID: when its first stray acquisition was sent
	ownLease     map[*Op]Instant    // see findOwnLeases
}

// An Op is one goroutine's use of a lock, from the call that locks to the
// return of the call that unlocks. Its process notes the op again each time
// that the op has come further. After a kill the last note counts.
type Op struct {
	Process   int // number of the process
	Slot      int // of the process
	Number    int // of the op, unique in its process
	Goroutine int
	Key       int
	Kind      string // of the lock
	Read      bool   // for reading
	Try       bool   // by a call that does not queue
	Single    bool   // by a lock that only this op uses
	Many      bool   // by a call that locks several, and may let go of some while it waits
	Limited   bool   // the lease is not renewed for as long as it is held
	Bounded   bool   // by a call that waits for no longer than the MaxWait of its process

	Called  Instant // when the locking call began
	Granted Instant // when it returned with the lock; 0: it did not
	Refused Instant // when it returned without the lock; 0: it did not
	GaveUp  bool    // it was refused because its context ended, or by an error
	TimedUp bool    // it was refused because it had waited for MaxWait
	ID      string  // of the lease; shared by readers, and over local hand-offs
	Token   int64   // the fencing token

	// Checked is the last check that found the lease held. The holder believed
	// in the lease until then at least.
	Checked LeaseCheck
	Checks  []LeaseCheck `json:"-"` // all such checks; the Recorder fills it

	Lost  Instant // when the holder learned that the lease is lost; 0: it did not
	Taken bool    // the lease is lost because another has the lock, or no one

	UnlockCalled Instant // when the unlocking call began; 0: it did not
	Unlocked     Instant // when it returned; 0: it did not
	Released     bool    // it returned no error
	Problem      string  // an error or a panic that should not be; empty: none
}

// A LeaseCheck is one look at a lease that was held.
type LeaseCheck struct {
	At       Instant // noted before the look
	Read     Instant // noted after the deadline was read
	Deadline Instant // of the lease
}

func (o *Op) granted() bool { return o.Granted != 0 }

// A Request is one run of a script, as its client saw it.
type Request struct {
	Process, Slot int
	Server        int // of a quorum: its number
	Key           int
	ID            string // of the lease
	Script        Script
	TTL           time.Duration // that it asks for; 0: the history's
	Sent, Replied Instant
	Answer        Answer
	Stray         bool // no answer came: it may be carried out at any later time
	Queues        bool // an acquisition that queues if it is refused
	Listens       bool // the mailbox of an acquisition that queues was open
	Op            int  // number of the op that sent it; 0: unknown, or no op
}

// A Script is the kind of a Request.
type Script string

const (
	Acquire Script = "acquire"
	Renew   Script = "renew"
	Release Script = "release"
)

// An Answer is the outcome of a Request.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown" // an error, or no answer
)

// A Fault is what was done to processes, to the network or to servers.
type Fault struct {
	Name       string
	Start, End Instant
	Slots      []int // of the processes that it hits; nil: all
	Key        int   // whose lock the servers lose; AllKeys: any
	Effects    Effects
}

// AllKeys stands for no key in particular.
const AllKeys = -1

// Effects are what a Fault does. No lock can prevent them, so they are excuses.
type Effects int

const (
	StopsProcess   Effects = 1 << iota // processes do nothing for a while
	KillsProcess                       // processes end; set together with StopsProcess
	DelaysMessages                     // requests, replies and messages are late or lost
	RefusesWrites                      // servers refuse to write, and say so
	MayLoseData                        // servers may lose acknowledged writes, or leases early
	LosesData                          // servers surely lose them; set together with MayLoseData
	LosesMessages                      // messages to waiters are lost: they must ask
	SplitsServers                      // two servers may grant one lock; set together with MayLoseData
	HitsMinority                       // a minority of the servers of a quorum may do anything of these
	LosesWaiters                       // such a server may lose its waiters; set together with HitsMinority
	HitsMinorities                     // it is another minority for each process; set together with HitsMinority
	ForgetsVotes                       // a majority of the servers forgets; set together with DelaysMessages

	delaysGrants = DelaysMessages | RefusesWrites
	anyTrouble   = StopsProcess | delaysGrants | MayLoseData
	breaksOrder  = anyTrouble | LosesWaiters
)

func (f *Fault) hits(slot int) bool { return f.Slots == nil || slices.Contains(f.Slots, slot) }

// overlaps reports whether the fault lasted at some time from a to b.
func (f *Fault) overlaps(a, b Instant) bool { return f.Start <= b && f.End >= a }

// losesKey reports whether servers may lose the lock of a key.
func (f *Fault) losesKey(key int) bool { return f.Key == AllKeys || f.Key == key }

// A Break is the moment at which a process learned that its subscription for the
// lock of a key has broken.
type Break struct {
	Process, Key int
	At           Instant
}

// A Process is one process of a run. A slot has one process at a time.
type Process struct {
	Slot           int
	Started, Ended Instant // Ended: 0 while it runs
	Options
}

// Options are the options of all locks of a process that judges ask about.
type Options struct {
	MinHold, MaxWait time.Duration // 0: none
	Observed         bool          // the locks have an Observer, which notes events
}

// prepare sorts the history, and works out what the judges need.
func (h *History) prepare() {
	slices.SortStableFunc(h.Ops, func(a, b *Op) int { return cmp.Compare(a.Called, b.Called) })
	slices.SortStableFunc(h.Requests, func(a, b *Request) int { return cmp.Compare(a.Sent, b.Sent) })
	h.firstCalled, h.firstGranted = make(map[string]Instant), make(map[string]Instant)
	h.firstStray = make(map[string]Instant)
	for _, o := range h.Ops {
		if !o.granted() {
			continue
		}
		if _, known := h.firstCalled[o.ID]; !known {
			h.firstCalled[o.ID] = o.Called
		}
		if first, known := h.firstGranted[o.ID]; !known || o.Granted < first {
			h.firstGranted[o.ID] = o.Granted
		}
	}
	for _, q := range h.Requests {
		if _, known := h.firstStray[q.ID]; !known && q.Script == Acquire && q.Stray {
			h.firstStray[q.ID] = q.Sent
		}
	}
	h.findLeases()
	h.findOwnLeases()
}

// findOwnLeases sets h.ownLease. The map has the readers that were granted a
// lease of their own, and then held under another reader's lease in the same
// process. It leaves out a reader if a server confirmed the other lease
// meanwhile. The value is the last time by which the reader's own lease is
// known not to have ended.
func (h *History) findOwnLeases() {
	h.ownLease = make(map[*Op]Instant)
	acquisitions := make(map[[2]int][]*Request) // by process and op
	confirmed := make(map[string][]*Request)    // by ID: answered with yes
	for _, q := range h.Requests {
		switch {
		case q.Script == Acquire && q.Op != 0 && q.Answer != Unknown:
			id := [2]int{q.Process, q.Op}
			acquisitions[id] = append(acquisitions[id], q)
		case q.Answer == Yes:
			confirmed[q.ID] = append(confirmed[q.ID], q)
		}
	}
	for _, o := range h.Ops {
		own := acquisitions[[2]int{o.Process, o.Number}]
		sameID := func(q *Request) bool { return q.ID == o.ID }
		if !o.granted() || !o.Read || len(own) == 0 || slices.ContainsFunc(own, sameID) {
			continue
		}
		last := own[len(own)-1]
		confirms := func(q *Request) bool {
			return q.Script == Renew && q.Sent >= last.Sent && q.Sent <= o.Granted
		}
		if slices.ContainsFunc(confirmed[o.ID], confirms) {
			continue
		}
		h.ownLease[o] = last.Sent
		for _, q := range confirmed[last.ID] { // a release that found the lease
			h.ownLease[o] = max(h.ownLease[o], min(q.Sent, o.Granted))
		}
	}
}

// grantsOf returns the granted ops of a key, in the order of their returns.
func (h *History) grantsOf(key int) (ops []*Op) {
	for _, o := range h.Ops {
		if o.Key == key && o.granted() {
			ops = append(ops, o)
		}
	}
	slices.SortStableFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Granted, b.Granted) })
	return ops
}

// expiry returns the earliest time at which the lease of o can expire: its ttl
// after the last request that kept it alive was sent. The server counts from
// later, but in whole milliseconds.
func (h *History) expiry(o *Op) Instant {
	return max(h.aliveUntil[o.ID], h.lastAlive[o.ID].Add(h.TTL)).Add(-time.Millisecond)
}

// ttlOf returns the ttl that a request asks for.
func (h *History) ttlOf(q *Request) time.Duration { return cmp.Or(q.TTL, h.TTL) }

// joined reports whether o is a reader that joined its process's lease. A
// reader that was granted its own lease joined only if a server then confirmed
// the other lease.
func (h *History) joined(o *Op) bool {
	return o.Read && h.firstCalled[o.ID] < o.Called && h.ownLease[o] == 0
}

// late reports whether o came to hold a lease of its process that servers may
// have lost before: it joined the lease, or was handed it.
func (h *History) late(o *Op) bool {
	handed := !o.Read && h.firstGranted[o.ID] < o.Granted
	return (handed || h.joined(o)) && h.forgottenAt(o) <= o.Granted
}

// splitOff reports whether a server may have granted o the lock while another
// server did so too, and then lost the grant.
func (h *History) splitOff(o *Op) bool {
	return h.forgottenAt(o) <= o.Granted && slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Effects&SplitsServers != 0 && f.losesKey(o.Key) && f.overlaps(o.Granted, o.Granted)
	})
}

// calledAt returns when o called, or a later time by which its own lease had
// not ended.
func (h *History) calledAt(o *Op) Instant { return max(o.Called, h.ownLease[o]) }

// forgottenAt returns the earliest time at which servers may have lost the
// lease of o, or never. Servers did not lose a lease that was renewed later,
// unless a stray acquisition may have brought it back. If o held under another
// reader's lease instead of its own, its own lease counts.
func (h *History) forgottenAt(o *Op) Instant {
	first := never
	for _, f := range h.Faults {
		loses := f.Effects&MayLoseData != 0 && f.losesKey(o.Key)
		stray, strays := h.firstStray[o.ID]
		returns := strays && stray <= f.End
		if loses && (returns || f.End >= max(h.lastAlive[o.ID], h.ownLease[o])) {
			first = min(first, max(f.Start, o.Called))
		}
	}
	return first
}

// holdEnd returns when o stopped holding as far as its process knew: at its
// unlock, at the loss of its lease or at the end of the process. It returns
// never if none is known.
func (h *History) holdEnd(o *Op) Instant {
	end := never
	for _, at := range []Instant{o.UnlockCalled, o.Lost, h.Processes[o.Process].Ended} {
		if at != 0 {
			end = min(end, at)
		}
	}
	return end
}

// holdEndOrStop returns holdEnd, or the time at which the process was stopped
// during the hold. A stopped process may do nothing more in the hold.
func (h *History) holdEndOrStop(o *Op) Instant {
	end := h.holdEnd(o)
	for _, f := range h.Faults {
		stops := f.Effects&(StopsProcess|KillsProcess) == StopsProcess
		if stops && f.hits(o.Slot) && f.Start >= o.Granted {
			end = min(end, f.Start)
		}
	}
	return end
}

// excused reports whether a fault with any of the effects hit the process of a
// slot between a and b.
func (h *History) excused(slot int, effects Effects, a, b Instant) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Effects&effects != 0 && f.hits(slot) && f.overlaps(a, b)
	})
}

// excusedAnywhere reports whether a fault with any of the effects lasted
// between a and b, whichever process it hit.
func (h *History) excusedAnywhere(effects Effects, a, b Instant) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Effects&effects != 0 && f.overlaps(a, b)
	})
}

// aftermath is how long a fault may be felt after its end.
func (h *History) aftermath() Instant { return Instant(3 * h.TTL / 2) }
