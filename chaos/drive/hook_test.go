package drive

import (
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/judge"
)

var lockKeys = []string{"a"}

// The hook knows which op sent a request. It does not know that of requests
// that are sent together, as their context belongs to one of them.
func TestHookKnowsTheOp(t *testing.T) {
	var reported []*judge.Request
	h := NewHook(0, 0, lockKeys, func() judge.Instant { return 1 }, func(q *judge.Request) {
		reported = append(reported, q)
	})
	words := []any{
		"evalsha", "hash", scriptKeys, lockKeys[0], "", "", "", "", "", "id", int64(1000), 1000, 1,
	}
	ctx := context.WithValue(t.Context(), OpNumber{}, 7)

	one := h.ProcessHook(func(context.Context, redis.Cmder) error { return nil })
	if err := one(ctx, redis.NewCmd(ctx, words...)); err != nil {
		t.Fatal(err)
	}
	many := h.ProcessPipelineHook(func(context.Context, []redis.Cmder) error { return nil })
	if err := many(ctx, []redis.Cmder{redis.NewCmd(ctx, words...)}); err != nil {
		t.Fatal(err)
	}
	if len(reported) != 2 || reported[0].Script != judge.Renew ||
		reported[0].Op != 7 || reported[0].TTL != time.Second || reported[1].Op != 0 {
		t.Errorf("reported %+v, want a renewal by op 7 and a request of an unknown op", reported)
	}
}

// A script that serves several locks is as many requests. The hook leaves out the
// requests that the script has not served: they are sent again.
func TestHookKnowsTheRequestsOfAScript(t *testing.T) {
	var reported []*judge.Request
	report := func(q *judge.Request) { reported = append(reported, q) }
	h := NewHook(0, 0, []string{"a", "b", "c"}, func() judge.Instant { return 1 }, report)
	words := []any{
		"evalsha", "hash", 4 * jointKeys,
		"a", "", "", "b", "", "", "c", "", "", "of no judge", "", "",
		"acquire", "id:1", int64(1000), int64(2000), int64(0),
		"renew", "id:2", int64(3000), 1000, 1,
		"release", "id:3", 1000, 0, "",
		"acquire", "id:4", int64(1000), int64(2000), int64(0),
	}
	answer := []any{int64(77), int64(0), int64(1), int64(78)}
	many := h.ProcessPipelineHook(func(_ context.Context, cmds []redis.Cmder) error {
		cmds[0].(*redis.Cmd).SetVal(answer)
		return nil
	})
	if err := many(t.Context(), []redis.Cmder{redis.NewCmd(t.Context(), words...)}); err != nil {
		t.Fatal(err)
	}
	if len(reported) != 2 || h.LastID(0) != "id:1" {
		t.Fatalf("reported %+v, the last ID is %q", reported, h.LastID(0))
	}
	for i, want := range []judge.Request{
		{Key: 0, ID: "id:1", Script: judge.Acquire, TTL: time.Second, Answer: judge.Yes, Sent: 1, Replied: 1},
		{Key: 2, ID: "id:3", Script: judge.Release, Answer: judge.Yes, Sent: 1, Replied: 1},
	} {
		if *reported[i] != want {
			t.Errorf("reported %+v, want %+v", *reported[i], want)
		}
	}
	reported = nil
	lost := h.ProcessPipelineHook(lose)
	_ = lost(t.Context(), []redis.Cmder{redis.NewCmd(t.Context(), words...)})
	if len(reported) != 3 || !reported[1].Stray || reported[1].Answer != judge.Unknown {
		t.Errorf("reported of a script that was lost: %+v", reported)
	}
}

// lose gets no answer to commands.
func lose(_ context.Context, cmds []redis.Cmder) error {
	for _, cmd := range cmds {
		cmd.SetErr(io.ErrUnexpectedEOF)
	}
	return io.ErrUnexpectedEOF
}

