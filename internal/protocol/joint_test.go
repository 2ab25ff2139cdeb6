package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/redistest"
	"github.com/warlock-go/warlock/internal/send"
)

// The IDs of the tests of joint requests.
const (
	self    = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:1"
	another = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:2"
	waiting = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:3"
	retains = "5f0c5b6e-8c3c-4f3e-9d6b-0d9d0e6f3b1a:4r"
)

// A jointLock is a lock in a state, before a request.
type jointLock struct {
	*redistest.Server
	*protocol.Lock
	t   *testing.T
	now time.Time // of the server, whose clock stands still
}

func (l jointLock) ask(id string, round int64, mode protocol.Mode) {
	l.t.Helper()
	r := protocol.Request{ID: id, TTL: ttl, Round: round, Mode: mode}
	if _, err := l.Acquire(l.t.Context(), r); err != nil {
		l.t.Fatal(err)
	}
}

func (l jointLock) companion(name string) string { return "warlock:{" + l.Key() + "}:" + name }

// lockStates are states of a lock.
var lockStates = map[string]func(l jointLock){
	"free": func(jointLock) {},
	"free, with a fence": func(l jointLock) {
		l.ask(self, 0, protocol.Write)
		_ = l.NewRelease(self, 0).Try(l.t.Context())
	},
	"free, with a fence ahead of the clock": func(l jointLock) {
		ahead := l.now.Add(time.Hour).UnixMicro()
		l.Do("SET", l.companion("fence"), ahead, "PX", 2*time.Hour.Milliseconds())
	},
	"free, with a fence that is no number": func(l jointLock) {
		l.Do("SET", l.companion("fence"), "none", "PX", 60000)
	},
	"free, and waited for": func(l jointLock) {
		l.ask(another, 0, protocol.Write)
		l.ask(waiting, 1, protocol.Write)
		l.Do("DEL", l.Key())
	},
	"held":               func(l jointLock) { l.ask(self, 0, protocol.Write) },
	"held by another":    func(l jointLock) { l.ask(another, 0, protocol.Write) },
	"held without fence": func(l jointLock) { l.Do("SET", l.Key(), self, "PX", 1000) },
	"held for ever":      func(l jointLock) { l.Do("SET", l.Key(), self) },
	"held for longer": func(l jointLock) {
		l.Do("SET", l.Key(), self, "PX", time.Hour.Milliseconds())
	},
	"held, with a fence that lives for long": func(l jointLock) {
		l.ask(self, 0, protocol.Write)
		l.Do("PEXPIRE", l.companion("fence"), time.Hour.Milliseconds())
	},
	"held as the readers": func(l jointLock) { l.Do("SET", l.Key(), "warlock:readers", "PX", 1000) },
	"held, and waited for": func(l jointLock) {
		l.ask(self, 0, protocol.Write)
		l.ask(waiting, 1, protocol.Write)
	},
	"read": func(l jointLock) { l.ask(self, 0, protocol.Read) },
	"read by another, and waited for": func(l jointLock) {
		l.ask(another, 0, protocol.Read)
		l.ask(waiting, 1, protocol.Write)
	},
	"retained": func(l jointLock) { l.ask(retains, 0, protocol.Write) },
	"retained, and waited for": func(l jointLock) {
		l.ask(retains, 0, protocol.Write)
		l.ask(waiting, 1, protocol.Write)
	},
	"retained, and in use": func(l jointLock) {
		l.ask(retains, 0, protocol.Write)
		if err := l.Busy(l.t.Context(), retains, ttl); err != nil {
			l.t.Error(err)
		}
	},
	"of another type": func(l jointLock) { l.Do("RPUSH", l.Key(), "x") },
	"with a fence of another type": func(l jointLock) {
		l.Do("RPUSH", l.companion("fence"), "x")
	},
	"with a queue of another type": func(l jointLock) {
		l.Do("SET", l.Key(), self, "PX", 1000)
		l.Do("RPUSH", l.companion("queue"), "x")
	},
}

