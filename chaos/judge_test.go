package main

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// at is a time of a history that is made up.
func at(ms int) instant { return instant(time.Hour + time.Duration(ms)*time.Millisecond) }

// A tale is a history that is made up. Each process has a slot of its own.
type tale struct{ *history }

func newTale() *tale {
	t := &tale{&history{TTL: ttl, Keys: lockKeys, Counted: true, stamps: make(map[*op][]stamp)}}
	for slot := range workers {
		t.Processes = append(t.Processes, process{Slot: slot})
	}
	return t
}

// holds adds a hold of the first key: what was asked for at called, granted at granted, and unlocked at
// unlock, if that is not 0, by the process; and the request that it was asked for by.
func (t *tale) holds(process, called, granted, unlock int, token int64) *op {
	o := &op{
		Process: process, Slot: process, N: len(t.Ops), Kind: mutex, ID: fmt.Sprintf("%d:%d", process, len(t.Ops)), Token: token,
		Called: at(called), Granted: at(granted),
	}
	t.Ops = append(t.Ops, o)
	q := t.asks(o, acquire, called, yes)
	if granted > called+1 {
		q.Answer, q.Queues = no, true
	}
	if unlock != 0 {
		o.Unlock, o.Unlocked, o.Released = at(unlock), at(unlock+1), true
		t.asks(o, release, unlock, yes)
		t.believes(o, granted, unlock)
	}
	return o
}

// asks adds a request, which is answered 1 ms later.
func (t *tale) asks(o *op, s script, sent int, a answer) *request {
	q := &request{Process: o.Process, Slot: o.Slot, ID: o.ID, Script: s, Sent: at(sent), Replied: at(sent + 1), Answer: a}
	t.Requests = append(t.Requests, q)
	return q
}

// believes lets the holder look at its lease at these times.
func (t *tale) believes(o *op, times ...int) {
	for _, ms := range times {
		o.Alive = stamp{At: at(ms), Read: at(ms), Deadline: at(ms + 10)}
		t.stamps[o] = append(t.stamps[o], o.Alive)
	}
}

// chooses lets o, a reader that was granted a lease of its own, hold under the lease of other, a reader of its process.
// Its own is released at released.
func (t *tale) chooses(o, other *op, released int) {
	for _, q := range t.Requests {
		switch {
		case q.ID != o.ID:
		case q.Script == acquire:
			q.Op = o.N
		case q.Script == release:
			q.Sent, q.Replied = at(released), at(released+1)
		}
	}
	o.ID = other.ID
}

func (t *tale) suffers(what does, slot, key, start, end int) {
	e := &effect{Fault: "fault", Start: at(start), End: at(end), Key: key, Does: what}
	if slot >= 0 {
		e.Slots = []int{slot}
	}
	t.Effects = append(t.Effects, e)
}