// The scripts of a quorum have one key more. A vote is an acquisition. A vote that is
// given back is a release, unless its ID goes on waiting.
func TestHookKnowsTheRequestsOfAQuorum(t *testing.T) {
	var reported []*judge.Request
	h := NewHook(0, 0, lockKeys, func() judge.Instant { return 1 }, func(q *judge.Request) {
		reported = append(reported, q)
	})
	h.Server = 2
	var answer any
	hook := h.ProcessHook(func(_ context.Context, cmd redis.Cmder) error {
		cmd.(*redis.Cmd).SetVal(answer)
		return nil
	})
	words := []any{"evalsha", "hash", quorumKeys, lockKeys[0], "", "", "", "", "", "memory"}
	first := []any{"box:7", int64(1000), int64(2000), int64(0), int64(3), int64(99), 1, "w"}
	vote := slices.Concat(words, first, []any{int64(5), "", ""})
	gives := slices.Concat(words, first, []any{int64(0), int64(0), int64(0), "", ""})
	ends := slices.Clone(gives)
	ends[firstKey+quorumKeys+roundArg] = int64(0)
	for _, test := range []struct {
		words  []any
		answer any
		want   []judge.Request
	}{
		{vote, int64(0), []judge.Request{{
			Script: judge.Acquire, TTL: time.Second, Answer: judge.Yes, Queues: true, Listens: true,
		}}},
		{vote, make([]any, 6), []judge.Request{{
			Script: judge.Acquire, TTL: time.Second, Answer: judge.No, Queues: true, Listens: true,
		}}},
		{vote, make([]any, 1), []judge.Request{{
			Script: judge.Acquire, TTL: time.Second, Answer: judge.Unknown, Queues: true, Listens: true,
		}}},
		{gives, int64(1), nil},
		{ends, int64(1), []judge.Request{{Script: judge.Release, Answer: judge.Yes}}},
	} {
		reported, answer = nil, test.answer
		if err := hook(t.Context(), redis.NewCmd(t.Context(), test.words...)); err != nil {
			t.Fatal(err)
		}
		var got []judge.Request
		for _, q := range reported {
			got = append(got, *q)
		}
		for i := range test.want {
			q := &test.want[i]
			q.ID, q.Server, q.Sent, q.Replied = "box:7", 2, 1, 1
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("reported %+v, want %+v", got, test.want)
		}
	}
}

// The last ID of a process with several servers is the one with the highest number.
func TestLastIDOf(t *testing.T) {
	var hooks []*Hook
	for _, id := range []string{"box:9/a", "box:10r/a", "", "box:2/a"} {
		hooks = append(hooks, &Hook{lastID: map[int]string{0: id}})
	}
	if got := LastIDOf(hooks, 0); got != "box:10r/a" {
		t.Errorf("the last ID is %q", got)
	}
	if got := LastIDOf(hooks, 1); got != "" {
		t.Errorf("the last ID of a key without one is %q", got)
	}
}

// The Hook knows the scripts as the library sends them, to one server and to a quorum.
func TestHookKnowsTheLibrary(t *testing.T) {
	var clients []redis.UniversalClient
	reported := make(chan *judge.Request, 64)
	for range 3 {
		client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
		t.Cleanup(func() { _ = client.Close() })
		client.AddHook(NewHook(0, 0, lockKeys, func() judge.Instant { return 1 },
			func(q *judge.Request) { reported <- q }))
		clients = append(clients, client)
	}
	for name, m := range map[string]*warlock.Mutex{
		"one server": warlock.NewMutex(clients[0], lockKeys[0], time.Second),
		"quorum":     warlock.NewQuorumMutex(clients, lockKeys[0], time.Second),
	} {
		m.Lock()
		id := m.Lease().ID()
		if err := m.Lease().Extend(t.Context(), 2*time.Second); err != nil {
			t.Fatal(err)
		}
		m.Unlock()
		seen := make(map[judge.Script]bool)
		for len(seen) < 3 {
			select {
			case q := <-reported:
				if q.ID == id && q.Answer == judge.Yes {
					seen[q.Script] = true
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: only %v were reported", name, seen)
			}
		}
	}
}
