package quorum

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A server that has forgotten locks votes again when the longest lease is over that any of
// a majority of others knows of. Nobody votes for it before so many have answered.
func TestMemoryAfterLoss(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	says := func(ttl time.Duration) finding {
		return finding{said: protocol.Recollection{
			Now: now, Memory: protocol.Memory{Run: "a", From: 1, TTL: ttl},
		}}
	}
	lost := finding{said: protocol.Recollection{Now: now, Run: "b", Up: time.Hour}}
	away := finding{err: errBound}
	q := newVoters(t, 3)
	for name, c := range map[string]struct {
		found []finding
		isNew bool
		want  time.Duration // after now; negative: since ever
		err   error
	}{
		"both others answer": {[]finding{lost, says(time.Second), says(time.Minute)}, false, time.Minute, nil},
		"its own ttl is longest": {[]finding{lost, says(time.Second), says(time.Second)}, false,
			10 * time.Second, nil},
		"one other is away":        {[]finding{lost, says(time.Second), away}, false, 0, errTooFew},
		"new, up for an hour":      {[]finding{lost, lost, lost}, true, 11*time.Second - time.Hour, nil},
		"new, one other is away":   {[]finding{lost, lost, away}, true, 11*time.Second - time.Hour, nil},
		"new, both others away":    {[]finding{lost, away, away}, true, 0, errTooFew},
		"all lost, and known here": {[]finding{lost, lost, lost}, false, 10 * time.Second, nil},
	} {
		m, err := q.renewed(q.servers[0], c.found, c.isNew, 10*time.Second)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", name, err, c.err)
			continue
		}
		if got := time.UnixMilli(m.From).Sub(now); err == nil && got != c.want {
			t.Errorf("%s: it votes after %v, want %v", name, got, c.want)
		}
	}
}

// A server that answers late while a quorum is founded is not taken for one that has forgotten,
// however short the ttl is.
func TestLateAtTheFounding(t *testing.T) {
	_, clients := startMinis(t)
	clients[2].(*redis.Client).AddHook(redistest.Before(func(redis.Cmder) {
		<-time.After(50 * time.Millisecond) // far longer than the two others take
	}))
	q := newQuorum(clients, false)
	for _, s := range q.servers {
		if _, err := q.eligible(t.Context(), s, 100*time.Millisecond); err != nil {
			t.Errorf("%v may not vote: %v", s, err)
		}
	}
}

// A server whose clock was set back is in quarantine for the longest ttl, and not for longer.
func TestQuarantineOfAClockThatWasSetBack(t *testing.T) {
	servers, clients := startMinis(t)
	memory := fmt.Sprintf(" %d %d", time.Now().Add(time.Hour).UnixMilli(), 10_000)
	for _, server := range servers {
		if err := server.Set(protocol.MemoryKey, memory); err != nil {
			t.Fatal(err)
		}
	}
	q := newQuorum(clients, false)
	_, err := q.eligible(t.Context(), q.servers[0], time.Second)
	var quarantined *quarantine
	if !errors.As(err, &quarantined) || quarantined.left > 10*time.Second {
		t.Errorf("the server is not asked: %v", err)
	}
}
