package send

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Pipeline is a Sender that sends the commands of many goroutines together,
// in pipelines of their client, one for each server. Its methods may be called
// concurrently.
//
// While fewer than softLimit commands or batches are under way to a server, a
// Pipeline sends one more command at once, by itself. Commands that come later
// wait for each other and go together when one of those under way is done. So a
// batch is as large as the server and the network need it to be. (This is
// Nagle's algorithm, RFC 896, applied to commands.)
//
// A slow or dead connection holds up no other command: a command that has
// waited for linger goes on another connection. Up to hardLimit commands and
// batches are under way.
//
// In a batch, commands with a Part go by one script where they can: see Joint. The
// commands of a Gathering wait for each other, however few are under way.
// Commands for which no caller waits are patient, also if nothing is under way.
//
// Each batch has a goroutine of its own. So a caller that waits for an answer
// may leave, and a caller that need not wait costs no goroutine.
type Pipeline struct {
	direct direct        // sends a command that goes by itself
	linger time.Duration // the longest time for which a command waits for others

	mu    sync.Mutex // guards lanes
	lanes map[route]*lane
}

// A route is what the commands of a lane have in common. Commands that want copies go
// apart from others: an unlock does not wait for replicas.
type route struct {
	server *redis.Client
	copied bool
}

// A server answers all commands at once that it has read at once. So few large
// batches leave the server idle while the client makes the next one, and many
// small batches cost both sides more system calls. With 256 goroutines on two
// cores, 4 batches of up to 64 commands kept both sides the busiest
// (BenchmarkPipeline).
const (
	softLimit = 4                     // commands and batches under way at which others wait
	hardLimit = 32                    // the same, for commands that have waited for linger
	maxBatch  = 64                    // commands in a batch, and in a script
	maxAtOnce = 16 * maxBatch         // commands in a batch of requests that were gathered
	linger    = 10 * time.Millisecond // of a Pipeline
)

// NewPipeline returns a pipeline of client, in which nothing is under way.
func NewPipeline(client redis.UniversalClient) *Pipeline {
	return &Pipeline{
		direct: direct{client},
		linger: linger,
		lanes:  make(map[route]*lane),
	}
}

// Client returns the client.
func (p *Pipeline) Client() redis.UniversalClient { return p.direct.client }

// KeepsDeadlines reports what the client does: a batch is waited for until the
// deadline in any case.
func (p *Pipeline) KeepsDeadlines() bool { return p.direct.KeepsDeadlines() }

// Send waits for a command that goes in a batch until the deadline of ctx.
// Nothing else ends that wait.
func (p *Pipeline) Send(ctx context.Context, cmd redis.Cmder, way Way) error {
	l := p.lane(ctx, cmd, way)
	if l == nil {
		return p.direct.Send(ctx, cmd, way)
	}
	r := &request{ctx: ctx, cmd: cmd, way: way}
	if g := gatheringOf(ctx); g != nil {
		r.answered = make(chan struct{})
		g.add(l, r)
	} else if !l.enqueue(r) {
		defer l.done()
		return p.direct.Send(ctx, cmd, way)
	}
	var deadline <-chan struct{}
	if _, ok := ctx.Deadline(); ok {
		deadline = ctx.Done()
	}
	select {
	case <-r.answered:
	case <-deadline: // the lane keeps r to the end
		return ctx.Err()
	}
	// The client would have followed or repeated a command that went by itself.
	if err := cmd.Err(); wrongServer(err) || Lost(err) && !cmd.NoRetry() && ctx.Err() == nil {
		return p.direct.Send(ctx, cmd, way)
	}
	return cmd.Err()
}

// SendLater does not repeat a command that was not answered. It follows a
// command only to the server that the answer names.
func (p *Pipeline) SendLater(
	ctx context.Context, cmd redis.Cmder, way Way, patience time.Duration, done func(error),
) {
	l := p.lane(ctx, cmd, way)
	if l == nil {
		go p.direct.SendLater(ctx, cmd, way, patience, done)
		return
	}
	l.enqueueLater(&request{ctx: ctx, cmd: cmd, way: way, later: done}, min(patience, p.linger))
}

// lane returns the lane to the server of cmd's key, or nil if there is none.
func (p *Pipeline) lane(ctx context.Context, cmd redis.Cmder, way Way) *lane {
	server := p.serverOf(ctx, cmd)
	if server == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := route{server, way.Copies != nil}
	l := p.lanes[r]
	if l == nil {
		for old, l := range p.lanes { // the server of an idle lane may be gone
			if l.idle() {
				delete(p.lanes, old)
			}
		}
		l = &lane{client: p.direct.client, server: server, linger: p.linger}
		p.lanes[r] = l
	}
	return l
}

