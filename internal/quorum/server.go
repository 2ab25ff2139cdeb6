package quorum

import (
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
type server struct {
	number int
	client redis.UniversalClient
	own    *protocol.Lock // its memory
	box    *wait.Mailbox
	health health
	debts  debts

	learning chan struct{} // a goroutine that learns what the server remembers has sent to it

	mu      sync.Mutex // guards the following
	said    protocol.Recollection
	knows   bool      // the server has said what it remembers
	learned time.Time // when it did so
	mayVote time.Time // until then it is in quarantine
}

func newServer(number int, client redis.UniversalClient, mailbox string) *server {
	return &server{
		number: number, client: client, own: protocol.MemoryOf(send.Direct(client)),
		learning: make(chan struct{}, 1), box: wait.Named(client, mailbox, releaseAt),
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
func (s *server) absent() error { return s.health.absent(time.Now()) }

// An unanswered error is of a request that a server has not answered, or was not asked yet.
type unanswered string

func (e unanswered) Error() string { return string(e) }

// noAnswer returns the error of a server that has not answered, for that reason. If more is
// known of the server, it says that.
func (q *Quorum) noAnswer(s *server, reason error) error {
	switch err := s.absent(); {
	case err != nil:
		return unanswered(err.Error())
	case errors.Is(reason, errBound) && !s.remembers(0) && !q.persistent:
		return unanswered("it was not asked yet: what it remembers is not known")
	}
	return reason
}

// do makes a request, unless the server is to be left alone. It may outlast a bound:
// then the server counts as late until the request has ended.
func (s *server) do(
	ctx context.Context, within time.Duration, op func(context.Context) error,
) error {
	if err := s.absent(); err != nil {
		return err
	}
	end := s.health.begin(time.Now().Add(within))
	err := error(send.ErrExited)
	defer func() { end(err) }() // also if a hook of the client ends the goroutine
	err = op(ctx)
	return err
}
