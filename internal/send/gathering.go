package send

import (
	"context"
	"sync"
	"time"
)

// A Gathering lets the commands of some goroutines, its members, go together.
// Each command waits until no member can send another one first: all have sent
// one and wait for its answer, or have left. Then all go at once.
//
// If no command comes for memberLingers times the linger of its Pipeline, those
// that wait go without the rest. A goroutine that is no member may send a command
// as well, which goes along.
type Gathering struct {
	mu       sync.Mutex // guards the following
	members  int        // that neither wait for an answer nor have left
	requests map[*lane][]*request
	overdue  *time.Timer // sends the requests if no more come; nil: none waits
}

// memberLingers leaves a busy machine time to run the members.
const memberLingers = 5

// gatheringKey is the context key for a Gathering.
type gatheringKey struct{}

// Gather returns a Gathering of so many members, and the context under which they
// send.
func Gather(ctx context.Context, members int) (context.Context, *Gathering) {
	g := &Gathering{members: members, requests: make(map[*lane][]*request)}
	return context.WithValue(ctx, gatheringKey{}, g), g
}

// gatheringOf returns the Gathering under which a command is sent, or nil.
func gatheringOf(ctx context.Context) *Gathering {
	g, _ := ctx.Value(gatheringKey{}).(*Gathering)
	return g
}

// Leave says that a member sends no more commands.
func (g *Gathering) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members--
	if g.members <= 0 {
		g.sendLocked()
	}
}

// add lets r wait for the others.
func (g *Gathering) add(l *lane, r *request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests[l] = append(g.requests[l], r)
	g.members--
	switch {
	case g.members <= 0:
		g.sendLocked()
	case g.overdue == nil:
		g.overdue = time.AfterFunc(memberLingers*l.linger, g.hurry)
	default:
		g.overdue.Reset(memberLingers * l.linger)
	}
}

func (g *Gathering) hurry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sendLocked()
}

// sendLocked sends the requests.
func (g *Gathering) sendLocked() {
	if g.overdue != nil {
		g.overdue.Stop()
		g.overdue = nil
	}
	for l, requests := range g.requests {
		g.members += len(requests) // before they are answered
		l.sendAll(requests)
	}
	clear(g.requests)
}
