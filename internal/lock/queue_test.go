package lock

import (
	"container/list"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// holdOf returns a hold with that number.
func holdOf(n int) *Hold { return &Hold{fence: int64(n)} }

// numberOf returns the number of a hold; 0: there is none.
func numberOf(h *Hold) int {
	if h == nil {
		return 0
	}
	return int(h.fence)
}

// got returns the number of the hold that a claim was served, and whether it was.
func got(c *claim) (n int, served bool) {
	select {
	case h := <-c.passed:
		return numberOf(h), true
	default:
		return 0, false
	}
}

// waitIn adds a goroutine that must wait to q.
func waitIn(q *queue, mode Mode) *claim {
	c, _ := q.wait(mode)
	return c
}

// placeOf returns the place of a claim in q, or nil.
func placeOf(q *queue, c *claim) *list.Element {
	for e := q.waiting.Front(); e != nil; e = e.Next() {
		if e.Value == c {
			return e
		}
	}
	return nil
}

func wantServed(t *testing.T, what string, c *claim, want int) {
	t.Helper()
	if h, served := got(c); !served || h != want {
		t.Errorf("%s got %d, %v; want %d", what, h, served, want)
	}
}

func wantWaiting(t *testing.T, what string, c *claim) {
	t.Helper()
	if h, served := got(c); served {
		t.Errorf("%s got %d, and should wait", what, h)
	}
}

func TestQueueServesInOrder(t *testing.T) {
	var q queue
	if v := q.admit(Write, false); v != mayAsk {
		t.Fatalf("the first may: %v", v)
	}
	if v := q.admit(Write, false); v != mustWait {
		t.Fatalf("the second may: %v", v)
	}
	first, second := waitIn(&q, Write), waitIn(&q, Read)
	q.leave()
	q.advance(false, nil)
	wantServed(t, "the first that waits", first, 0)
	wantWaiting(t, "the second", second)
	q.leave()
	q.advance(false, nil)
	wantServed(t, "the second", second, 0)
	if q.state != asking {
		t.Errorf("the state is %v when a reader asks", q.state)
	}
}

// A reader does not overtake a writer that waits, even if it might join a
// share.
func TestQueueStopsReadersBehindAWriter(t *testing.T) {
	var q queue
	q.enter(Write, false)
	writer := waitIn(&q, Write)
	q.leave()
	if v := q.admit(Read, true); v != mustWait {
		t.Errorf("a reader that comes behind a writer may: %v", v)
	}
	reader := waitIn(&q, Read)
	if joined := q.advance(true, holdOf(7)); joined != 0 {
		t.Errorf("%d readers joined before the writer", joined)
	}
	wantServed(t, "the writer", writer, 0)
	wantWaiting(t, "the reader", reader)
}

// Readers that wait side by side are let in together, up to the next writer.
func TestQueueLetsNeighboursIn(t *testing.T) {
	var q queue
	q.enter(Read, false)
	a, b, writer, c := waitIn(&q, Read), waitIn(&q, Read), waitIn(&q, Write), waitIn(&q, Read)
	if joined := q.letIn(holdOf(7)); joined != 2 {
		t.Errorf("%d readers were let in, want 2", joined)
	}
	wantServed(t, "a reader", a, 7)
	wantServed(t, "its neighbour", b, 7)
	wantWaiting(t, "the writer, before advance", writer)
	q.advance(true, holdOf(7))
	wantServed(t, "the writer", writer, 0)
	wantWaiting(t, "the reader behind the writer", c)
}

// Readers join an open share, and ask when it is not open.
func TestQueueJoins(t *testing.T) {
	var q queue
	if v := q.admit(Read, true); v != mayJoin || q.state != free {
		t.Errorf("a reader may %v, and the state is %v", v, q.state)
	}
	if v := q.admit(Read, false); v != mayAsk || q.state != asking {
		t.Errorf("a reader may %v, and the state is %v", v, q.state)
	}
	readers := []*claim{waitIn(&q, Read), waitIn(&q, Read)}
	q.leave()
	if joined := q.advance(true, holdOf(7)); joined != 2 {
		t.Errorf("%d joined, want 2", joined)
	}
	for _, c := range readers {
		wantServed(t, "a reader", c, 7)
	}
}

// A reader that only tries waits until the answer of the reader that asks, or
// the end of a release, is known.
func TestQueueTellsWhenAnAnswerIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		begin, end func(q *queue)
	}{
		"refused":                              {func(q *queue) { q.enter(Read, false) }, (*queue).refuse},
		"given up":                             {func(q *queue) { q.enter(Read, false) }, (*queue).leave},
		"granted":                              {func(q *queue) { q.enter(Read, false) }, func(q *queue) { q.letIn(holdOf(7)) }},
		"freed":                                {func(q *queue) { q.free() }, (*queue).leave},
		"freed, as refused says nothing of it": {func(q *queue) { q.free() }, func(q *queue) { q.refuse(); q.leave() }},
	} {
		t.Run(name, func(t *testing.T) {
			var q queue
			c.begin(&q)
			answer := q.underway(Read)
			select {
			case <-answer:
				t.Error("it is known before it came")
			default:
			}
			c.end(&q)
			select {
			case <-answer:
			default:
				t.Error("it is not told")
			}
			if q.underway(Read) != nil {
				t.Error("an answer is under way")
			}
		})
	}
	var q queue
	if q.enter(Write, false); q.underway(Read) != nil {
		t.Error("a reader waits for the answer of a writer")
	}
}

