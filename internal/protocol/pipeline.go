package protocol

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// A sender carries requests to the servers of a client. Each is a command whose first
// key is where [Lock.command] puts it.
type sender interface {
	// Process returns true when cmd has been answered, or has failed, as a client does. It returns
	// false if ctx has ended: then cmd is under way, and must not be read any more.
	Process(ctx context.Context, cmd redis.Cmder) bool

	// Later calls done when cmd has been answered, or has failed. It may return before
	// that, or after. done must not block.
	Later(ctx context.Context, cmd redis.Cmder, done func())
}

// single sends each request by itself.
type single struct{ client redis.UniversalClient }

func (s single) Process(ctx context.Context, cmd redis.Cmder) (answered bool) {
	answered = true // also after a panic, which cmd carries as its error
	defer catch(cmd)
	_ = s.client.Process(ctx, cmd) // cmd carries the error
	return answered
}

func (s single) Later(ctx context.Context, cmd redis.Cmder, done func()) {
	s.Process(ctx, cmd)
	done()
}

// A Pipeline sends the requests that many goroutines make at a time together, in
// pipelines of their client, to each server its own. Its methods may be called concurrently.
//
// While fewer than direct requests or batches are under way to a server, one more
// goes at once, by itself: nothing is to be gained for it. Those that come meanwhile
// gather, and go together when one of those under way is done. So a batch is as large
// as the server and the network need it to be. (This is Nagle's algorithm, RFC 896,
// applied to commands.) However slow, or dead, the connections are on which those are
// under way, a request that has waited for gathering goes on another, of up to most.
//
// A batch has a goroutine of its own, so who waits for an answer may leave, and who
// need not wait takes none.
type Pipeline struct {
	single    single        // sends what goes by itself
	gathering time.Duration // for which a request waits for others, at the most

	mu    sync.Mutex // guards lanes
	lanes map[*redis.Client]*lane
}

// How requests gather. A server answers at once all that it has read at once. So few large
// batches go to and fro in step, and it idles while they are made; many small ones
// cost both sides more calls of the system. Measured with 256 goroutines on two cores,
// four of up to 64 kept both sides the busiest.
const (
	direct    = 4                     // requests and batches under way, at which others wait
	most      = 32                    // of those, if others have waited for long enough
	fullness  = 64                    // requests in a batch, at the most
	gathering = 10 * time.Millisecond // as Pipeline.gathering
)

// NewPipeline returns a pipeline of client, in which nothing is under way.
func NewPipeline(client redis.UniversalClient) *Pipeline {
	return &Pipeline{single: single{client}, gathering: gathering, lanes: make(map[*redis.Client]*lane)}
}

// Process waits until the deadline of ctx for a request that went together with others;
// nothing else ends the wait.
func (p *Pipeline) Process(ctx context.Context, cmd redis.Cmder) bool {
	l := p.lane(ctx, cmd)
	if l == nil {
		return p.single.Process(ctx, cmd)
	}
	r := l.enqueue(ctx, cmd, nil)
	if r == nil {
		defer l.done()
		return p.single.Process(ctx, cmd)
	}
	var ended <-chan struct{}
	if _, dated := ctx.Deadline(); dated {
		ended = ctx.Done()
	}
	select {
	case <-r.answered:
	case <-ended: // r is the lane's to the end
		return false
	}
	// By itself, the client would have followed or repeated it.
	if err := cmd.Err(); elsewhere(err) || Lost(err) && !cmd.NoRetry() && ctx.Err() == nil {
		return p.single.Process(ctx, cmd)
	}
	return true
}

// Later does not repeat a request that was not answered, and follows one only to where
// the server said.
func (p *Pipeline) Later(ctx context.Context, cmd redis.Cmder, done func()) {
	l := p.lane(ctx, cmd)
	if l == nil {
		go p.single.Later(ctx, cmd, done)
		return
	}
	if l.enqueue(ctx, cmd, done) == nil {
		go l.send([]*request{{ctx: ctx, cmd: cmd, later: done}})
	}
}

// lane returns the lane to the server of cmd's key, or nil if there is none.
func (p *Pipeline) lane(ctx context.Context, cmd redis.Cmder) *lane {
	key, _ := cmd.Args()[firstKey].(string)
	var server *redis.Client
	var err error
	switch c := p.single.client.(type) {
	case *redis.Client:
		server = c
	case *redis.ClusterClient:
		server, err = c.MasterForKey(ctx, key)
	}
	if err != nil || server == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[server]
	if l == nil {
		for old, l := range p.lanes { // of servers that are no more, perhaps
			if l.idle() {
				delete(p.lanes, old)
			}
		}
		l = &lane{client: p.single.client, server: server, gathering: p.gathering}
		p.lanes[server] = l
	}
	return l
}