// An outcome is what a request returned.
type outcome struct {
	grant   protocol.Grant
	waiting bool
	err     string
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// lockRequests are requests for a lock.
var lockRequests = map[string]func(ctx context.Context, l *protocol.Lock) outcome{
	"try": func(ctx context.Context, l *protocol.Lock) outcome {
		g, err := l.Acquire(ctx, protocol.Request{ID: self, TTL: ttl})
		return outcome{grant: g, err: text(err)}
	},
	"queue": func(ctx context.Context, l *protocol.Lock) outcome {
		g, err := l.Acquire(ctx, protocol.Request{ID: self, TTL: ttl, Round: 1})
		return outcome{grant: g, err: text(err)}
	},
	"reserve": func(ctx context.Context, l *protocol.Lock) outcome {
		g, err := l.Acquire(ctx, protocol.Request{ID: self, TTL: ttl, Reserve: 4096})
		return outcome{grant: g, err: text(err)}
	},
	"read": func(ctx context.Context, l *protocol.Lock) outcome {
		g, err := l.Acquire(ctx, protocol.Request{ID: self, TTL: ttl, Mode: protocol.Read})
		return outcome{grant: g, err: text(err)}
	},
	"renew": func(ctx context.Context, l *protocol.Lock) outcome {
		return renewLater(ctx, l, self, 0)
	},
	"renew, with a token": func(ctx context.Context, l *protocol.Lock) outcome {
		return renewLater(ctx, l, self, 77)
	},
	"renew what is retained": func(ctx context.Context, l *protocol.Lock) outcome {
		return renewLater(ctx, l, retains, 77)
	},
	"release what is retained": func(ctx context.Context, l *protocol.Lock) outcome {
		return outcome{err: text(l.NewSoleRelease(retains).Try(ctx))}
	},
	"release": func(ctx context.Context, l *protocol.Lock) outcome {
		return outcome{err: text(l.NewSoleRelease(self).Try(ctx))}
	},
	"release, with tokens": func(ctx context.Context, l *protocol.Lock) outcome {
		return outcome{err: text(l.NewRelease(self, 77).Try(ctx))}
	},
}

func renewLater(ctx context.Context, l *protocol.Lock, id string, token int64) outcome {
	done := make(chan outcome, 1)
	r := protocol.Renewal{ID: id, Token: token, TTL: ttl}
	l.RenewLater(ctx, r, func(waiting bool, err error) {
		done <- outcome{waiting: waiting, err: text(err)}
	})
	return <-done
}

// together calls each of fs, whose requests go to the server together.
func together(t *testing.T, fs ...func(ctx context.Context)) {
	t.Helper()
	ctx, gathering := send.Gather(t.Context(), len(fs))
	var all sync.WaitGroup
	for _, f := range fs {
		all.Go(func() {
			defer gathering.Leave()
			f(ctx)
		})
	}
	all.Wait()
}

func over(t *testing.T, s send.Sender, key string) *protocol.Lock {
	t.Helper()
	l, err := protocol.Over(s, key)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A request that goes together with those of other locks has the outcome that it
// has by itself, whatever the state of its lock, and so have its neighbours. It
// leaves the same data.
func TestJointRequestsAreAsRequestsAlone(t *testing.T) {
	s := redistest.StartWithClock(t)
	now := time.Now()
	s.StopClock(now)
	client := s.Client()
	direct, pipeline := send.Direct(client), send.NewPipeline(client)
	together(t, neighbour(t, over(t, pipeline, "a"), false), neighbour(t, over(t, pipeline, "b"), false))
	sent := countParcels(client)
	for state, prepare := range lockStates {
		for name, request := range lockRequests {
			t.Run(state+"/"+name, func(t *testing.T) {
				s.Do("FLUSHALL")
				alone, joint := over(t, direct, "invoice:1"), over(t, pipeline, "invoice:2")
				prepare(jointLock{s, alone, t, now})
				prepare(jointLock{s, over(t, direct, "invoice:2"), t, now})
				want := request(t.Context(), alone)
				renews := strings.HasPrefix(name, "renew")
				first := neighbour(t, over(t, pipeline, "invoice:0"), renews)
				last := neighbour(t, over(t, pipeline, "invoice:3"), renews)
				var got outcome
				before := sent.Load()
				together(t, first, func(ctx context.Context) { got = request(ctx, joint) }, last)
				// Renewals wait for each other for 10 ms only, and the machine may be busy.
				if n := sent.Load() - before; n > 2 && !renews {
					t.Errorf("%d commands were sent, want one for all, and at most one more", n)
				}
				want.err = strings.ReplaceAll(want.err, alone.Key(), joint.Key())
				if got != want {
					t.Errorf("the outcome is %+v, and alone %+v", got, want)
				}
				if got, want := dump(s, joint), dump(s, alone); !reflect.DeepEqual(got, want) {
					t.Errorf("the data is %q, and alone %q", got, want)
				}
			})
		}
	}
}

// neighbour returns a request for another lock, which takes or renews it.
func neighbour(t *testing.T, l *protocol.Lock, renews bool) func(ctx context.Context) {
	take := func(ctx context.Context) {
		g, err := l.Acquire(ctx, protocol.Request{ID: self, TTL: ttl})
		if err != nil || !g.Granted {
			t.Errorf("a neighbour is not granted its lock: %+v, %v", g, err)
		}
	}
	if !renews {
		return take
	}
	take(t.Context())
	return func(ctx context.Context) {
		if o := renewLater(ctx, l, self, 0); o.err != "" {
			t.Errorf("a neighbour's lease is not renewed: %s", o.err)
		}
	}
}

// dump returns what the server has of a lock.
func dump(s *redistest.Server, l *protocol.Lock) map[string]string {
	found := make(map[string]string)
	for _, key := range s.Keys() {
		if strings.Contains(key, l.Key()) {
			name := strings.ReplaceAll(key, l.Key(), "KEY")
			found[name] = fmt.Sprint(s.Do("DUMP", key), s.Do("PTTL", key))
		}
	}
	return found
}

// countParcels counts the commands that a client sends in pipelines from now on.
func countParcels(client *redis.Client) *atomic.Int64 {
	count := new(atomic.Int64)
	client.AddHook(redistest.Hook{
		Pipeline: func(ctx context.Context, cmds []redis.Cmder, next redis.ProcessPipelineHook) error {
			if redistest.IsScript(cmds[0]) { // and not of a connection that begins
				count.Add(int64(len(cmds)))
			}
			return next(ctx, cmds)
		},
	})
	return count
}

// A lockCall makes a request for a lock, which must be served.
type lockCall func(ctx context.Context, l *protocol.Lock) error

func takes(ctx context.Context, l *protocol.Lock) error {
	g, err := l.Acquire(ctx, protocol.Request{ID: self, TTL: ttl, Round: 1})
	if err == nil && !g.Granted {
		return fmt.Errorf("refused: %+v", g)
	}
	return err
}

func renews(ctx context.Context, l *protocol.Lock) error {
	if o := renewLater(ctx, l, self, 1); o.err != "" {
		return errors.New(o.err)
	}
	return nil
}

func frees(ctx context.Context, l *protocol.Lock) error { return l.NewSoleRelease(self).Try(ctx) }

// Simple requests of many locks are one command.
func TestSimpleRequestsAreOneCommand(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redistest.Server) {
		client := s.Client()
		p := send.NewPipeline(client)
		const locks = 10
		each := func(call lockCall) {
			t.Helper()
			var fs []func(context.Context)
			for i := range locks {
				l := over(t, p, fmt.Sprint("invoice:", i))
				fs = append(fs, func(ctx context.Context) {
					if err := call(ctx, l); err != nil {
						t.Errorf("%s: %v", l.Key(), err)
					}
				})
			}
			together(t, fs...)
		}
		each(takes) // loads the script
		each(frees)
		sent := countParcels(client)
		for i, call := range []lockCall{takes, renews, frees} {
			before := sent.Load()
			each(call)
			// A busy machine may take longer to renew than renewals wait for each other.
			if n := sent.Load() - before; n < 1 || n > 1 && i != 1 || n > locks/2 {
				t.Errorf("%d requests of kind %d took %d commands, want 1", locks, i, n)
			}
		}
	})
}
