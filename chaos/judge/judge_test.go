package judge

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is a time of a made-up history.
func at(ms int) Instant { return Instant(time.Hour + time.Duration(ms)*time.Millisecond) }

// The slots, and so the processes, of a made-up history.
const slots = 6

// A builder makes up a history. Each process has its own slot.
type builder struct{ *History }

func newBuilder() *builder {
	b := &builder{&History{
		TTL: time.Second, Keys: []string{"a", "b", "c", "d"}, Goroutines: 4, PublishCounts: true,
	}}
	for slot := range slots {
		b.Processes = append(b.Processes, Process{Slot: slot})
	}
	return b
}

// holds adds a hold of the first key by a process: it asks at called, is
// granted the lock at granted, and unlocks at unlock, unless unlock is 0. It
// also adds the requests.
func (b *builder) holds(process, called, granted, unlock int, token int64) *Op {
	o := &Op{
		Process: process, Slot: process, Number: len(b.Ops), Kind: "Mutex",
		ID: fmt.Sprintf("%d:%d", process, len(b.Ops)), Token: token,
		Called: at(called), Granted: at(granted),
	}
	b.Ops = append(b.Ops, o)
	q := b.asks(o, Acquire, called, Yes)
	if granted > called+1 {
		q.Answer, q.Queues = No, true
	}
	if unlock != 0 {
		o.UnlockCalled, o.Unlocked, o.Released = at(unlock), at(unlock+1), true
		b.asks(o, Release, unlock, Yes)
		b.believes(o, granted, unlock)
	}
	return o
}

// asks adds a request that is answered after 1 ms.
func (b *builder) asks(o *Op, s Script, sent int, a Answer) *Request {
	q := &Request{
		Process: o.Process, Slot: o.Slot, ID: o.ID, Script: s, Sent: at(sent), Replied: at(sent + 1),
		Answer: a,
	}
	b.Requests = append(b.Requests, q)
	return q
}

// believes adds a lease check of o at each time.
func (b *builder) believes(o *Op, times ...int) {
	for _, ms := range times {
		o.Checked = LeaseCheck{At: at(ms), Read: at(ms), Deadline: at(ms + 10)}
		o.Checks = append(o.Checks, o.Checked)
	}
}

// switches makes o hold under the lease of other. Both are readers of one
// process, and o was granted its own lease, which is released at released.
func (b *builder) switches(o, other *Op, released int) {
	for _, q := range b.Requests {
		switch {
		case q.ID != o.ID:
		case q.Script == Acquire:
			q.Op = o.Number
		case q.Script == Release:
			q.Sent, q.Replied = at(released), at(released+1)
		}
	}
	o.ID = other.ID
}

// joins makes o a reader that asks Redis for nothing and holds under the lease
// of other, a reader of the same process.
func (b *builder) joins(o, other *Op) {
	o.Read, other.Read = true, true
	b.Requests = slices.DeleteFunc(b.Requests, func(q *Request) bool { return q.ID == o.ID })
	o.ID = other.ID
}

// dies kills the process of o.
func (b *builder) dies(o *Op, when int) {
	b.Processes[o.Process].Ended = at(when)
	b.suffers(StopsProcess|KillsProcess, o.Slot, AllKeys, when, when+1)
}

// handsOn makes o hand its lease on to next, an op of the same process. Redis
// learns nothing of that.
func (b *builder) handsOn(o, next *Op) {
	b.Requests = slices.DeleteFunc(b.Requests, func(q *Request) bool {
		return q.ID == next.ID || q.ID == o.ID && q.Script == Release
	})
	next.ID = o.ID
}

// tries adds an op that does not queue, and is refused.
func (b *builder) tries(process, called, refused int) *Op {
	o := &Op{
		Process: process, Slot: process, Number: len(b.Ops), Kind: "Mutex", Try: true,
		ID: fmt.Sprintf("%d:%d", process, len(b.Ops)), Called: at(called), Refused: at(refused),
	}
	b.Ops = append(b.Ops, o)
	b.asks(o, Acquire, called, No)
	return o
}

// retains makes o retain its lease at its unlock, and release it at released; 0:
// never.
func (b *builder) retains(o *Op, released int) {
	for _, q := range b.Requests {
		if q.ID == o.ID {
			q.ID += "r"
		}
	}
	o.ID += "r"
	b.Requests = slices.DeleteFunc(b.Requests, func(q *Request) bool {
		return q.ID == o.ID && q.Script == Release
	})
	if released != 0 {
		b.asks(o, Release, released, Yes)
	}
}

