package redistest

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Network is how the clients of a test reach their server. Good, Lossy and
// Deaf differ in what gets lost on the way.
type Network func(s *Server, change ...func(*redis.Options)) redis.UniversalClient

// Good returns a client of s that loses nothing.
func Good(s *Server, change ...func(*redis.Options)) redis.UniversalClient {
	return s.Client(change...)
}

// Lossy returns a client of s that loses one reply in 10 to the requests that
// run a script. The server carries each such request out, and the connection
// breaks before the answer. The client sends the request again at most once.
func Lossy(s *Server, change ...func(*redis.Options)) redis.UniversalClient {
	line := new(Line)
	line.Break(func(int) Fault {
		if rand.N(10) == 0 {
			return Cut
		}
		return None
	})
	soon := func(o *redis.Options) {
		o.MinRetryBackoff, o.MaxRetryBackoff, o.MaxRetries = time.Microsecond, time.Millisecond, 1
	}
	return line.Client(s, append([]func(*redis.Options){soon}, change...)...)
}

// Deaf returns a client of s that hears no message. The client believes that it
// is subscribed.
func Deaf(s *Server, change ...func(*redis.Options)) redis.UniversalClient {
	return deaf{s.Client(change...)}
}

type deaf struct{ redis.UniversalClient }

func (c deaf) Subscribe(ctx context.Context, _ ...string) *redis.PubSub {
	return c.UniversalClient.Subscribe(ctx, "elsewhere")
}
