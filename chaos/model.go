package main

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of one key: who holds it, and the last tokens. A history is right if its
// calls can be put in an order in which each takes effect between its call and its return, and
// each is possible when it does (linearizability: Herlihy and Wing, 1990).
//
// A lease may end by itself, and then only from a certain time on, so the states have a time
// as well: each call takes effect at the earliest at which it can, and no call before the one ahead
// of it. Somebody else is granted the lock only when those who hold it have unlocked, or may have
// ended.
//
// What is not known leaves both possible: a hold that its process was killed under, or that was
// unlocked with no answer, may end at any time from then on, or live until it runs out. That is one
// state, whose holder has an earliest end. A call that locks and was given no answer may have been
// granted and taken back at any time; there is no later call that this could make
// possible or impossible, so it stands for nothing.

// A held is a holder in a state.
type held struct {
	op   *op
	ends instant // it may end by itself from then on
}

type state struct {
	now           instant // nothing takes effect before
	token, writer int64   // the highest tokens: of all, and of a writer
	holds         []held
}

// A step is a call, and its effect.
type step struct {
	*op
	unlocks bool
	called  instant // of a call that locks: see history.called
	joined  bool    // it acquires nothing, see judgeTokens
	late    bool    // it joined a lease that servers had forgotten: others may hold
	ends    instant // of a call that locks: from when on its lease may end by itself
	lossy   bool    // of one that unlocks: the lease may have been forgotten before, unseen
}

var seed = maphash.MakeSeed()

var model = porcupine.Model{
	Init:  func() any { return &state{} },
	Step:  func(s, in, _ any) (bool, any) { return s.(*state).step(in.(*step)) },
	Equal: func(a, b any) bool { return a.(*state).equal(b.(*state)) },
	Hash: func(s any) uint64 {
		st := s.(*state)
		return maphash.Comparable(seed, [3]int64{int64(st.now), st.token, int64(len(st.holds))})
	},
	DescribeOperation: func(in, _ any) string { return in.(*step).String() },
	DescribeState:     func(s any) string { return s.(*state).String() },
}

// step returns the state after a call, if it is possible.
func (s *state) step(c *step) (bool, any) {
	if c.unlocks {
		return s.unlock(c)
	}
	next := &state{now: max(s.now, c.called), token: max(s.token, c.Token), writer: s.writer}
	for _, h := range s.holds {
		if c.late || c.Read && h.op.Read {
			next.holds = append(next.holds, h)
			continue
		}
		next.now = max(next.now, h.ends)
	}
	next.holds = append(next.holds, held{c.op, c.ends})
	rises := c.Token > s.token
	if c.Read { // another's may have a higher one, that did not yet return
		rises = c.Token > s.writer || c.joined
	} else {
		next.writer = max(s.writer, c.Token)
	}
	return next.now <= c.Granted && rises, next
}

func (s *state) unlock(c *step) (bool, any) {
	next := &state{now: max(s.now, c.Unlock), token: s.token, writer: s.writer}
	for _, h := range s.holds {
		if h.op != c.op {
			next.holds = append(next.holds, h)
		}
	}
	found := len(next.holds) < len(s.holds)
	return next.now <= c.Unlocked && (found || c.lossy), next
}

func (s *state) equal(o *state) bool {
	if s.now != o.now || s.token != o.token || s.writer != o.writer || len(s.holds) != len(o.holds) {
		return false
	}
	for _, h := range s.holds { // in any order
		if !slices.Contains(o.holds, h) {
			return false
		}
	}
	return true
}

func (o *op) String() string {
	mode := "writer"
	if o.Read {
		mode = "reader"
	}
	return mode + " " + strconv.Itoa(o.Process) + "/" + strconv.Itoa(o.N) + ", token " + strconv.FormatInt(o.Token, 10)
}

func (c *step) String() string {
	if c.unlocks {
		return "unlock: " + c.op.String()
	}
	return "lock: " + c.op.String()
}

func (s *state) String() string {
	var names []string
	for _, h := range s.holds {
		names = append(names, h.op.String())
	}
	return "held by [" + strings.Join(names, "; ") + "], last token " + strconv.FormatInt(s.token, 10)
}

// calls returns the history of a key as the model takes it.
func (h *history) calls(key, goroutines int) (calls []porcupine.Operation) {
	for _, o := range h.of(key) {
		client := o.Slot*goroutines + o.Goroutine
		forgotten := h.forgotten(o)
		lock := &step{op: o, called: h.called(o), joined: h.joined(o), ends: min(h.runsOut(o), forgotten)}
		lock.late = lock.joined && forgotten <= o.Granted
		if o.Unlock != 0 && !o.Released { // from then on it may have been carried out
			lock.ends = min(lock.ends, o.Unlock)
		}
		calls = append(calls, porcupine.Operation{ClientId: client, Input: lock, Call: int64(h.called(o)), Return: int64(o.Granted)})
		if o.Released {
			unlock := &step{op: o, unlocks: true, lossy: forgotten != never}
			calls = append(calls, porcupine.Operation{ClientId: client, Input: unlock, Call: int64(o.Unlock), Return: int64(o.Unlocked)})
		}
	}
	return calls
}

// linearizable looks for an order for the calls of a key.
func (h *history) linearizable(key, goroutines int, patience time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model, h.calls(key, goroutines), patience)
}

// draw writes porcupine's page of a key's history to a file.
func (h *history) draw(key, goroutines int, patience time.Duration, file string) error {
	_, info := porcupine.CheckOperationsVerbose(model, h.calls(key, goroutines), patience)
	info.AddAnnotations(h.annotations())
	return porcupine.VisualizePath(model, info, file)
}

// annotations are the faults, for the page.
func (h *history) annotations() (as []porcupine.Annotation) {
	for _, e := range h.Effects {
		as = append(as, porcupine.Annotation{
			Tag: "faults", Start: int64(e.Start), End: int64(e.End),
			Description: e.Fault, Details: fmt.Sprintf("workers %v, key %d", e.Slots, e.Key),
		})
	}
	return as
}