// recalls lets process 0 retain the lock, and give it back to process 1 when that
// asks, so many times. Process 0 asks again so many ms later.
func (b *builder) recalls(times, later int) {
	b.Punctual = true
	for i := range times {
		start := 100 * i
		b.retains(b.holds(0, start, start+1, start+10, int64(10*i+1)), start+20)
		b.holds(1, start+19, start+21, start+23, int64(10*i+2))
		b.retains(b.holds(0, start+20+later, start+24+later, start+26+later, int64(10*i+3)), start+60)
	}
}

// The slot of a fault that hits all processes.
const everywhere = -1

// suffers adds a fault.
func (b *builder) suffers(effects Effects, slot, key, start, end int) {
	f := &Fault{Name: "fault", Start: at(start), End: at(end), Key: key, Effects: effects}
	if slot != everywhere {
		f.Slots = []int{slot}
	}
	b.Faults = append(b.Faults, f)
}

// A madeUp is a made-up history, and the judges that find something in it.
type madeUp struct {
	build func(*builder)
	found []string
}

// histories are made-up histories by their names.
var histories = map[string]madeUp{
	"nothing": {func(*builder) {}, nil},
	"one after another": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 51, 60, 20)
	}, nil},
	"two at once": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10)
		h.holds(1, 5, 51, 70, 20)
	}, []string{"model", "overlap"}},
	"two at once, as the server forgot": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10)
		h.holds(1, 5, 51, 70, 20)
		h.suffers(MayLoseData, everywhere, 0, 40, 41)
	}, nil},
	"two at once, of two masters": {func(h *builder) {
		h.holds(0, 0, 1, 500, 10)
		h.asks(h.Ops[0], Renew, 400, Yes) // it is not the lease that was lost
		h.holds(1, 5, 51, 70, 20).Released = false
		h.suffers(MayLoseData|SplitsServers, everywhere, 0, 40, 300)
	}, nil},
	"one token twice, of two masters": {func(h *builder) {
		h.holds(0, 0, 1, 500, 10)
		h.asks(h.Ops[0], Renew, 400, Yes) // it is not the lease that was lost
		h.holds(1, 5, 51, 70, 10).Released = false
		h.suffers(MayLoseData|SplitsServers, everywhere, 0, 40, 300)
	}, nil},
	"one token twice, of one master, which may have lost leases": {func(h *builder) {
		h.holds(0, 0, 1, 30, 10)
		h.holds(1, 41, 51, 70, 10)
		h.suffers(MayLoseData, everywhere, 0, 40, 300)
	}, []string{"model", "tokens"}},
	"two at once, of one master, which may have lost leases": {func(h *builder) {
		h.holds(0, 0, 1, 500, 10)
		h.asks(h.Ops[0], Renew, 400, Yes)
		h.holds(1, 5, 51, 70, 20).Released = false
		h.suffers(MayLoseData, everywhere, 0, 40, 300)
	}, []string{"model"}},
	"two at once, after there were two masters": {func(h *builder) {
		h.holds(0, 0, 1, 500, 10)
		h.asks(h.Ops[0], Renew, 400, Yes)
		h.holds(1, 5, 351, 370, 20).Released = false
		h.suffers(MayLoseData|SplitsServers, everywhere, 0, 40, 300)
	}, []string{"model"}},
	"two at once, as messages were late": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10)
		h.holds(1, 5, 51, 70, 20)
		h.suffers(DelaysMessages, everywhere, AllKeys, 40, 41)
	}, []string{"model", "overlap"}},
	"two at once, as the server forgot another key": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10)
		h.holds(1, 5, 51, 70, 20)
		h.suffers(MayLoseData, everywhere, 1, 40, 41)
	}, []string{"model", "overlap"}},
	"two at once, after the server could have forgotten, but had not": {func(h *builder) {
		h.asks(h.holds(0, 0, 1, 60, 10), Renew, 45, Yes)
		h.asks(h.holds(1, 5, 51, 70, 20), Acquire, 46, No)
		h.suffers(MayLoseData, everywhere, 0, 40, 41)
	}, []string{"model", "overlap"}},
	"readers at once": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10).Read = true
		h.holds(1, 5, 6, 70, 20).Read = true
	}, nil},
	"a writer beside a reader": {func(h *builder) {
		h.holds(0, 0, 1, 60, 10).Read = true
		h.holds(1, 5, 6, 70, 20)
	}, []string{"model", "overlap"}},
	"an unlock that was not answered": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10).Released = false
		h.holds(1, 5, 51, 60, 20)
	}, nil},
	"a lease that ran out": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 900)
		o.Lost = at(980)
		h.suffers(DelaysMessages, 0, AllKeys, 100, 1200)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
	}, nil},
	"a lease that ran out, though nothing was wrong": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 900)
		o.Lost = at(980)
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
	}, []string{"lost"}},
	"a lease that is granted to another before it can have run out": {func(h *builder) {
		h.believes(h.holds(0, 10, 11, 0, 10), 11)
		h.suffers(StopsProcess, 0, AllKeys, 12, 3000)
		h.asks(h.holds(1, 15, 1005, 1006, 20), Acquire, 700, No)
	}, []string{"model"}},
	"a deadline that is too late": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Checks[1].Deadline = at(1001)
	}, []string{"belief"}},
	"a deadline that a renewal moved": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		h.asks(o, Renew, 20, Yes)
		o.Checks[1].Deadline = at(1001)
	}, nil},
	"a deadline that a renewal moved that was not answered": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		h.asks(o, Renew, 20, Unknown)
		o.Checks[1].Deadline = at(1001)
	}, []string{"belief"}},
	"a token that falls": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 55, 56, 60, 9)
	}, []string{"model", "tokens"}},
	"a token twice": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 55, 56, 60, 10)
	}, []string{"model", "tokens"}},
	"a reader let in under a lease that its process had": {func(h *builder) {
		a := h.holds(0, 0, 1, 70, 10)
		b := h.holds(0, 40, 41, 60, 10)
		h.joins(b, a)
	}, nil},
	"a reader let in under a lease that the server forgot": {func(h *builder) {
		a := h.holds(0, 0, 1, 70, 10)
		h.suffers(MayLoseData, everywhere, 0, 20, 21)
		h.holds(1, 5, 22, 30, 20)
		b := h.holds(0, 15, 31, 60, 10)
		h.joins(b, a)
		h.holds(2, 16, 32, 40, 40)
	}, nil},
	"a reader let in beside a writer, under a lease that the server forgot": {func(h *builder) {
		a := h.holds(0, 0, 1, 70, 10)
		h.suffers(MayLoseData, everywhere, 0, 20, 21)
		h.holds(1, 5, 22, 60, 20)
		b := h.holds(0, 30, 31, 50, 10)
		h.joins(b, a)
	}, nil},
	"a reader let in beside a writer": {func(h *builder) {
		a := h.holds(0, 0, 1, 10, 10)
		h.holds(1, 5, 22, 60, 20)
		b := h.holds(0, 30, 31, 50, 10)
		h.joins(b, a)
	}, []string{"model", "overlap"}},
	"a reader that gives up its own lease for a lease that the server forgot": {func(h *builder) {
		a := h.holds(0, 0, 1, 70, 10)
		h.suffers(MayLoseData, everywhere, 0, 20, 21)
		h.holds(1, 5, 22, 30, 20)
		b := h.holds(0, 15, 31, 60, 10)
		a.Read, b.Read = true, true
		h.switches(b, a, 31)
		h.holds(2, 25, 32, 40, 40)
	}, []string{"model", "overlap", "tokens"}},
	"a reader that gives up its own lease, and then finds the other taken": {func(h *builder) {
		a := h.holds(0, 0, 1, 18, 10)
		h.suffers(MayLoseData, everywhere, 0, 20, 21)
		b := h.holds(0, 15, 31, 60, 10)
		a.Read, b.Read = true, true
		h.switches(b, a, 31)
		b.Lost, b.Taken, b.Released = at(40), true, false
	}, []string{"early end"}},
	"a reader that gives up its own lease for one confirmed, then forgotten": {func(h *builder) {
		a := h.holds(0, 0, 1, 70, 10)
		b := h.holds(0, 40, 47, 58, 10)
		a.Read, b.Read = true, true
		h.switches(b, a, 46)
		h.asks(a, Renew, 42, Yes)
		h.suffers(MayLoseData, everywhere, 0, 44, 45)
		h.holds(1, 5, 48, 60, 30)
	}, nil},
	"a reader that gives up its own lease for one unconfirmed, then forgotten": {func(h *builder) {
		a := h.holds(0, 0, 1, 70, 10)
		b := h.holds(0, 40, 47, 58, 10)
		a.Read, b.Read = true, true
		h.switches(b, a, 46)
		h.suffers(MayLoseData, everywhere, 0, 44, 45)
		h.holds(1, 46, 48, 60, 30)
	}, []string{"model", "overlap"}},
	"a reader with the token of a writer": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 55, 56, 60, 10).Read = true
	}, []string{"model", "tokens"}},
	"a lease that was taken away": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Lost, o.Taken, o.Released = at(30), true, false
	}, []string{"early end"}},
	"a lease that the server forgot": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Lost, o.Taken, o.Released = at(30), true, false
		h.suffers(MayLoseData, everywhere, AllKeys, 20, 21)
	}, nil},
	"a lease that was taken away, as messages were late": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Lost, o.Taken, o.Released = at(30), true, false
		h.suffers(DelaysMessages, everywhere, AllKeys, 20, 21)
	}, []string{"early end"}},
	"a key that came back": {func(h *builder) {
		h.asks(h.holds(0, 0, 1, 50, 10), Renew, 30, Yes)
		h.suffers(MayLoseData|LosesData, everywhere, 0, 20, 21)
	}, []string{"revived"}},
	"a process that passes another": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 60, 65, 20)
		h.holds(2, 20, 51, 59, 15)
	}, []string{"order"}},
	"a process that passes another, which did not ask in time": {func(h *builder) {
		h.holds(0, 0, 1, 950, 10)
		h.holds(1, 5, 1060, 0, 20)
		h.holds(2, 20, 951, 959, 15)
	}, nil},
	"a holder that ignores its deadline": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		o.Checks[1].Deadline = at(49)
	}, []string{"belief"}},
	"a process that passes another, which a fault hit": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 60, 65, 20)
		h.holds(2, 20, 51, 59, 15)
		h.suffers(DelaysMessages, 1, AllKeys, 7, 8)
	}, nil},
	"a goroutine that passes another": {func(h *builder) {
		h.holds(0, 0, 1, 150, 10)
		h.holds(0, 5, 170, 180, 20)
		h.holds(0, 100, 151, 160, 15)
	}, []string{"turns"}},
	"an idle lock": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 600, 610, 20)
	}, []string{"idle"}},
	"an idle lock, as the server refused to write": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(RefusesWrites, everywhere, AllKeys, 40, 400)
		h.holds(1, 5, 890, 910, 20)
	}, nil},
	"an idle lock, long after the server refused to write": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(RefusesWrites, everywhere, AllKeys, 40, 400)
		h.holds(1, 5, 910, 920, 20)
	}, []string{"idle"}},
	"an idle lock, after the server refused to write": {func(h *builder) {
		h.suffers(RefusesWrites, everywhere, AllKeys, 0, 40)
		h.holds(0, 41, 42, 50, 10)
		h.holds(1, 45, 600, 610, 20)
	}, []string{"idle"}},
	"a process that passes another while the server refuses to write": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 60, 65, 20)
		h.holds(2, 20, 51, 59, 15)
		h.suffers(RefusesWrites, everywhere, AllKeys, 7, 8)
	}, nil},
	"a lock without waiters": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 600, 601, 610, 20)
	}, nil},
	"a lock whose dead waiters were skipped": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(StopsProcess, 2, AllKeys, 40, 3000)
		h.asks(h.holds(1, 5, 1200, 1210, 20), Acquire, 900, No)
	}, nil},
	"a lock whose dead waiters were not skipped": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.suffers(StopsProcess, 2, AllKeys, 40, 3000)
		h.asks(h.holds(1, 5, 1300, 1310, 20), Acquire, 900, No)
	}, []string{"idle"}},
	"a lock whose dead waiters were skipped, behind a dead reader": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10).Read = true
		o := h.holds(3, 2, 3, 0, 11)
		o.Read = true
		h.asks(o, Renew, 30, Yes)
		h.suffers(StopsProcess, 3, AllKeys, 40, 3000)
		h.asks(h.holds(1, 5, 2100, 2110, 20), Acquire, 1900, No)
	}, nil},
	"a crash": {func(h *builder) {
		h.holds(0, 0, 1, 0, 10)
		h.Processes[0].Ended = at(30)
		h.suffers(StopsProcess|KillsProcess, 0, AllKeys, 30, 40)
		h.asks(h.holds(1, 5, 1020, 1030, 20), Acquire, 900, No)
	}, nil},
	"a crash that costs more than a ttl and 200 ms": {func(h *builder) {
		h.holds(0, 0, 1, 0, 10)
		h.Processes[0].Ended = at(30)
		h.suffers(StopsProcess|KillsProcess, 0, AllKeys, 30, 40)
		h.asks(h.holds(1, 5, 1300, 1310, 20), Acquire, 900, No)
	}, []string{"crash"}},
	"a try that is refused a lock in use": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.tries(1, 20, 22)
	}, nil},
	"a try that is refused a lock nobody wants": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.tries(1, 60, 110)
	}, []string{"tries"}},
	"a few tries that are refused a lock nobody wants, of real processes": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.tries(1, 60, 110)
	}, nil},
	"many tries that are refused a lock nobody wants": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		for i := range 4 {
			h.tries(1, 60+300*i, 110+300*i)
		}
	}, []string{"tries"}},
	"a try that ended with its context": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.tries(1, 60, 110).GaveUp = true
	}, nil},
	"a try that is refused, and the holder's answer was lost": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.tries(1, 60, 110)
		h.suffers(LosesMessages, 0, AllKeys, 55, 65)
	}, nil},
	"a process that retains a lock right after each recall": {func(h *builder) {
		h.recalls(3, 5)
	}, []string{"recalls"}},
	"a process that retains a lock twice right after a recall": {func(h *builder) {
		h.recalls(2, 5)
	}, nil},
	"a process that cools down after a recall": {func(h *builder) { h.recalls(3, 10) }, nil},
	"a lease that stays idle when the subscription breaks": {func(h *builder) {
		h.retains(h.holds(0, 0, 1, 50, 10), 700)
		h.Breaks = []Break{{Process: 0, At: at(100)}}
	}, []string{"breaks"}},
	"a lease that goes back when the subscription breaks": {func(h *builder) {
		h.retains(h.holds(0, 0, 1, 50, 10), 101)
		h.Breaks = []Break{{Process: 0, At: at(100)}}
	}, nil},
	"a lease that is used again right after the subscription broke": {func(h *builder) {
		first := h.holds(0, 0, 1, 50, 10)
		h.handsOn(first, h.holds(0, 150, 151, 160, 11))
		h.retains(first, 700)
		h.Breaks = []Break{{Process: 0, At: at(100)}}
	}, nil},
	"waiters that are not told": {func(h *builder) {
		h.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			h.holds(1+i, 100*i, 200+200*i, 300+200*i, int64(2+i))
		}
	}, []string{"hand-off"}},
	"waiters that are not told on slow lines": {func(h *builder) {
		h.LineDelay = 3 * time.Millisecond // 99 ms are allowed
		h.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			h.holds(1+i, 100*i, 201+200*i, 300+200*i, int64(2+i))
		}
	}, []string{"hand-off"}},
	"waiters that are told on slow lines": {func(h *builder) {
		h.LineDelay = 4 * time.Millisecond // 107 ms are allowed
		h.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			h.holds(1+i, 100*i, 201+200*i, 300+200*i, int64(2+i))
		}
	}, nil},
	"waiters that are not told, as messages are lost": {func(h *builder) {
		h.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			h.holds(1+i, 100*i, 200+200*i, 300+200*i, int64(2+i))
		}
		h.suffers(LosesMessages, everywhere, AllKeys, 0, 1000)
	}, nil},
	"waiters that try, or lock several, and are not told": {func(h *builder) {
		h.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			o := h.holds(1+i, 100*i, 200+200*i, 300+200*i, int64(2+i))
			o.Try, o.Many = i%2 == 0, i%2 == 1
		}
	}, nil},
	"waiters behind a call that locks several": {func(h *builder) {
		h.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			h.holds(1+i, 100*i, 200+200*i, 300+200*i, int64(2+i))
		}
		o := h.holds(5, 40, 0, 0, 0)
		o.Granted, o.Refused, o.Many = 0, at(1000), true
	}, nil},
	"an idle lock, as messages are lost": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 600, 610, 20)
		h.suffers(LosesMessages, everywhere, AllKeys, 0, 1000)
	}, []string{"idle"}},
	"a lock that a call that locks several may have held meanwhile": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 600, 610, 20)
		o := h.holds(2, 40, 0, 0, 0)
		o.Granted, o.Refused, o.Many = 0, at(590), true
	}, nil},
	"a lock that a call that locks several may have held, which never returned": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 600, 610, 20)
		o := h.holds(2, 40, 0, 0, 0)
		o.Granted, o.Many = 0, true
	}, nil},
	"an idle lock, long after a call that locks several": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.asks(h.holds(1, 1605, 2600, 2610, 20), Acquire, 2000, No)
		o := h.holds(2, 40, 0, 0, 0)
		o.Granted, o.Refused, o.Many = 0, at(590), true
	}, []string{"idle"}},
	"a call that locks several, which others pass": {func(h *builder) {
		h.holds(0, 0, 1, 150, 10)
		h.holds(0, 5, 170, 180, 20).Many = true
		h.holds(0, 100, 151, 160, 15)
	}, nil},
	"a lease that ran out, as it is not renewed": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1, 900)
		o.Lost, o.Limited = at(980), true
		h.asks(h.holds(1, 5, 1001, 1010, 20), Acquire, 700, No)
	}, nil},
	"a deadline that an extension moved": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		h.asks(o, Renew, 20, Yes).TTL = 3 * time.Second
		o.Checks[1].Deadline = at(3020)
	}, nil},
	"a deadline beyond that of an extension": {func(h *builder) {
		o := h.holds(0, 0, 1, 50, 10)
		h.asks(o, Renew, 20, Yes).TTL = 3 * time.Second
		o.Checks[1].Deadline = at(3021)
	}, []string{"belief"}},
	"a lock granted to another before an extended lease can have run out": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.believes(o, 1)
		h.asks(o, Renew, 20, Yes).TTL = 3 * time.Second
		h.suffers(StopsProcess, 0, AllKeys, 21, 4000)
		h.asks(h.holds(1, 1500, 2000, 2010, 20), Acquire, 1900, No)
	}, []string{"model"}},
	"a crash of a holder that had extended its lease": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.asks(o, Renew, 20, Yes).TTL = 3 * time.Second
		h.Processes[0].Ended = at(30)
		h.suffers(StopsProcess|KillsProcess, 0, AllKeys, 30, 40)
		h.asks(h.holds(1, 5, 3019, 3030, 20), Acquire, 2900, No)
	}, nil},
	"a lock idle until an extended lease of a dead holder ends": {func(h *builder) {
		o := h.holds(0, 0, 1, 0, 10)
		h.asks(o, Renew, 20, Yes).TTL = 3 * time.Second
		h.Processes[0].Ended = at(30)
		h.suffers(StopsProcess|KillsProcess, 0, AllKeys, 30, 40)
		h.asks(h.holds(1, 2005, 3019, 3030, 20), Acquire, 2900, No)
	}, nil},
	"a lease that ended in the last millisecond, as servers count": {func(h *builder) {
		h.believes(h.holds(0, 10, 11, 0, 10), 11)
		h.suffers(StopsProcess, 0, AllKeys, 12, 3000)
		h.asks(h.holds(1, 15, 1009, 1020, 20), Acquire, 700, No)
	}, nil},
	"a lock idle while processes were stopped one after another": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		for i := range 3 {
			h.suffers(StopsProcess, 2+i, AllKeys, 40+1000*i, 1000+1000*i)
		}
		h.asks(h.holds(1, 5, 3200, 3210, 20), Acquire, 2900, No)
	}, nil},
	"two at once, as the server forgot a lease that is renewed later": {func(h *builder) {
		o := h.holds(0, 0, 1, 90, 10)
		h.asks(o, Renew, 70, Yes)
		h.asks(h.holds(1, 5, 51, 60, 20), Acquire, 45, No)
		h.suffers(MayLoseData, everywhere, 0, 40, 41)
	}, []string{"model", "overlap"}},
	"the same, and a stray acquisition may have brought the lease back": {func(h *builder) {
		o := h.holds(0, 0, 1, 90, 10)
		h.asks(o, Acquire, 0, Unknown).Stray = true
		h.asks(o, Renew, 70, Yes)
		h.asks(h.holds(1, 5, 51, 60, 20), Acquire, 45, No)
		h.suffers(MayLoseData, everywhere, 0, 40, 41)
	}, nil},
	"a lease that is handed on in its process": {func(h *builder) {
		h.handsOn(h.holds(0, 0, 1, 50, 10), h.holds(0, 46, 51, 60, 11))
	}, nil},
	"a lease that is handed on while another process holds": {func(h *builder) {
		h.handsOn(h.holds(0, 0, 1, 50, 10), h.holds(0, 46, 51, 60, 11))
		h.holds(1, 5, 45, 46, 30)
	}, []string{"model", "overlap", "tokens"}},
	"the same, and the server had forgotten the lease": {func(h *builder) {
		h.handsOn(h.holds(0, 0, 1, 50, 10), h.holds(0, 46, 51, 60, 11))
		h.holds(1, 5, 45, 46, 30)
		h.suffers(MayLoseData, everywhere, 0, 40, 41)
	}, nil},
	"a lock idle for 11 ms": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 61, 70, 20)
	}, nil},
	"a lock idle for 11 ms where all is punctual": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 62, 70, 20) // the release was answered at 51
	}, []string{"hand-off", "idle"}},
	"a lock idle for 9 ms where all is punctual": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 59, 70, 20)
	}, nil},
	"a lock idle for 11 ms in a fault where all is punctual": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 5, 62, 70, 20)
		h.suffers(LosesMessages, 1, AllKeys, 45, 55)
	}, nil},
	"a lock idle for 11 ms while a subscription may be silent": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 19_990, 19_991, 20_000, 20)
		h.holds(2, 19_995, 20_012, 20_020, 30)
		h.suffers(LosesMessages, 1, AllKeys, 60, 70)
	}, nil},
	"a lock idle for 11 ms when no subscription can be silent any more": {func(h *builder) {
		h.Punctual = true
		h.holds(0, 0, 1, 50, 10)
		h.holds(1, 20_190, 20_191, 20_200, 20)
		h.holds(2, 20_195, 20_212, 20_220, 30)
		h.suffers(LosesMessages, 1, AllKeys, 60, 70)
	}, []string{"hand-off", "idle"}},
	"a lock idle while an op of the process has not unlocked a lost lease": {func(h *builder) {
		h.Punctual = true
		o := h.holds(0, 0, 1, 0, 10)
		o.Lost, o.Limited, o.UnlockCalled, o.Unlocked = at(1000), true, at(1100), at(1101)
		h.asks(h.holds(0, 20, 1102, 1110, 20), Acquire, 900, No)
	}, nil},
	"the same, and the op that waits is of another process": {func(h *builder) {
		h.Punctual = true
		o := h.holds(0, 0, 1, 0, 10)
		o.Lost, o.Limited, o.UnlockCalled, o.Unlocked = at(1000), true, at(1100), at(1101)
		h.asks(h.holds(1, 20, 1102, 1110, 20), Acquire, 900, No)
	}, []string{"idle"}},
	"a lock granted to a dead waiter whose mailbox was not open yet": {func(h *builder) {
		h.dies(h.holds(0, 0, 1, 0, 10), 30)
		o := &Op{Process: 2, Slot: 2, ID: "of the dead waiter"}
		h.asks(o, Acquire, 10, No).Queues = true
		h.dies(o, 40)
		h.asks(h.holds(1, 20, 2020, 2030, 20), Acquire, 1800, No)
	}, nil},
	"the same, and its mailbox was open": {func(h *builder) {
		h.dies(h.holds(0, 0, 1, 0, 10), 30)
		o := &Op{Process: 2, Slot: 2, ID: "of the dead waiter"}
		q := h.asks(o, Acquire, 10, No)
		q.Queues, q.Listens = true, true
		h.dies(o, 40)
		h.asks(h.holds(1, 20, 2020, 2030, 20), Acquire, 1800, No)
	}, []string{"crash"}},
	"a call that went wrong": {func(h *builder) {
		h.holds(0, 0, 1, 50, 10).Problem = "it holds no lease"
	}, []string{"calls"}},
}

