package judge

import "slices"

// An Event is what the Observer of a process was told.
type Event struct {
	Process, Key int
	Op           int // number of the op whose call it is; 0: unknown, or no op
	Kind         EventKind
	Read         bool
	Fence        int64
	At           Instant
}

// An EventKind is the kind of an Event, in the library's words. Judges ask about
// these.
type EventKind string

const (
	EventWaiting     EventKind = "waiting"
	EventAcquired    EventKind = "acquired"
	EventNotAcquired EventKind = "not acquired"
	EventReleased    EventKind = "released"
	EventLost        EventKind = "lost"
	EventRetained    EventKind = "retained"
	EventReturned    EventKind = "returned"
)

// judgeEvents finds events that do not agree with each other, or with what the ops
// saw. A killed process may have fewer events: it ended before the others.
func judgeEvents(h *History) []Violation {
	f := &Findings{Judge: "events"}
	type lock struct{ process, key int }
	type call struct{ process, op int }
	type hold struct {
		lock
		token int64
	}
	byLock, byOp := make(map[lock][]*Event), make(map[call][]*Event)
	lost := make(map[hold]bool)
	for _, e := range h.Events {
		l, c := lock{e.Process, e.Key}, call{e.Process, e.Op}
		byLock[l], byOp[c] = append(byLock[l], e), append(byOp[c], e)
		if e.Kind == EventLost {
			lost[hold{l, e.Fence}] = true
		}
	}
	for process, p := range h.Processes {
		for key := range h.Keys {
			l := eventsOfLock{f, process, key, p.Ended == 0, byLock[lock{process, key}]}
			l.judge()
		}
	}
	for _, o := range h.Ops {
		p := h.Processes[o.Process]
		if !p.Observed {
			continue
		}
		f.judgeEventsOf(o, byOp[call{o.Process, o.Number}])
		told := lost[hold{lock{o.Process, o.Key}, o.Token}]
		if o.Lost != 0 && !o.Read && p.Ended == 0 && !told {
			f.Add(o.Key, "%s was lost, which caused no event", o)
		}
	}
	return f.Violations
}

// eventsOfLock are the events of one lock in one process.
type eventsOfLock struct {
	found        *Findings
	process, key int
	ended        bool // the process ended by itself, and so did all that it held
	events       []*Event
}

func (l *eventsOfLock) add(format string, args ...any) {
	args = append([]any{l.process}, args...)
	l.found.Add(l.key, "process %d was told "+format, args...)
}

func (l *eventsOfLock) judge() {
	for _, read := range []bool{false, true} {
		l.judgeBalance(read)
		l.judgeHolds(read)
	}
	retained, returned := count(l.events, EventRetained), count(l.events, EventReturned)
	if l.ended && retained != returned {
		l.add("of %d leases that it retained, and of %d that it used again or gave back",
			retained, returned)
	}
}

// judgeBalance finds acquisitions without a release, and the other way round.
func (l *eventsOfLock) judgeBalance(read bool) {
	held := 0
	for _, e := range l.events {
		switch {
		case e.Read != read:
		case e.Kind == EventAcquired:
			held++
		case e.Kind == EventReleased:
			if held--; held < 0 {
				l.add("at %v of a release without an acquisition, token %d", e.At, e.Fence)
				return
			}
		}
	}
	if l.ended && held != 0 {
		l.add("of %d acquisitions more than releases, read %v", held, read)
	}
}

// judgeHolds finds holds with a missing or a doubled event. A writer's hold has a
// token of its own. Readers may hold under one token.
func (l *eventsOfLock) judgeHolds(read bool) {
	holds := make(map[int64][]*Event) // by token
	var tokens []int64
	for _, e := range l.events {
		if e.Read == read && e.Fence != 0 {
			if holds[e.Fence] == nil {
				tokens = append(tokens, e.Fence)
			}
			holds[e.Fence] = append(holds[e.Fence], e)
		}
	}
	for _, token := range tokens {
		events := holds[token]
		acquired, released := count(events, EventAcquired), count(events, EventReleased)
		lost := count(events, EventLost)
		if lost > 1 {
			l.add("%d times that the hold with token %d is lost", lost, token)
		}
		partly := acquired != 1 || released > 1 || l.ended && released == 0
		if !read && acquired+released+lost > 0 && partly {
			l.add("%d times that token %d was acquired, %d times that it was released, "+
				"and %d times that it was lost", acquired, token, released, lost)
		}
	}
}

// judgeEventsOf finds events of o's calls that differ from what o saw. A reader's
// unlock may count for another reader, so its release is not judged here. Nor are the
// events of a call that locks several: one id may have several of each kind.
func (f *Findings) judgeEventsOf(o *Op, events []*Event) {
	if o.Many {
		return
	}
	acquired, refused := count(events, EventAcquired), count(events, EventNotAcquired)
	wrong := o.granted() && (acquired != 1 || refused != 0) ||
		o.Refused != 0 && (acquired != 0 || refused != 1) || count(events, EventWaiting) > 1
	if wrong {
		f.Add(o.Key, "%s caused %d acquisitions, %d refusals and %d waits as events", o, acquired,
			refused, count(events, EventWaiting))
	}
	if o.Read || !o.granted() {
		return
	}
	other := func(e *Event) bool { return e.Fence != 0 && e.Fence != o.Token }
	if i := slices.IndexFunc(events, other); i >= 0 {
		f.Add(o.Key, "%s caused an event with token %d", o, events[i].Fence)
	}
	if released := count(events, EventReleased); o.Unlocked != 0 && released != 1 {
		f.Add(o.Key, "%s has unlocked, which caused %d events", o, released)
	}
}

// count returns how many events are of a kind.
func count(events []*Event, kind EventKind) (n int) {
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}
