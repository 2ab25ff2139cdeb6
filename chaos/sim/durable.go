package sim

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// In some runs with replicas, all processes lock with WithReplicas. Then a failover
// loses no lock, and excuses nothing but delays.

// drawDurable draws whether the locks need the replica. Such a replica lags for less
// than a server waits for it. What MinHold adds after an unlock is not durable.
func (p *Plan) drawDurable() {
	r := rand.New(rand.NewPCG(p.Seed, 5))
	p.Durable = r.IntN(2) == 0 && p.Replicas
	if p.Durable {
		p.Lag, p.MinHold = min(p.Lag, 16*time.Millisecond), 0
	}
}

// addFailover adds a failover, of which a durable run has one at least. (A clock that is
// set back leaves nothing to judge a failover by.)
func (p *Plan) addFailover() {
	jumps := func(f Fault) bool { return f.Kind == Jump }
	if !p.Durable || slices.ContainsFunc(p.Faults, jumps) {
		return
	}
	r := rand.New(rand.NewPCG(p.Seed, 6))
	p.Faults = append(p.Faults, Fault{
		Kind: Promote, Site: r.IntN(p.Sites), At: time.Duration(r.Int64N(int64(p.span()))),
		For: time.Duration(r.Int64N(int64(kinds[Promote].longest))),
	})
}

// effectsOf returns the effects of a fault.
func (p *Plan) effectsOf(f Fault) judge.Effects {
	if p.Quorum {
		return p.quorumEffects(f)
	}
	if f.Kind == Promote && p.Durable {
		return judge.DelaysMessages
	}
	return kinds[f.Kind].effects
}

// A replicaWait is a WAIT that is under way.
type replicaWait struct {
	within time.Duration
	have   chan int // receives how many replicas have what was written
}

// await carries out a WAIT whose frame is being executed. It returns how many replicas
// have what came before it on its link.
func (s *server) await(args []string) int {
	ms, _ := strconv.Atoi(args[len(args)-1])
	w := replicaWait{time.Duration(ms) * time.Millisecond, make(chan int, 2)}
	s.mu.Lock()
	s.waits = append(s.waits, w)
	s.mu.Unlock()
	return <-w.have
}

// answerWaits has each WAIT of the frame that was executed answered: when the change
// arrives at a replica, at that time, or else when the WAIT has waited for long enough.
func (s *server) answerWaits(replicas []*server, arrives time.Time) {
	s.mu.Lock()
	waits := s.waits
	s.waits = nil
	s.mu.Unlock()
	for _, w := range waits {
		end := time.Now().Add(w.within)
		for _, r := range replicas {
			if arrives.After(end) {
				break
			}
			s.scheduler.at(arrives, func() { // after the change, which was planned before
				if s.replicates(r) {
					w.answer(len(replicas))
				}
			})
		}
		s.scheduler.at(end, func() { w.answer(0) })
	}
}

// answer answers w, unless it was answered before.
func (w replicaWait) answer(n int) {
	select {
	case w.have <- n:
	default:
	}
}