// Each judge finds what it is for, and no other judge finds anything. No judge
// finds what a fault excuses.
func TestJudges(t *testing.T) { testJudges(t, histories) }

func testJudges(t *testing.T, histories map[string]madeUp) {
	for name, c := range histories {
		t.Run(name, func(t *testing.T) {
			h := newBuilder()
			c.build(h)
			found := make(map[string]bool)
			r := Judge(h.History)
			for _, x := range r.Violations {
				found[x.Judge] = true
			}
			if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, c.found) {
				t.Errorf("found by %q, want %q:\n%v", got, c.found, r.Violations)
			}
		})
	}
}

// A report counts what is no violation.
func TestFigures(t *testing.T) {
	h := newBuilder()
	h.holds(0, 0, 1, 0, 10)
	h.Processes[0].Ended = at(30)
	h.suffers(StopsProcess|KillsProcess, 0, AllKeys, 30, 40)
	h.asks(h.holds(1, 5, 1020, 2900, 20), Acquire, 900, No)
	h.asks(h.Ops[1], Renew, 1950, Yes)
	h.suffers(MayLoseData, everywhere, 0, 2700, 2701)
	h.holds(2, 2720, 2721, 2950, 30)
	h.holds(3, 2730, 2952, 2960, 40).Read = true
	r := Judge(h.History)
	if len(r.Violations) > 0 {
		t.Errorf("violations: %v", r.Violations)
	}
	if r.Grants != 4 || r.Kinds["Mutex"] != 3 || r.Kinds["Mutex"+Reading] != 1 {
		t.Errorf("%d grants, %v", r.Grants, r.Kinds)
	}
	if r.Excused != 1 || r.Pairs == 0 {
		t.Errorf("%d overlaps excused, %d pairs in order", r.Excused, r.Pairs)
	}
	if want := []time.Duration{990 * time.Millisecond}; !slices.Equal(r.Crashes, want) {
		t.Errorf("from crash to grant: %v, want %v", r.Crashes, want)
	}
}

