package send

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	SoftLimit = softLimit
	HardLimit = hardLimit
	MaxBatch  = maxBatch
)

// SetLinger begins p anew, with another linger.
func (p *Pipeline) SetLinger(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lanes, p.linger = make(map[route]*lane), d
}

// Waiting returns how many requests wait in the lanes of p.
func (p *Pipeline) Waiting() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lanes {
		l.mu.Lock()
		n += len(l.waiting)
		l.mu.Unlock()
	}
	return n
}

// Lanes returns the servers to which p has lanes.
func (p *Pipeline) Lanes() (servers []*redis.Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r := range p.lanes {
		servers = append(servers, r.server)
	}
	return servers
}

// AddLane adds a lane to server with so many commands under way.
func (p *Pipeline) AddLane(server *redis.Client, busy int) {
	p.lanes[route{server: server}] = &lane{busy: busy}
}

// LaneOf makes the lane for a lock, as its first command would.
func (p *Pipeline) LaneOf(ctx context.Context) Lane {
	return Lane{p.lane(ctx, redis.NewCmd(ctx, "eval", "", 1, "lock"), Way{})}
}

// A Lane is a lane as tests use it.
type Lane struct{ lane *lane }

func (l Lane) Idle() bool { return l.lane.idle() }
func (l Lane) Hurry()     { l.lane.hurry() }

// PatienceEnded reports whether a request waits for which no caller waits, and
// has waited for longer than it would for others.
func (l Lane) PatienceEnded() bool {
	l.lane.mu.Lock()
	defer l.lane.mu.Unlock()
	const late = 10 * time.Millisecond // by then the timer has rung
	return len(l.lane.patient) > 0 && time.Since(l.lane.dueAt) > late
}
