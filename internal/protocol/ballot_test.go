package protocol_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// newBallot returns a ballot of id with that token. It queues at place if round is not 0.
func newBallot(id string, token int64, round, place int64) protocol.Ballot {
	return protocol.Ballot{Token: token, Request: protocol.Request{
		ID: id, TTL: time.Minute, Round: round, Place: place,
	}}
}

// vote asks l for its vote.
func vote(t *testing.T, l *protocol.Lock, b protocol.Ballot) protocol.Vote {
	t.Helper()
	v, err := l.Vote(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// concede gives back what the ballot was granted, and reports whether it had the lock.
func concede(t *testing.T, l *protocol.Lock, b protocol.Ballot, fence int64) bool {
	t.Helper()
	err := l.Concede(t.Context(), protocol.Concession{
		Request: b.Request, Only: b.Token + b.Reserve, Fence: fence,
	})
	if err != nil && !errors.Is(err, protocol.ErrNotHeld) {
		t.Fatal(err)
	}
	return err == nil
}

// A server grants no token that is not above the last one, nor, where it has none, one
// that is behind its clock by more than a minute.
func TestPromiseBallotsRise(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l, now := newLock(t, s.Admin), time.Now().UnixMicro()
		if v := vote(t, l, newBallot("a:1", now-70e6, 0, 0)); !v.Low || v.Refused() {
			t.Errorf("the vote for a token of the past is %+v", v)
		}
		first := newBallot("a:1", now, 0, 0)
		first.Reserve = 10
		if v := vote(t, l, first); !v.Granted || v.Before != 0 {
			t.Fatalf("the vote is %+v", v)
		}
		if !concede(t, l, protocol.Ballot{Request: protocol.Request{ID: "a:1", TTL: time.Minute}}, 0) {
			t.Fatal("the ID did not have the lock")
		}
		if v := vote(t, l, newBallot("b:1", now+10, 0, 0)); !v.Low || v.Floor != now+10 {
			t.Errorf("the vote for the last token is %+v", v)
		}
		if v := vote(t, l, newBallot("b:1", now+11, 0, 0)); !v.Granted || v.Before != now+10 {
			t.Errorf("the vote for a higher token is %+v", v)
		}
		if v := vote(t, l, newBallot("b:1", now+12, 0, 0)); !v.Granted {
			t.Errorf("the vote for the holder is %+v", v)
		}
	})
}

// A concession takes back only the grant that it names, and the fence with it.
func TestConcessionOfAnEarlierGrant(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l, now := newLock(t, s.Admin), time.Now().UnixMicro()
		first, second := newBallot("a:1", now, 0, 0), newBallot("a:1", now+5, 0, 0)
		vote(t, l, first)
		v := vote(t, l, second)
		if concede(t, l, first, protocol.NoFence) {
			t.Error("a late concession took a later grant back")
		}
		if !concede(t, l, second, v.Before) {
			t.Error("the concession took nothing back")
		}
		if v := vote(t, l, newBallot("b:1", now+1, 0, 0)); !v.Granted {
			t.Errorf("the fence stayed: %+v", v)
		}
	})
}

// A server serves the waiters in the order of their places, whenever they asked.
func TestPromiseBallotsAreInTheOrderOfTheirPlaces(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		l, now := newLock(t, s.Admin), time.Now().UnixMicro()
		holder := newBallot("a:1", now, 0, 0)
		vote(t, l, holder)
		late, early := newBallot("b:1", now+1, 1, now+20), newBallot("c:1", now+2, 1, now+10)
		for _, b := range []protocol.Ballot{late, early} {
			if v := vote(t, l, b); !v.Refused() || v.Holder != "a:1" || v.Place != b.Place {
				t.Fatalf("the vote for a waiter is %+v", v)
			}
		}
		concede(t, l, holder, 0)
		if v := vote(t, l, late); v.Granted || v.Holder != "c:1" {
			t.Errorf("the vote for the second waiter is %+v", v)
		}
		if v := vote(t, l, newBallot("d:1", now+3, 0, 0)); v.Granted {
			t.Error("a try passed the waiters")
		}
		if v := vote(t, l, early); !v.Granted {
			t.Errorf("the vote for the first waiter is %+v", v)
		}
	})
}