// A Recorder keeps the last record of an op, and all its lease checks.
func TestRecorder(t *testing.T) {
	r := NewRecorder(&History{TTL: time.Second, Keys: []string{"a"}})
	number := r.Start(3, at(0))
	checks := []LeaseCheck{{}, {At: at(2)}, {At: at(2)}, {At: at(4)}}
	for _, c := range checks { // each record is of a new Op, as from another process
		r.Op(&Op{Process: number, Number: 1, Granted: at(1), Checked: c})
	}
	r.End(number, at(5))
	r.End(number, at(6))
	h := r.History()
	if len(h.Ops) != 1 || r.Grants() != 1 {
		t.Fatalf("%d ops, %d grants; want 1 of each", len(h.Ops), r.Grants())
	}
	want := []LeaseCheck{{At: at(2)}, {At: at(4)}}
	if o := h.Ops[0]; o.Checked != want[1] || !slices.Equal(o.Checks, want) {
		t.Errorf("last check %v of %v, want the last of %v", o.Checked, o.Checks, want)
	}
	if p := h.Processes[number]; p.Slot != 3 || p.Ended != at(5) {
		t.Errorf("process %+v, want slot 3 and its first end", p)
	}
}

// Draw writes a page with the ops and the faults.
func TestDraw(t *testing.T) {
	h := newBuilder()
	h.holds(0, 0, 1, 50, 10)
	h.suffers(DelaysMessages, everywhere, AllKeys, 20, 30)
	Judge(h.History)
	file := filepath.Join(t.TempDir(), "page.html")
	if err := h.Draw(0, file); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"lock: writer 0/0, token 10", "unlock: writer 0/0", "workers []"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not have %q", want)
		}
	}
}

// A key for which there are too many orders to look at is undecided: readers in
// any order, and then two writers at once.
func TestUndecided(t *testing.T) {
	h := newBuilder()
	for i := range 40 {
		h.holds(i%slots, 0, 100, 200, int64(10+i)).Read = true
	}
	h.holds(0, 0, 110, 190, 60)
	h.holds(1, 0, 110, 190, 70)
	h.prepare()
	if found := judgeModel(h.History); len(found) != 1 || found[0].Judge != Undecided {
		t.Errorf("found %v, want that it is undecided", found)
	}
}
