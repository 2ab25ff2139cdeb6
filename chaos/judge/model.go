package judge

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of one key says which ops hold it, and the last tokens. A history
// is right if its calls can be put in a possible order (linearizability:
// Herlihy and Wing, 1990). In that order each call takes effect between its
// begin and its return, and each call is possible when it takes effect.
//
// A lease may end by itself, but only from a certain time on. So a state has a
// time as well. Each call takes effect at the earliest time at which it can,
// and no earlier than the call before it. An op is granted the lock only when
// the holders have unlocked, or their leases may have ended.
//
// Some outcomes are unknown, and the model allows each of them. A hold whose
// process was killed may end at any later time, or live until its lease runs
// out. So may a hold whose unlock got no answer. One state covers both: its
// holder has an earliest end. A call that locks without an answer may have been
// granted the lock and given it back at any time. The model leaves it out, as
// no later call becomes possible or impossible by it.

// A holder is an op that holds in a state.
type holder struct {
	op   *Op
	ends Instant // the lease may end by itself from then on
}

// A state is the state of one key.
type state struct {
	now           Instant // no call takes effect earlier
	token, writer int64   // the highest tokens: of all ops, and of writers
	holders       []holder
}

// A call is a locking or an unlocking call of an op.
type call struct {
	*Op
	unlocks bool
	called  Instant // of a locking call: see History.calledAt
	joined  bool    // of a locking call: it acquires nothing, see judgeTokens
	late    bool    // others may hold: see History.late and History.splitOff
	split   bool    // another server may have granted the same token: see History.splitOff
	ends    Instant // of a locking call: its lease may end by itself from then on
	lossy   bool    // of an unlocking call: servers may have lost the lease unnoticed
}

var seed = maphash.MakeSeed()

var model = porcupine.Model{
	Init:  func() any { return &state{} },
	Step:  func(s, in, _ any) (bool, any) { return s.(*state).step(in.(*call)) },
	Equal: func(a, b any) bool { return a.(*state).equal(b.(*state)) },
	Hash: func(s any) uint64 {
		st := s.(*state)
		return maphash.Comparable(seed, [3]int64{int64(st.now), st.token, int64(len(st.holders))})
	},
	DescribeOperation: func(in, _ any) string { return in.(*call).String() },
	DescribeState:     func(s any) string { return s.(*state).String() },
}

// step reports whether a call is possible in s, and returns the state after it.
func (s *state) step(c *call) (bool, any) {
	if c.unlocks {
		return s.unlock(c)
	}
	return s.lock(c)
}

func (s *state) lock(c *call) (bool, any) {
	now, rises := max(s.now, c.called), c.Token > s.token
	if c.Read { // another reader's call with a higher token may not have returned yet
		rises = c.Token > s.writer || c.joined
	}
	stays := func(h holder) bool { return c.late || c.Read && h.op.Read }
	for _, h := range s.holders {
		if !stays(h) {
			now = max(now, h.ends)
		}
	}
	if now > c.Granted || !rises && !c.late {
		return false, nil
	}
	next := &state{now: now, token: s.token, writer: s.writer}
	if !c.split {
		next.token = max(s.token, c.Token)
	}
	for _, h := range s.holders {
		if stays(h) {
			next.holders = append(next.holders, h)
		}
	}
	next.holders = append(next.holders, holder{c.Op, c.ends})
	if !c.Read && !c.split {
		next.writer = max(s.writer, c.Token)
	}
	return true, next
}

func (s *state) unlock(c *call) (bool, any) {
	next := &state{now: max(s.now, c.UnlockCalled), token: s.token, writer: s.writer}
	if next.now > c.Unlocked {
		return false, nil
	}
	for _, h := range s.holders {
		if h.op != c.Op {
			next.holders = append(next.holders, h)
		}
	}
	found := len(next.holders) < len(s.holders)
	return found || c.lossy, next
}

func (s *state) equal(o *state) bool {
	if s.now != o.now || s.token != o.token || s.writer != o.writer ||
		len(s.holders) != len(o.holders) {
		return false
	}
	for _, h := range s.holders { // in any order
		if !slices.Contains(o.holders, h) {
			return false
		}
	}
	return true
}

func (o *Op) String() string {
	mode := "writer"
	if o.Read {
		mode = "reader"
	}
	return mode + " " + strconv.Itoa(o.Process) + "/" + strconv.Itoa(o.Number) +
		", token " + strconv.FormatInt(o.Token, 10)
}