// Only the last reader frees the lock, and not while another goroutine asks.
func TestQueueFrees(t *testing.T) {
	var q queue
	if !q.free() || q.state != freeing || q.free() {
		t.Errorf("freeing: the state is %v", q.state)
	}
	if v := q.admit(Read, false); v != mustWait {
		t.Errorf("a reader may %v while the lock is freed", v)
	}
}

func TestQueueWithdraws(t *testing.T) {
	var q queue
	q.enter(Write, false)
	a, b, c := waitIn(&q, Write), waitIn(&q, Write), waitIn(&q, Write)
	if _, served := q.withdraw(b, placeOf(&q, b)); served {
		t.Error("a claim that waits was served")
	}
	q.pass(holdOf(7))
	if h, served := q.withdraw(a, placeOf(&q, a)); !served || numberOf(h) != 7 {
		t.Errorf("withdrawn after it was served: %d, %v", numberOf(h), served)
	}
	q.pass(holdOf(8))
	wantServed(t, "the last", c, 8)
	wantWaiting(t, "one that was withdrawn", b)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, served := waitIn(&q, Write).await(ended); served {
		t.Error("a claim was served when its context had ended")
	}
}

// A queueModel is what a queue should do, said with slices.
type queueModel struct {
	turn    *claim // of the goroutine that has the turn; nil: none has
	waiting []*claim
	served  map[*claim]int // what each should have got that left waiting
}

// serve lets the model's goroutines in while they need not wait.
func (m *queueModel) serve(open bool, share int) {
	for len(m.waiting) > 0 && m.turn == nil {
		c := m.waiting[0]
		m.waiting = m.waiting[1:]
		if c.mode == Read && open {
			m.served[c] = share
		} else {
			m.served[c] = 0
			m.turn = c
		}
	}
}

// TestQueueModel drives a queue at random, and holds each step against the
// model.
func TestQueueModel(t *testing.T) {
	const runs, steps = 300, 1000
	for seed := range uint64(runs) {
		random := rand.New(rand.NewPCG(seed, 0))
		var q queue
		m := &queueModel{served: make(map[*claim]int)}
		for step := range steps {
			if !driveQueue(random, &q, m, step+1) || !sameQueue(t, &q, m) {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
	}
}

// verdict returns what a goroutine may do that comes now.
func (m *queueModel) verdict(mode Mode, open bool) verdict {
	switch {
	case m.turn != nil || len(m.waiting) > 0:
		return mustWait
	case mode == Read && open:
		return mayJoin
	default:
		return mayAsk
	}
}

// driveQueue does one random thing to q and m. share is a hold that was not
// passed before. It returns false if q lets a goroutine do what m does not.
func driveQueue(random *rand.Rand, q *queue, m *queueModel, share int) bool {
	mode := Mode(random.IntN(2))
	open := random.IntN(2) == 0
	switch action := random.IntN(6); {
	case action < 2: // a goroutine comes
		want := m.verdict(mode, open)
		if q.admit(mode, open) != want {
			return false
		}
		switch want {
		case mustWait:
			m.waiting = append(m.waiting, waitIn(q, mode))
		case mayAsk:
			m.turn = &claim{mode: mode}
		}
	case action == 2 && len(m.waiting) > 0: // a goroutine goes
		i := random.IntN(len(m.waiting))
		q.withdraw(m.waiting[i], placeOf(q, m.waiting[i]))
		m.waiting = slices.Delete(m.waiting, i, i+1)
		q.advance(open, holdOf(share))
		m.serve(open, share)
	case action == 3 && m.turn != nil: // the turn ends
		q.leave()
		m.turn = nil
		q.advance(open, holdOf(share))
		m.serve(open, share)
	case action == 4 && m.turn != nil && m.turn.mode == Read && q.state != freeing: // a reader is let in
		q.letIn(holdOf(share))
		for m.turn = nil; len(m.waiting) > 0 && m.waiting[0].mode == Read; m.waiting = m.waiting[1:] {
			m.served[m.waiting[0]] = share
		}
		q.advance(open, holdOf(share))
		m.serve(open, share)
	case action == 5 && m.turn != nil && m.turn.mode == Write && q.writerIsNext(): // a hand-off
		q.pass(holdOf(share))
		m.turn = m.waiting[0]
		m.served[m.turn] = share
		m.waiting = m.waiting[1:]
	case action == 5 && m.turn != nil:
		q.refuse()
	case action == 5 && q.free():
		m.turn = &claim{mode: Read}
	}
	return true
}

// sameQueue reports whether q is as m has it.
func sameQueue(t *testing.T, q *queue, m *queueModel) bool {
	t.Helper()
	if (q.state == free) != (m.turn == nil) {
		t.Errorf("the state is %v, and in the model %v has the turn", q.state, m.turn)
		return false
	}
	if q.waiting.Len() != len(m.waiting) {
		t.Errorf("%d wait, want %d", q.waiting.Len(), len(m.waiting))
		return false
	}
	for c, want := range m.served {
		if h, served := got(c); !served || h != want {
			t.Errorf("a goroutine got %d, %v; want %d", h, served, want)
			return false
		}
		delete(m.served, c)
	}
	for e, i := q.waiting.Front(), 0; e != nil; e, i = e.Next(), i+1 {
		if _, served := got(m.waiting[i]); e.Value != m.waiting[i] || served {
			t.Errorf("the goroutine at %d was served, or is another's place", i)
			return false
		}
	}
	return true
}