// A release hands the lock off with the token that it proposes, or else tells the first waiter
// to ask.
func TestPromiseHandOffsAreVotes(t *testing.T) {
	now := time.Now().UnixMicro()
	none := protocol.Memory{}
	queues := func(b *protocol.Ballot) { b.Round, b.Place, b.AskSubscribed = 3, now+1, true }
	reads := func(b *protocol.Ballot) { queues(b); b.Mode = protocol.Read }
	silent := func(b *protocol.Ballot) { queues(b); b.AskSubscribed = false }
	for name, c := range map[string]struct {
		asks   func(b *protocol.Ballot)
		next   int64
		memory protocol.Memory
		tells  string // the round and the token
	}{
		"writer":            {queues, now + 100, none, "3 token"},
		"low token":         {queues, now, none, "0 0"},
		"none":              {queues, 0, none, "0 0"},
		"other memory":      {queues, now + 100, protocol.Memory{From: 1, TTL: time.Second}, "0 0"},
		"reader":            {reads, now + 100, none, "0 0"},
		"not known to hear": {silent, now + 100, none, "0 0"},
	} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, s *redistest.Server) {
				l := newLock(t, s.Admin)
				box := s.Admin.Subscribe(t.Context(), protocol.Channel("b"))
				defer box.Close()
				if _, err := box.Receive(t.Context()); err != nil {
					t.Fatal(err)
				}
				vote(t, l, newBallot("a:1", now, 0, 0))
				waiter := newBallot("b:1", now+50, 0, 0)
				waiter.Reserve = 7
				c.asks(&waiter)
				vote(t, l, waiter)
				err := l.Concede(t.Context(), protocol.Concession{
					Request: protocol.Request{ID: "a:1", TTL: time.Minute}, Next: c.next, Memory: c.memory,
				})
				if err != nil {
					t.Fatal(err)
				}
				message, err := box.ReceiveMessage(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				want := "b:1 " + strings.Replace(c.tells, "token", fmt.Sprint(c.next), 1) + " " + l.Key()
				if message.Payload != want {
					t.Errorf("the waiter is told %q, want %q", message.Payload, want)
				}
				handed := c.tells == "3 token"
				if got := s.Get(l.Key()); (got == "b:1") != handed {
					t.Errorf("the holder is %q", got)
				}
				late := newBallot("d:1", c.next+7, 0, 0)
				if v := vote(t, l, late); handed && (v.Granted || v.Holder != "b:1") {
					t.Errorf("the vote for another is %+v", v)
				}
				if handed {
					votesAbove(t, l, c.next)
				}
			})
		})
	}
}

// votesAbove fails the test if l, which was handed off to b:1 with token next, and 7 more in
// reserve, is granted with a token that is not above those.
func votesAbove(t *testing.T, l *protocol.Lock, next int64) {
	t.Helper()
	for _, reserve := range []int64{0, 8, 4096} { // more than it was handed off with
		below := newBallot("b:1", next-1, 4, next)
		below.Reserve = reserve
		if v := vote(t, l, below); !v.Low || v.Floor != next+7 {
			t.Errorf("the vote for a token below that of the hand-off is %+v", v)
		}
	}
	concede(t, l, protocol.Ballot{Request: protocol.Request{ID: "b:1", TTL: time.Minute}}, 0)
	if v := vote(t, l, newBallot("d:1", next+7, 0, 0)); !v.Low || v.Floor != next+7 {
		t.Errorf("the vote for a token that was handed off is %+v", v)
	}
}

// A vote checks what the server remembers, and of which run that is.
func TestPromiseNoVoteOfAServerThatForgot(t *testing.T) {
	s := redistest.Start(t)
	l, b := newLock(t, s.Admin), newBallot("a:1", time.Now().UnixMicro(), 0, 0)
	said, err := l.Recollect(t.Context(), "m")
	if err != nil || said.Memory != (protocol.Memory{}) || said.Run != s.Info("run_id") {
		t.Fatalf("a new server says %+v, %v", said, err)
	}
	b.Memory = protocol.Memory{Run: said.Run, From: 1, TTL: time.Minute}
	if v := vote(t, l, b); !v.Forgotten || v.Refused() {
		t.Errorf("the vote without a memory is %+v", v)
	}
	if said, err = l.Remember(t.Context(), "m", said, b.Memory); err != nil || said.Memory != b.Memory {
		t.Fatalf("the server says %+v, %v", said, err)
	}
	if v := vote(t, l, b); !v.Granted {
		t.Errorf("the vote with the memory is %+v", v)
	}
	s.Do("SET", protocol.MemoryKey, "0123456789abcdef 1 60000") // as after a restart from a copy
	b.Memory.Run = "0123456789abcdef"
	if v := vote(t, l, b); !v.Forgotten {
		t.Errorf("the vote with the memory of another run is %+v", v)
	}
}
