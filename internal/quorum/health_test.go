package quorum

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
)

var errBroken = errors.New("the connection broke")

// A server that fails is left alone for a pause, which doubles until it answers.
func TestServerRestsAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health{}
		rests := func() bool { return errors.As(h.absent(time.Now()), new(resting)) }
		for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 128} {
			h.begin(time.Now())(errBroken)
			if time.Sleep(pause*time.Millisecond - 1); !rests() {
				t.Fatalf("it is asked before %d ms", pause)
			}
			if time.Sleep(time.Nanosecond); rests() {
				t.Fatalf("it is not asked after %d ms", pause)
			}
		}
		for _, known := range []error{nil, protocol.ErrNotHeld, protocol.Hopeless("no", "give up")} {
			h.begin(time.Now())(errBroken)
			h.begin(time.Now())(known)
			if h.absent(time.Now()) != nil || h.pause != 0 {
				t.Errorf("it is not asked after the answer %v", known)
			}
		}
	})
}

// A server that is late with its oldest requests, and answers no other, gets no more.
func TestServerThatIsFrozenGetsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health{}
		var ends []func(error)
		for range mostLate {
			ends = append(ends, h.begin(time.Now().Add(time.Millisecond)))
		}
		time.Sleep(silence + time.Millisecond)
		if !errors.Is(h.absent(time.Now()), errLate) {
			t.Fatal("it is asked")
		}
		ends[1](nil)
		if err := h.absent(time.Now()); err != nil {
			t.Errorf("it is not asked, though it has answered: %v", err)
		}
		if len(h.underway) != mostLate-1 {
			t.Errorf("%d requests are under way", len(h.underway))
		}
	})
}

// A caller that has gone, and an error of this process, say nothing of a server.
func TestWhatSaysNothingOfAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{context.Canceled, errLate, resting{errBroken}, &quarantine{}} {
			well, ill := &health{}, &health{}
			ill.begin(time.Now())(errBroken)
			well.begin(time.Now())(err)
			ill.begin(time.Now())(err)
			if well.absent(time.Now()) != nil || ill.absent(time.Now()) == nil {
				t.Errorf("after %v: %v and %v", err, well.absent(time.Now()), ill.absent(time.Now()))
			}
			late := &health{}
			for range mostLate + 1 {
				defer late.begin(time.Now())(nil)
			}
			end := late.begin(time.Now().Add(time.Hour))
			time.Sleep(silence + time.Millisecond)
			if end(err); late.absent(time.Now()) == nil {
				t.Errorf("after %v a frozen server is asked", err)
			}
		}
	})
}

// People hear of a server that has not voted for a second, each minute, and when it votes again.
func TestWhenPeopleHearOfAServer(t *testing.T) {
	h, now := &health{}, time.Now()
	for _, step := range []struct {
		after  time.Duration
		err    error
		report bool
	}{
		{0, errBroken, false}, {ailsFor - 1, errBroken, false}, {1, errBroken, true},
		{time.Second, errBroken, false}, {reportEvery - time.Second, errBroken, true},
		{time.Second, nil, true}, {time.Second, nil, false},
		{0, errBroken, false}, {ailsFor - 1, nil, false}, {ailsFor, errBroken, false},
	} {
		now = now.Add(step.after)
		if got := h.votes(now, step.err); got != step.report {
			t.Errorf("%v later, %v: report is %v", step.after, step.err, got)
		}
	}
}

// An error says of a server that has not answered what is known of it.
func TestErrorsOfSilentServers(t *testing.T) {
	q := newVoters(t, 3)
	q.persistent = false
	rests, knows, unknown := q.servers[0], q.servers[1], q.servers[2]
	rests.health.begin(time.Now())(errBroken)
	rests.health.rests = time.Now().Add(time.Hour)
	knows.knows, knows.learned = true, time.Now()
	for s, want := range map[*server]string{
		rests: errBroken.Error(), knows: errBound.Error(),
		unknown: "it was not asked yet: what it remembers is not known",
	} {
		if got := q.noAnswer(s, errBound); got.Error() != want || isLocal(got) {
			t.Errorf("%v: %v, want %q", s, got, want)
		}
	}
}