// tales are histories, and which judges find something in each.
var tales = map[string]struct {
	tell  func(*tale)
	found []string
}{
	"nothing": {func(*tale) {}, nil},
	"one after another": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 5, 51, 60, 20)
	}, nil},
	"two at once": {func(t *tale) {
		t.holds(0, 0, 1, 60, 10)
		t.holds(1, 5, 51, 70, 20)
	}, []string{"model", "overlap"}},
	"two at once, as the server forgot": {func(t *tale) {
		t.holds(0, 0, 1, 60, 10)
		t.holds(1, 5, 51, 70, 20)
		t.suffers(loses, -1, 0, 40, 41)
	}, nil},
	"two at once, as messages were late": {func(t *tale) {
		t.holds(0, 0, 1, 60, 10)
		t.holds(1, 5, 51, 70, 20)
		t.suffers(delays, -1, allKeys, 40, 41)
	}, []string{"model", "overlap"}},
	"two at once, as the server forgot another key": {func(t *tale) {
		t.holds(0, 0, 1, 60, 10)
		t.holds(1, 5, 51, 70, 20)
		t.suffers(loses, -1, 1, 40, 41)
	}, []string{"model", "overlap"}},
	"two at once, after the server could have forgotten, but had not": {func(t *tale) {
		t.asks(t.holds(0, 0, 1, 60, 10), renew, 45, yes)
		t.asks(t.holds(1, 5, 51, 70, 20), acquire, 46, no)
		t.suffers(loses, -1, 0, 40, 41)
	}, []string{"model", "overlap"}},
	"readers at once": {func(t *tale) {
		t.holds(0, 0, 1, 60, 10).Read = true
		t.holds(1, 5, 6, 70, 20).Read = true
	}, nil},
	"a writer beside a reader": {func(t *tale) {
		t.holds(0, 0, 1, 60, 10).Read = true
		t.holds(1, 5, 6, 70, 20)
	}, []string{"model", "overlap"}},
	"an unlock that was not answered": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10).Released = false
		t.holds(1, 5, 51, 60, 20)
	}, nil},
	"a lease that ran out": {func(t *tale) {
		o := t.holds(0, 0, 1, 0, 10)
		t.believes(o, 1, 900)
		o.Lost = at(980)
		t.suffers(delays, 0, allKeys, 100, 1200)
		t.asks(t.holds(1, 5, 1001, 1010, 20), acquire, 700, no)
	}, nil},
	"a lease that ran out, though nothing was wrong": {func(t *tale) {
		o := t.holds(0, 0, 1, 0, 10)
		t.believes(o, 1, 900)
		o.Lost = at(980)
		t.asks(t.holds(1, 5, 1001, 1010, 20), acquire, 700, no)
	}, []string{"lost"}},
	"a lease that is granted to another before it can have run out": {func(t *tale) {
		t.believes(t.holds(0, 10, 11, 0, 10), 11)
		t.suffers(halts, 0, allKeys, 12, 3000)
		t.asks(t.holds(1, 15, 1005, 1006, 20), acquire, 700, no)
	}, []string{"model"}},
	"a deadline that is too late": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		t.stamps[o][1].Deadline = at(1001)
	}, []string{"belief"}},
	"a deadline that a renewal moved": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		t.asks(o, renew, 20, yes)
		t.stamps[o][1].Deadline = at(1001)
	}, nil},
	"a deadline that a renewal moved that was not answered": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		t.asks(o, renew, 20, unknown)
		t.stamps[o][1].Deadline = at(1001)
	}, []string{"belief"}},
	"a token that falls": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 55, 56, 60, 9)
	}, []string{"model", "tokens"}},
	"a token twice": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 55, 56, 60, 10)
	}, []string{"model", "tokens"}},
	"a reader let in under a lease that its process had": {func(t *tale) {
		a := t.holds(0, 0, 1, 70, 10)
		b := t.holds(0, 40, 41, 60, 10)
		a.Read, b.Read = true, true
		t.Requests = slices.DeleteFunc(t.Requests, func(q *request) bool { return q.ID == b.ID })
		b.ID = a.ID
	}, nil},
	"a reader let in under a lease that the server forgot": {func(t *tale) {
		a := t.holds(0, 0, 1, 70, 10)
		t.suffers(loses, -1, 0, 20, 21)
		t.holds(1, 5, 22, 30, 20)
		b := t.holds(0, 15, 31, 60, 10)
		a.Read, b.Read = true, true
		t.Requests = slices.DeleteFunc(t.Requests, func(q *request) bool { return q.ID == b.ID })
		b.ID = a.ID
		t.holds(2, 16, 32, 40, 40)
	}, nil},
	"a reader let in beside a writer, under a lease that the server forgot": {func(t *tale) {
		a := t.holds(0, 0, 1, 70, 10)
		t.suffers(loses, -1, 0, 20, 21)
		t.holds(1, 5, 22, 60, 20)
		b := t.holds(0, 30, 31, 50, 10)
		a.Read, b.Read = true, true
		t.Requests = slices.DeleteFunc(t.Requests, func(q *request) bool { return q.ID == b.ID })
		b.ID = a.ID
	}, nil},
	"a reader let in beside a writer": {func(t *tale) {
		a := t.holds(0, 0, 1, 10, 10)
		t.holds(1, 5, 22, 60, 20)
		b := t.holds(0, 30, 31, 50, 10)
		a.Read, b.Read = true, true
		t.Requests = slices.DeleteFunc(t.Requests, func(q *request) bool { return q.ID == b.ID })
		b.ID = a.ID
	}, []string{"model", "overlap"}},
	"a reader that gives up its own lease for one that the server forgot": {func(t *tale) {
		a := t.holds(0, 0, 1, 70, 10)
		t.suffers(loses, -1, 0, 20, 21)
		t.holds(1, 5, 22, 30, 20)
		b := t.holds(0, 15, 31, 60, 10)
		a.Read, b.Read = true, true
		t.chooses(b, a, 31)
		t.holds(2, 25, 32, 40, 40)
	}, []string{"model", "overlap", "tokens"}},
	"a reader that gives up its own lease, and then finds the other taken": {func(t *tale) {
		a := t.holds(0, 0, 1, 18, 10)
		t.suffers(loses, -1, 0, 20, 21)
		b := t.holds(0, 15, 31, 60, 10)
		a.Read, b.Read = true, true
		t.chooses(b, a, 31)
		b.Lost, b.Taken, b.Released = at(40), true, false
	}, []string{"early end"}},
	"a reader that gives up its own lease for one that the server forgets after it said that it was there": {func(t *tale) {
		a := t.holds(0, 0, 1, 70, 10)
		b := t.holds(0, 40, 47, 58, 10)
		a.Read, b.Read = true, true
		t.chooses(b, a, 46)
		t.asks(a, renew, 42, yes)
		t.suffers(loses, -1, 0, 44, 45)
		t.holds(1, 5, 48, 60, 30)
	}, nil},
	"a reader that gives up its own lease for one that the server forgets, and did not say that it was there": {func(t *tale) {
		a := t.holds(0, 0, 1, 70, 10)
		b := t.holds(0, 40, 47, 58, 10)
		a.Read, b.Read = true, true
		t.chooses(b, a, 46)
		t.suffers(loses, -1, 0, 44, 45)
		t.holds(1, 46, 48, 60, 30)
	}, []string{"model", "overlap"}},
	"a reader with the token of a writer": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 55, 56, 60, 10).Read = true
	}, []string{"model", "tokens"}},
	"a lease that was taken away": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		o.Lost, o.Taken, o.Released = at(30), true, false
	}, []string{"early end"}},
	"a lease that the server forgot": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		o.Lost, o.Taken, o.Released = at(30), true, false
		t.suffers(loses, -1, allKeys, 20, 21)
	}, nil},
	"a lease that was taken away, as messages were late": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		o.Lost, o.Taken, o.Released = at(30), true, false
		t.suffers(delays, -1, allKeys, 20, 21)
	}, []string{"early end"}},
	"a key that came back": {func(t *tale) {
		t.asks(t.holds(0, 0, 1, 50, 10), renew, 30, yes)
		t.suffers(loses|wipes, -1, 0, 20, 21)
	}, []string{"revived"}},
	"one that passes another": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 5, 60, 65, 20)
		t.holds(2, 20, 51, 59, 15)
	}, []string{"order"}},
	"one that passes another that did not ask in time": {func(t *tale) {
		t.holds(0, 0, 1, 950, 10)
		t.holds(1, 5, 1060, 0, 20)
		t.holds(2, 20, 951, 959, 15)
	}, nil},
	"a holder that does not mind its deadline": {func(t *tale) {
		o := t.holds(0, 0, 1, 50, 10)
		t.stamps[o][1].Deadline = at(49)
	}, []string{"belief"}},
	"one that passes another that was beset": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 5, 60, 65, 20)
		t.holds(2, 20, 51, 59, 15)
		t.suffers(delays, 1, allKeys, 7, 8)
	}, nil},
	"a goroutine that passes another": {func(t *tale) {
		t.holds(0, 0, 1, 150, 10)
		t.holds(0, 5, 170, 180, 20)
		t.holds(0, 100, 151, 160, 15)
	}, []string{"turns"}},
	"a lock that nobody holds": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 5, 600, 610, 20)
	}, []string{"idle"}},
	"a lock that nobody holds, as the server refused to write": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.suffers(refuses, -1, allKeys, 40, 400)
		t.holds(1, 5, 890, 910, 20)
	}, nil},
	"a lock that nobody holds, long after the server refused to write": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.suffers(refuses, -1, allKeys, 40, 400)
		t.holds(1, 5, 910, 920, 20)
	}, []string{"idle"}},
	"a lock that nobody holds, after the server refused to write": {func(t *tale) {
		t.suffers(refuses, -1, allKeys, 0, 40)
		t.holds(0, 41, 42, 50, 10)
		t.holds(1, 45, 600, 610, 20)
	}, []string{"idle"}},
	"one that passes another while the server refuses to write": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 5, 60, 65, 20)
		t.holds(2, 20, 51, 59, 15)
		t.suffers(refuses, -1, allKeys, 7, 8)
	}, nil},
	"a lock that nobody wants": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.holds(1, 600, 601, 610, 20)
	}, nil},
	"a lock whose dead waiters were skipped": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.suffers(halts, 2, allKeys, 40, 3000)
		t.asks(t.holds(1, 5, 1200, 1210, 20), acquire, 900, no)
	}, nil},
	"a lock whose dead waiters were not skipped": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10)
		t.suffers(halts, 2, allKeys, 40, 3000)
		t.asks(t.holds(1, 5, 1300, 1310, 20), acquire, 900, no)
	}, []string{"idle"}},
	"a lock whose dead waiters were skipped, behind a dead reader": {func(t *tale) {
		t.holds(0, 0, 1, 50, 10).Read = true
		o := t.holds(3, 2, 3, 0, 11)
		o.Read = true
		t.asks(o, renew, 30, yes)
		t.suffers(halts, 3, allKeys, 40, 3000)
		t.asks(t.holds(1, 5, 2100, 2110, 20), acquire, 1900, no)
	}, nil},
	"a crash": {func(t *tale) {
		t.holds(0, 0, 1, 0, 10)
		t.Processes[0].Ended = at(30)
		t.suffers(halts|ends, 0, allKeys, 30, 40)
		t.asks(t.holds(1, 5, 1020, 1030, 20), acquire, 900, no)
	}, nil},
	"a crash that costs more than a ttl and a little": {func(t *tale) {
		t.holds(0, 0, 1, 0, 10)
		t.Processes[0].Ended = at(30)
		t.suffers(halts|ends, 0, allKeys, 30, 40)
		t.asks(t.holds(1, 5, 1300, 1310, 20), acquire, 900, no)
	}, []string{"crash"}},
	"waiters that are not told": {func(t *tale) {
		t.holds(0, 0, 1, 100, 1)
		for i := range 4 {
			t.holds(1+i, 100*i, 200+200*i, 300+200*i, int64(2+i))
		}
	}, []string{"hand-off"}},
	"a call that went wrong": {func(t *tale) { t.holds(0, 0, 1, 50, 10).Fault = "it holds no lease" }, []string{"calls"}},
}