// elsewhere reports whether err is a server's that has not carried out a request, as
// it is, for now, another's to do.
func elsewhere(err error) bool {
	_, moved := redis.IsMovedError(err)
	_, asked := redis.IsAskError(err)
	return moved || asked || errors.Is(err, redis.ErrClosed) ||
		redis.IsReadOnlyError(err) || redis.IsMasterDownError(err) || redis.IsClusterDownError(err) ||
		redis.IsTryAgainError(err) || redis.IsLoadingError(err)
}

// A lane leads to one server.
type lane struct {
	client    redis.UniversalClient // follows requests to other servers
	server    *redis.Client
	gathering time.Duration

	mu      sync.Mutex  // guards the following; never held over a call to Redis
	busy    int         // requests and batches under way; at least direct if others wait
	waiting []*request  // for the next batch, in the order in which they came
	overdue *time.Timer // sends those that have waited for long enough; made by the first
}

// A request goes with a batch. It is made for one call and never used again: a
// channel that outlived its call could be met in another testing/synctest bubble,
// where its use is a fatal error.
type request struct {
	ctx      context.Context
	cmd      redis.Cmder
	later    func()        // called with the answer; nil: the caller waits for it
	answered chan struct{} // closed with the answer; nil if later is not
}

func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy == 0
}

// enqueue returns a request that waits for the next batch. It returns nil if cmd need not
// wait: the caller then sends cmd, which is under way until the caller says done.
func (l *lane) enqueue(ctx context.Context, cmd redis.Cmder, later func()) *request {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy < direct {
		l.busy++
		return nil
	}
	r := &request{ctx: ctx, cmd: cmd, later: later}
	if later == nil {
		r.answered = make(chan struct{})
	}
	l.waiting = append(l.waiting, r)
	if len(l.waiting) == 1 {
		l.gatherLocked()
	}
	return r
}

// gatherLocked gives those who wait for the next batch some time to become more.
func (l *lane) gatherLocked() {
	if l.overdue == nil {
		l.overdue = time.AfterFunc(l.gathering, l.hurry)
	} else {
		l.overdue.Reset(l.gathering)
	}
}

// hurry sends those that wait, though all that was under way still is.
func (l *lane) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && l.busy < most {
		l.busy++
		go l.send(l.takeLocked())
	}
	if len(l.waiting) > 0 {
		l.gatherLocked()
	}
}

// done ends what was under way, and sends those that wait, unless more than need be is
// under way and they may become more.
func (l *lane) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.waiting); n == 0 || l.busy > direct && n < fullness {
		l.busy--
		return
	}
	go l.send(l.takeLocked())
}

// takeLocked returns the next batch.
func (l *lane) takeLocked() []*request {
	n := min(len(l.waiting), fullness)
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	if len(l.waiting) == 0 {
		l.waiting = nil
		l.overdue.Stop()
	}
	return batch
}

// send sends a batch, and says done for it. What is given up by then is not sent.
func (l *lane) send(batch []*request) {
	pipe := l.server.Pipeline()
	for _, r := range batch {
		if err := r.ctx.Err(); err != nil {
			r.cmd.SetErr(err)
			continue
		}
		_ = pipe.Process(r.ctx, unrepeated(r.cmd)) // is only noted
	}
	defer l.sent(batch) // also if a hook ends this goroutine
	exec(context.WithoutCancel(batch[0].ctx), pipe, batch)
}

// sent ends a batch, of which each command carries its error.
func (l *lane) sent(batch []*request) {
	l.done()
	var redirected []*request
	for _, r := range batch {
		switch {
		case r.later == nil:
			close(r.answered) // and cmd is the waiter's again
		case l.redirected(r):
			redirected = append(redirected, r)
		default:
			r.later()
		}
	}
	for _, r := range redirected {
		single{l.client}.Later(r.ctx, r.cmd, r.later)
	}
}

// exec sends what pipe has noted of batch. Each command carries its error.
func exec(ctx context.Context, pipe redis.Pipeliner, batch []*request) {
	var broken error = ErrExited // unless Exec returns, or panics
	defer func() {
		if v := recover(); v != nil {
			broken = newPanic(v)
		}
		if broken != nil {
			for _, r := range batch {
				r.cmd.SetErr(broken)
			}
		}
	}()
	_, _ = pipe.Exec(ctx)
	broken = nil
}

// unrepeated returns cmd for a batch: it is for who waits for it to repeat it. Hooks of the client
// see a command whose reply they can read.
func unrepeated(cmd redis.Cmder) redis.Cmder {
	if c, ok := cmd.(*redis.Cmd); ok {
		return once(c)
	}
	return cmd // is so already
}

// redirected reports whether the server has named another for r. If r failed for
// another reason, the client is to look whose its slot is.
func (l *lane) redirected(r *request) bool {
	err := r.cmd.Err()
	_, moved := redis.IsMovedError(err)
	if c, ok := l.client.(*redis.ClusterClient); ok && err != nil && !moved {
		c.ReloadState(r.ctx)
	}
	return moved
}
