package sim

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/bubble"
)

// A link is a connection from a process to a server. The scheduler carries what
// is written to it, in frames. Chance, which depends only on the seed and on the
// link's number, decides the fate of each frame.
type link struct {
	*world
	process        *process
	server         *server
	site           int
	name           string
	client, remote *bubble.Conn // the ends

	mu        sync.Mutex // guards the following
	chance    *rand.Rand
	last      [2]time.Time // by direction: when the last frame arrives
	swallowed bool         // nothing arrives any more, and nobody learns of it
	cut       bool         // both ends know that the link is broken
	noReply   bool         // the next reply is lost, and the link breaks
	greeted   [2]bool      // by direction: the frame of the greeting has passed
	listens   bool         // the process hears messages by it
}

// A direction is a way of a link.
type direction int

const (
	up   direction = iota // to the server
	down                  // to the process
)

func (d direction) String() string { return [...]string{"->", "<-"}[d] }

// dial connects a process to the server of a site. It takes no time, and nor does
// the greeting: a subscription of go-redis holds a mutex meanwhile, and a
// goroutine that waits for a mutex keeps the bubble's time from passing.
func (p *process) dial(site int) (net.Conn, error) {
	number := p.dials.Add(1)
	chance := p.chance(uint64(p.number), uint64(number), 1)
	s := p.serverOf(site)
	w := p.weatherAt(p.slot, site)
	if p.dead.Load() || s.down.Load() || w != nil && w.parted {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	l := &link{
		world: p.world, process: p, server: s, site: site, chance: chance,
		name: fmt.Sprintf("%d.%d", p.number, number),
	}
	l.client, l.remote = bubble.NewConn(end{l, up}), bubble.NewConn(end{l, down})
	p.addLink(l)
	s.redis.Serve(l.remote)
	l.tell(p, "", "dials %s: link %s", s.name, l.name)
	return &lateConn{l.client, time.Duration(p.number)*time.Microsecond + time.Duration(number)}, nil
}

// A lateConn is a connection whose deadlines are some nanoseconds late, each
// connection's by others. Of two timers of one instant, either may fire first:
// two requests that were sent together, or a request and its context, would time
// out in any order.
type lateConn struct {
	*bubble.Conn
	late time.Duration
}

func (c *lateConn) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		t = t.Add(c.late)
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *lateConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// An end is the carrier of one end of a link.
type end struct {
	*link
	direction direction
}

// Closed breaks the link for the other end, when all that was written before
// has arrived.
func (e end) Closed() {
	if e.direction == down {
		e.server.record(linkEnded, e.name, nil)
	}
	e.mu.Lock()
	at := later(e.last[e.direction], time.Now().Add(latency(e.chance, nil)))
	e.last[e.direction] = at
	if e.direction == up {
		e.setListensLocked(false)
	}
	swallowed := e.swallowed
	e.mu.Unlock()
	if swallowed && e.direction == down {
		return
	}
	e.scheduler.at(at, func() { e.endOther() })
}

// endOther ends the other end. A server that is frozen learns of it when it goes on.
func (e end) endOther() {
	if e.direction == down || !e.server.hold(e.endOther) {
		e.otherEnd().End(io.EOF)
	}
}

func (e end) otherEnd() *bubble.Conn {
	if e.direction == up {
		return e.remote
	}
	return e.client
}

// later returns b, or the instant after a if b is not after a.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a.Add(1)
}