// serverOf returns the server of cmd's key, or nil if it is not known. A panic of
// a function that the user gave the client leaves it unknown: cmd then goes by
// itself, and meets the panic.
func (p *Pipeline) serverOf(ctx context.Context, cmd redis.Cmder) (server *redis.Client) {
	defer func() {
		if recover() != nil {
			server = nil
		}
	}()
	switch c := p.direct.client.(type) {
	case *redis.Client:
		return c
	case *redis.ClusterClient:
		key, _ := cmd.Args()[FirstKey].(string)
		if server, err := c.MasterForKey(ctx, key); err == nil {
			return server
		}
	}
	return nil
}

// wrongServer reports whether err says that the server has not carried out a
// command: another server has its key, or it is not the master, or not ready.
func wrongServer(err error) bool {
	_, moved := redis.IsMovedError(err)
	_, asked := redis.IsAskError(err)
	return moved || asked || errors.Is(err, redis.ErrClosed) ||
		redis.IsReadOnlyError(err) || redis.IsMasterDownError(err) || redis.IsClusterDownError(err) ||
		redis.IsTryAgainError(err) || redis.IsLoadingError(err)
}

// A lane leads to one server.
type lane struct {
	client redis.UniversalClient // follows commands to other servers
	server *redis.Client
	linger time.Duration
	apart  atomic.Bool // a script with the keys of several locks is refused

	mu      sync.Mutex  // guards the following; never held over a call to Redis
	busy    int         // commands and batches under way; at least softLimit if others wait
	waiting []*request  // for the next batch, in the order in which they came
	overdue *time.Timer // sends requests that have waited for linger; nil: none has waited yet

	// Requests for which no caller waits. They go along with the next batch, or
	// when there are enough of them for one, or when one has waited for long
	// enough. While there are any, due is armed.
	patient []*request
	due     *time.Timer // ends their wait; nil: none has waited yet
	dueAt   time.Time   // when it does so, or was to do so if too many were under way
}

// A request is a command in a batch. It is made for one call and never used
// again: a channel that outlives its call can be met in another
// testing/synctest bubble, where its use is a fatal error.
type request struct {
	ctx      context.Context
	cmd      redis.Cmder
	way      Way
	later    func(error)   // called with the answer; nil: a caller waits for it
	answered chan struct{} // closed with the answer; nil if later is not
}

func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy == 0 && len(l.patient) == 0
}

// enqueue lets r wait for the next batch. It returns false if r need not wait:
// the caller then sends the command and calls done after it.
func (l *lane) enqueue(r *request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy < softLimit {
		l.busy++
		return false
	}
	r.answered = make(chan struct{})
	l.waiting = append(l.waiting, r)
	if len(l.waiting) == 1 {
		l.lingerLocked()
	}
	return true
}

// enqueueLater lets r wait for others for as long as patience.
func (l *lane) enqueueLater(r *request, patience time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.patient = append(l.patient, r)
	if len(l.patient) >= maxBatch && l.busy < hardLimit {
		l.sendLocked(l.takeLocked())
		return
	}
	end := time.Now().Add(patience)
	switch {
	case l.due == nil:
		l.due = time.AfterFunc(patience, l.sendPatient)
	case len(l.patient) == 1 || end.Before(l.dueAt):
		l.due.Reset(patience)
	default:
		return
	}
	l.dueAt = end
}

// sendPatient sends the requests for which no caller waits. If too many are under
// way, it tries again later: done may have no reason to send them.
func (l *lane) sendPatient() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.patient) > 0 && l.busy < hardLimit {
		l.sendLocked(l.takeLocked())
	}
	if len(l.patient) > 0 {
		l.due.Reset(l.linger)
	}
}

// lingerLocked gives the next batch some time to grow.
func (l *lane) lingerLocked() {
	if l.overdue == nil {
		l.overdue = time.AfterFunc(l.linger, l.hurry)
	} else {
		l.overdue.Reset(l.linger)
	}
}

// hurry sends the waiting requests although all that was under way still is.
func (l *lane) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) > 0 && l.busy < hardLimit {
		l.sendLocked(l.takeLocked())
	}
	if len(l.waiting) > 0 {
		l.lingerLocked()
	}
}

// done notes that a command or a batch is under way no more. It sends the next
// batch, unless more than softLimit are under way and the batch can still grow.
func (l *lane) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	n := len(l.waiting)
	if n > 0 && (l.busy < softLimit || n >= maxBatch) || len(l.patient) >= maxBatch {
		l.sendLocked(l.takeLocked())
	}
}