func (c *call) String() string {
	if c.unlocks {
		return "unlock: " + c.Op.String()
	}
	return "lock: " + c.Op.String()
}

func (s *state) String() string {
	var names []string
	for _, h := range s.holders {
		names = append(names, h.op.String())
	}
	return "held by [" + strings.Join(names, "; ") + "], last token " + strconv.FormatInt(s.token, 10)
}

// calls returns the calls of a key for porcupine. Each takes effect within some
// time: a locking call before its return, an unlocking call after its begin.
func (h *History) calls(key int, within time.Duration) (calls []porcupine.Operation) {
	for _, o := range h.grantsOf(key) {
		client := o.Slot*h.Goroutines + o.Goroutine
		forgotten := h.forgottenAt(o)
		lock := &call{
			Op: o, called: max(h.calledAt(o), o.Granted.Add(-within)),
			joined: h.joined(o), split: h.splitOff(o), ends: min(h.expiry(o), forgotten),
		}
		lock.late = lock.split || h.late(o)
		if o.UnlockCalled != 0 && !o.Released { // Redis may have carried it out at any later time
			lock.ends = min(lock.ends, o.UnlockCalled)
		}
		calls = append(calls, porcupine.Operation{
			ClientId: client, Input: lock, Call: int64(lock.called), Return: int64(o.Granted),
		})
		if o.Released {
			unlock := &call{Op: o, unlocks: true, lossy: forgotten != never}
			calls = append(calls, porcupine.Operation{
				ClientId: client, Input: unlock,
				Call: int64(o.UnlockCalled), Return: int64(min(o.Unlocked, o.UnlockCalled.Add(within))),
			})
		}
	}
	return calls
}

// The time within which calls take effect, for one look for an order after
// another. If there is an order in which they take effect soon, it is found in
// far fewer steps. If there is none, calls may take effect at any time.
var withins = []time.Duration{time.Millisecond, 30 * time.Millisecond, time.Second, anyTime}

// anyTime is longer than a run.
const anyTime = 1000 * time.Hour

// fewSteps is for how many steps porcupine looks for an order of one key's calls
// if they take effect soon, and manySteps if they do at any time. A limit in
// seconds would not hold in a bubble, where no time passes meanwhile.
const fewSteps, manySteps = 100_000, 2_000_000

// Undecided is the judge of a key for which porcupine found no answer in
// manySteps.
const Undecided = "undecided"

// judgeModel finds keys whose calls have no possible order.
func judgeModel(h *History) []Violation {
	f := &Findings{Judge: "model"}
	undecided := &Findings{Judge: Undecided}
	for key := range h.Keys {
		switch h.checkModel(key) {
		case porcupine.Ok:
		case porcupine.Unknown:
			undecided.Add(key, "porcupine found no answer in %d steps", manySteps)
		default:
			f.Add(key, "no order of the calls is possible: see the page")
		}
	}
	return slices.Concat(f.Violations, undecided.Violations)
}

// checkModel looks for a possible order of a key's calls.
func (h *History) checkModel(key int) porcupine.CheckResult {
	for _, within := range withins {
		steps := fewSteps
		if within == anyTime {
			steps = manySteps
		}
		switch {
		case porcupine.CheckOperations(limited(&steps), h.calls(key, within)):
			return porcupine.Ok
		case within == anyTime && steps > 0:
			return porcupine.Illegal
		}
	}
	return porcupine.Unknown
}

// limited returns the model for so many steps. No call is possible after them.
func limited(steps *int) porcupine.Model {
	m := model
	m.Step = func(s, in, out any) (bool, any) {
		if *steps--; *steps < 0 {
			return false, nil
		}
		return model.Step(s, in, out)
	}
	return m
}

// longestDrawing is for how long Draw looks for an order.
const longestDrawing = time.Minute

// Draw writes porcupine's page of a key to a file. It is for a history that
// Judge has judged.
func (h *History) Draw(key int, file string) error {
	_, info := porcupine.CheckOperationsVerbose(model, h.calls(key, anyTime), longestDrawing)
	info.AddAnnotations(h.annotations())
	return porcupine.VisualizePath(model, info, file)
}

// annotations returns the faults, for porcupine's page.
func (h *History) annotations() (as []porcupine.Annotation) {
	for _, f := range h.Faults {
		as = append(as, porcupine.Annotation{
			Tag: "faults", Start: int64(f.Start), End: int64(f.End), Description: f.Name,
			Details: fmt.Sprintf("workers %v, key %d", f.Slots, f.Key),
		})
	}
	return as
}