// Each judge finds what it is for, and no other finds anything; and what a fault excuses, none does.
func TestJudges(t *testing.T) {
	for name, c := range tales {
		t.Run(name, func(t *testing.T) {
			tale := newTale()
			c.tell(tale)
			tale.finish()
			v := &verdict{history: tale.history}
			v.judgeHistory()
			found := make(map[string]bool)
			for _, x := range v.Violations {
				found[x.Judge] = true
			}
			if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, c.found) {
				t.Errorf("found by %q, want %q:\n%v", got, c.found, v.Violations)
			}
		})
	}
}

// What is not a violation is counted.
func TestFigures(t *testing.T) {
	tale := newTale()
	tale.holds(0, 0, 1, 0, 10)
	tale.Processes[0].Ended = at(30)
	tale.suffers(halts|ends, 0, allKeys, 30, 40)
	tale.asks(tale.holds(1, 5, 1020, 2900, 20), acquire, 900, no)
	tale.asks(tale.Ops[1], renew, 1950, yes)
	tale.suffers(loses, -1, 0, 2700, 2701)
	tale.holds(2, 2720, 2721, 2950, 30)
	tale.holds(3, 2730, 2952, 2960, 40)
	tale.finish()
	v := &verdict{history: tale.history, Kinds: make(map[string]int)}
	v.count()
	v.judgeHistory()
	if len(v.Violations) > 0 {
		t.Errorf("violations: %v", v.Violations)
	}
	if v.Grants != 4 || v.Kinds[mutex] != 4 || v.Excused != 1 || v.Crashes.N != 1 || v.Pairs == 0 {
		t.Errorf("%d grants, %v, %d overlaps excused, %d crashes, %d pairs in order", v.Grants, v.Kinds, v.Excused, v.Crashes.N, v.Pairs)
	}
	if got, want := v.Crashes.Max, 990*time.Millisecond; got < want || got > want+want/100 {
		t.Errorf("from crash to grant: %v, want %v", got, want)
	}
}