// takeLocked returns the next batch: waiting requests, and then patient ones.
func (l *lane) takeLocked() []*request {
	n := min(len(l.waiting), maxBatch)
	batch := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	if len(l.waiting) == 0 {
		l.waiting = nil
		if l.overdue != nil {
			l.overdue.Stop()
		}
	}
	n = min(len(l.patient), maxBatch-n)
	batch = append(batch, l.patient[:n]...)
	l.patient = l.patient[n:]
	if len(l.patient) == 0 {
		l.patient = nil
	}
	return batch
}

// sendLocked sends a batch on a goroutine of its own.
func (l *lane) sendLocked(batch []*request) {
	l.busy++
	go l.send(batch)
}

// sendAll sends requests at once, however many are under way.
func (l *lane) sendAll(requests []*request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for batch := range slices.Chunk(requests, maxAtOnce) {
		l.sendLocked(batch)
	}
}

// send sends a batch, and calls done for it. It does not send a request whose
// context has ended. A request that a script has served does not wait for the
// requests that the script has left.
func (l *lane) send(batch []*request) {
	d := &delivery{lane: l, left: batch}
	defer d.end() // also if a hook ends this goroutine
	var live []*request
	for _, r := range batch {
		if err := r.ctx.Err(); err != nil {
			r.cmd.SetErr(err)
			continue
		}
		live = append(live, r)
	}
	ctx := context.WithoutCancel(batch[0].ctx)
	for parcels := l.parcels(live); len(parcels) > 0; {
		pipe := l.server.Pipeline()
		for _, p := range parcels {
			_ = pipe.Process(ctx, p.prepare(ctx)) // only notes the command
		}
		wait := waitFor(ctx, pipe, copiesOf(parcels))
		l.exec(ctx, pipe, parcels)
		wait.deal()
		var more []*parcel
		for _, p := range parcels {
			more = append(more, p.deal(l)...)
		}
		if parcels = more; len(more) > 0 {
			d.deliver(more)
		}
	}
}

// A delivery passes the answers of a batch on.
type delivery struct {
	lane       *lane
	left       []*request // that have not been answered
	redirected []*request // that another server is to answer
}

// deliver passes on the answers to all requests but those of more, which are
// still to be sent.
func (d *delivery) deliver(more []*parcel) {
	waits := make(map[*request]bool)
	for _, p := range more {
		for _, r := range p.requests {
			waits[r] = true
		}
	}
	left := d.left
	d.left = nil
	for _, r := range left {
		switch {
		case waits[r]:
			d.left = append(d.left, r)
		case r.later == nil:
			close(r.answered) // and cmd is the waiting caller's again
		case d.lane.redirected(r):
			d.redirected = append(d.redirected, r)
		default:
			r.later(r.cmd.Err())
		}
	}
}

// end delivers what is left, each with its error, and follows requests to other
// servers.
func (d *delivery) end() {
	d.lane.done()
	d.deliver(nil)
	for _, r := range d.redirected {
		direct{d.lane.client}.SendLater(r.ctx, r.cmd, r.way, 0, r.later)
	}
}

// exec sends the parcels, which pipe has noted. Each request then carries its
// error, unless a script was answered that may have served it.
func (l *lane) exec(ctx context.Context, pipe redis.Pipeliner, parcels []*parcel) {
	ends := watch(l.client)
	defer ends(nil)              // redirected looks at the errors
	var broken error = ErrExited // unless Exec returns, or panics
	defer func() {
		if v := recover(); v != nil {
			broken = newPanic(v)
		}
		if broken != nil {
			for _, p := range parcels {
				p.fail(broken)
			}
		}
	}()
	_, _ = pipe.Exec(ctx)
	broken = nil
}

// unrepeated returns cmd in a form that the pipeline does not repeat: the
// caller that waits for cmd repeats it. Hooks of the client see a command whose
// reply they can read.
func unrepeated(cmd redis.Cmder) redis.Cmder {
	if c, ok := cmd.(*redis.Cmd); ok {
		return Once(c)
	}
	return cmd // is so already
}

// redirected reports whether the server has named another server for r. If r
// failed for another reason, the client looks up anew which server has its
// slot.
func (l *lane) redirected(r *request) bool {
	err := r.cmd.Err()
	_, moved := redis.IsMovedError(err)
	if c, ok := l.client.(*redis.ClusterClient); ok && err != nil && !moved {
		c.ReloadState(r.ctx)
	}
	return moved
}
