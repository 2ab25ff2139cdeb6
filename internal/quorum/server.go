package quorum

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
	"github.com/warlock-go/warlock/internal/wait"
)

// A server is one of a quorum.
//
// A server that is down or frozen must not slow the others down. After a failure it is
// left alone for a pause. While some requests to it are late, and it answers no other, it
// gets no more.
type server struct {
	number int
	client redis.UniversalClient
	own    *protocol.Lock // for requests that are of no lock
	box    *wait.Mailbox

	learning chan struct{} // a goroutine that learns what the server remembers has sent to it

	mu       sync.Mutex // guards the following
	said     protocol.Recollection
	knows    bool      // the server has said what it remembers
	learned  time.Time // when it did so
	mayVote  time.Time // until then it is in quarantine
	pause    time.Duration
	rests    time.Time // until then it is left alone, for failure
	failure  error
	underway list.List // of each request, its lateness
	heard    time.Time // when it last answered a request
	debts    []debt    // locks that it is to get back, the oldest first
	paying   bool      // a goroutine pays the debts
}

// Pauses after failures double from firstPause to lastPause.
const (
	firstPause = time.Millisecond
	lastPause  = 128 * time.Millisecond
	mostLate   = 4
	silence    = 100 * time.Millisecond // of a server that is late
)

func newServer(number int, client redis.UniversalClient, mailbox string) *server {
	own, err := protocol.Over(send.Direct(client), protocol.MemoryKey)
	if err != nil {
		panic(err) // the key is a constant
	}
	return &server{
		number: number, client: client, own: own, learning: make(chan struct{}, 1),
		box: wait.Named(client, mailbox, releaseAt),
	}
}

// releaseAt returns the release of an ID on one server, which hands the lock off to nobody.
func releaseAt(at *protocol.Lock, id string) *protocol.Release {
	return protocol.NewReleaseBy(func(ctx context.Context) error {
		return at.Concede(ctx, protocol.Concession{Request: protocol.Request{ID: id}})
	})
}

// String names the server in errors.
func (s *server) String() string {
	if c, ok := s.client.(*redis.Client); ok {
		return fmt.Sprintf("server %d (%s)", s.number+1, c.Options().Addr)
	}
	return fmt.Sprintf("server %d", s.number+1)
}

// A local error is not of a request: none was made.
type local string

func (e local) Error() string { return string(e) }

const errLate = local("it has not answered for a while")

// isLocal reports whether err says that no request was made.
func isLocal(err error) bool {
	quarantined := errors.As(err, new(*quarantine))
	return quarantined || errors.As(err, new(local)) || errors.As(err, new(resting))
}

// A resting error says why a server is left alone.
type resting struct{ error }

// absent returns why the server is not to be asked now, or nil.
func (s *server) absent() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch now := time.Now(); {
	case s.isLateLocked(now):
		return errLate
	case now.Before(s.rests):
		return resting{s.failure}
	}
	return nil
}

// answered notes how a request ended. A context that ended says nothing of the server.
func (s *server) answered(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := !send.Lost(err) || errors.Is(err, protocol.ErrNotHeld) || protocol.Permanent(err)
	if known || errors.Is(err, context.Canceled) {
		s.pause, s.failure, s.heard = 0, nil, time.Now()
		s.rests = time.Time{}
		return
	}
	s.pause = min(max(2*s.pause, firstPause), lastPause)
	s.rests, s.failure = time.Now().Add(s.pause), err
}

// A lateness is a request that is under way. The server is late with it from due on.
type lateness struct{ due time.Time }

// begin notes a request that begins. The caller ends it.
func (s *server) begin(within time.Duration) *list.Element {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.underway.PushBack(lateness{time.Now().Add(within)})
}

// end notes the end of a request.
func (s *server) end(e *list.Element) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.underway.Remove(e)
}

// isLateLocked reports whether the server is late with its oldest requests.
func (s *server) isLateLocked(now time.Time) bool {
	if s.underway.Len() < mostLate || now.Sub(s.heard) <= silence {
		return false
	}
	e := s.underway.Front()
	for range mostLate {
		if now.Before(e.Value.(lateness).due) {
			return false
		}
		e = e.Next()
	}
	return true
}

// do makes a request, unless the server is to be left alone. It may outlast a bound:
// then the server counts as late until the request has ended.
func (s *server) do(
	ctx context.Context, within time.Duration, op func(context.Context) error,
) error {
	if err := s.absent(); err != nil {
		return err
	}
	request := s.begin(within)
	err := error(send.ErrExited)
	defer func() { // also if a hook of the client ends the goroutine
		s.end(request)
		if !isLocal(err) {
			s.answered(err)
		}
	}()
	err = op(ctx)
	return err
}