// A store refuses a writer that read before another with a higher token did, and readers of what a writer
// with a higher one may write.
func TestStore(t *testing.T) {
	s := newStore(1)
	var v Values
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	refused := func(err error) {
		t.Helper()
		if err != errStale {
			t.Errorf("error %v, want %v", err, errStale)
		}
	}
	must(s.Get(Access{Token: 5}, &v))
	must(s.Get(Access{Token: 7}, &v))
	refused(s.SetFenced(Access{Token: 5, Value: 1}, nil))
	must(s.SetFenced(Access{Token: 7, Value: 1}, nil))
	must(s.Get(Access{Token: 9, Read: true}, &v))
	must(s.Get(Access{Token: 8, Read: true}, &v)) // readers hold together
	refused(s.SetFenced(Access{Token: 8, Value: 2}, nil))
	refused(s.Get(Access{Token: 6, Read: true}, &v))
	must(s.SetPlain(Access{Token: 5, Value: 1}, nil))
	must(s.SetPlain(Access{Token: 7, Value: 1}, nil))
	if fenced, plain, stale := s.lost(); fenced != 0 || plain != 1 || stale != 3 || v.Fenced != 1 {
		t.Errorf("lost %d fenced and %d plain, %d refused, the value is %d; want 0, 1, 3, 1", fenced, plain, stale, v.Fenced)
	}
}
