package warlock_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/auth"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A gate is what a user gave a client to call. It minds no context.
type gate struct {
	shut   atomic.Bool
	passed <-chan struct{} // closed when the test ends
}

// pass returns at once while the gate is open, and when the test ends.
func (g *gate) pass() {
	if g.shut.Load() {
		<-g.passed
	}
}

// Allow and ReportResult make it a redis.Limiter.
func (g *gate) Allow() error       { g.pass(); return nil }
func (g *gate) ReportResult(error) {}

// Subscribe makes it an auth.StreamingCredentialsProvider.
func (g *gate) Subscribe(auth.CredentialsListener) (auth.Credentials, auth.UnsubscribeFunc, error) {
	g.pass()
	return auth.NewBasicCredentials("default", ""), func() error { return nil }, nil
}

// Unlock returns by the lease's deadline, whatever the client has to call before it
// has a connection. ContextTimeoutEnabled does not bound these calls.
func TestUnlockDoesNotWaitForWhatTheClientCalls(t *testing.T) {
	const ttl = time.Second
	for call, set := range map[string]func(o *redis.Options, g *gate){
		"CredentialsProvider": func(o *redis.Options, g *gate) {
			o.CredentialsProvider = func() (string, string) { g.pass(); return "default", "" }
		},
		"CredentialsProviderContext": func(o *redis.Options, g *gate) {
			o.CredentialsProviderContext = func(context.Context) (string, string, error) { g.pass(); return "default", "", nil }
		},
		"StreamingCredentialsProvider": func(o *redis.Options, g *gate) { o.StreamingCredentialsProvider = g },
		"OnConnect": func(o *redis.Options, g *gate) {
			o.OnConnect = func(context.Context, *redis.Conn) error { g.pass(); return nil }
		},
		"Limiter": func(o *redis.Options, g *gate) { o.Limiter = g },
	} {
		for name, newFace := range faces {
			t.Run(call+"/"+name, func(t *testing.T) {
				t.Parallel() // it mostly waits
				s := redistest.Start(t)
				ends := make(chan struct{})
				g := &gate{passed: ends}
				client := s.Client(func(o *redis.Options) {
					o.ContextTimeoutEnabled = true
					set(o, g)
				})
				t.Cleanup(func() { close(ends) }) // before the client is closed
				f := newFace(client, ttl, warlock.WithoutRenewal())
				lockFace(t, f)
				g.shut.Store(true)
				breakConnections(s)
				took := stopwatch(t)
				err := wait(t, result(func() error { return f.UnlockContext(context.Background()) }), "Unlock returns")
				if d := took(); err == nil || d > ttl+200*time.Millisecond {
					t.Errorf("Unlock returned after %v of a ttl of %v: %v", d, ttl, err)
				}
				if f.Lease() != nil {
					t.Error("there is still a lease")
				}
			})
		}
	}
}