// Carry decides the fate of a frame, and plans its arrival.
func (e end) Carry(p []byte) {
	if e.direction == down {
		p = asRedis7(p)
		e.server.record(answered, e.name, p)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.swallowed || e.cut {
		return
	}
	if !e.greeted[e.direction] {
		e.greetLocked(p)
		return
	}
	if e.direction == up && e.process.hold(func() { e.Carry(p) }) {
		return // a goroutine that a timer of the client woke in a pause
	}
	w := e.weatherAt(e.process.slot, e.site)
	f := e.fateLocked(w, p)
	if f != fine {
		e.countMishap(f)
		e.tell(e.process, "", "link %s %v: %s", e.name, e.direction, f)
	}
	switch f {
	case lost: // and so is what follows, until the link breaks
		e.swallowed = true
	case dropped:
	case cutBefore:
		e.cutBeforeLocked()
	case stray:
		e.sendLocked(w, time.Now().Add(time.Duration(e.chance.Int64N(int64(longestStray)))), p)
		e.breakClientLocked(longestStray + time.Second)
	default:
		e.noReply = e.noReply || f == replyLost
		at := later(e.last[e.direction], time.Now().Add(latency(e.chance, w)))
		e.last[e.direction] = at
		e.sendLocked(w, at, p)
	}
}

// greetLocked lets the frame of a greeting arrive at once.
func (e end) greetLocked(p []byte) {
	e.greeted[e.direction] = true
	if e.direction == up {
		e.server.record(requested, e.name, p)
	}
	e.otherEnd().Deliver(p)
}

// sendLocked lets a frame arrive at a time.
func (e end) sendLocked(w *weather, at time.Time, p []byte) {
	if w != nil {
		w.lastsUntil(at)
	}
	e.scheduler.at(at, func() { e.arrive(e.direction, p) })
}

// asRedis7 returns an error that a script raised as Redis 7 tells it: with its
// code in front. miniredis wraps the error. It does not wrap an error that a
// script returned.
func asRedis7(p []byte) []byte {
	if len(p) == 0 || p[0] != '-' {
		return p
	}
	for _, m := range []mood{readOnly, outOfRoom} {
		if bytes.Index(p, []byte(m)) > 1 {
			return []byte("-" + string(m) + " script: 0123, on @user_script:1.\r\n")
		}
	}
	return p
}

// arrive lets a frame arrive. A process that is paused takes it in when it goes
// on.
func (l *link) arrive(d direction, p []byte) {
	if d == up {
		if !l.server.hold(func() { l.arrive(d, p) }) {
			l.server.receive(l, p)
		}
		return
	}
	if l.process.hold(func() { l.arrive(d, p) }) {
		return
	}
	if isPush(p) {
		l.mu.Lock()
		l.setListensLocked(!l.cut)
		l.mu.Unlock()
	}
	l.hash(l.name, p)
	l.tellFrame(l, d, p)
	l.client.Deliver(p)
}

// cutLocked breaks the link for both ends.
func (l *link) cutLocked() {
	l.noteBreakLocked()
	l.cut = true
	l.client.End(errReset)
	l.remote.End(io.EOF)
}

// breakClientLocked breaks the link for the client. The server learns of it after
// d, when it has read what is on the way.
func (l *link) breakClientLocked(d time.Duration) {
	l.noteBreakLocked()
	l.cut = true
	l.client.End(errReset)
	l.scheduler.after(d, func() { l.remote.End(io.EOF) })
}

// setListensLocked notes whether the process hears messages by the link.
func (l *link) setListensLocked(listens bool) {
	if l.listens == listens {
		return
	}
	l.listens = listens
	l.process.mu.Lock()
	defer l.process.mu.Unlock()
	if listens {
		l.process.heard[l.site]++
	} else {
		l.process.heard[l.site]--
	}
}

// noteBreakLocked notes that the process hears no messages any more, if it heard
// them by this link. Of a quorum, it must hear a majority of the servers.
func (l *link) noteBreakLocked() {
	if !l.listens || l.cut || l.process.dead.Load() {
		return
	}
	l.setListensLocked(false)
	if l.plan.Quorum && l.process.heardSites() != l.plan.minority() {
		return
	}
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	for key := range l.keys {
		if l.siteOf(key) == l.site {
			l.world.breaks = append(l.world.breaks, judge.Break{
				Process: l.process.number, Key: key, At: l.now(),
			})
		}
	}
}

// cutBeforeLocked breaks the link before a frame arrives. If that is a reply, the
// server carries out the rest of the frame that it has read.
func (e end) cutBeforeLocked() {
	if e.direction == down {
		e.breakClientLocked(1)
	} else {
		e.cutLocked()
	}
}

// breaks breaks the link for both ends.
func (l *link) breaks() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutLocked()
}

var errReset = &net.OpError{Op: "read", Err: syscall.ECONNRESET}

// A fate is what becomes of a frame.
type fate int

const (
	fine      fate = iota
	lost           // it is lost, and so are all later frames of the link
	dropped        // a message of a subscription is lost
	cutBefore      // the link breaks, and the frame is lost
	replyLost      // it arrives; its reply is lost, and the link breaks
	stray          // the link breaks, and the frame arrives nevertheless, later
	fates
)

func (f fate) String() string {
	return [...]string{
		"fine", "lost", "message lost", "cut", "reply lost", "stray",
	}[f]
}

// longestStray is how much later a stray arrives at most.
const longestStray = 3 * time.Second

// fateLocked draws the fate of a frame.
func (e end) fateLocked(w *weather, p []byte) fate {
	x := e.chance.Float64()
	if e.direction == down && e.noReply && !isPush(p) {
		e.noReply = false
		return cutBefore
	}
	switch {
	case w == nil:
		return fine
	case w.parted:
		return lost
	case isPush(p):
		if x < w.deaf {
			return dropped
		}
		return fine
	case x >= w.lossy:
		return fine
	case e.direction == down:
		return [...]fate{lost, cutBefore}[e.chance.IntN(2)]
	}
	return [...]fate{lost, cutBefore, replyLost, replyLost, stray, stray}[e.chance.IntN(6)]
}

// isPush reports whether a frame begins with a message of a subscription.
func isPush(p []byte) bool {
	const message = ">3\r\n$7\r\nmessage"
	return len(p) > len(message) && string(p[:len(message)]) == message
}

// latency returns how long a frame is on its way.
func latency(chance *rand.Rand, w *weather) time.Duration {
	d := 50*time.Microsecond + time.Duration(chance.Int64N(int64(200*time.Microsecond)))
	if w != nil && w.slow > 0 && chance.IntN(2) == 0 {
		d += time.Duration(chance.Int64N(int64(w.slow)))
	}
	return d
}
