package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
)

// This file makes the faults of a quorum. Each of them hits a minority of the servers,
// if it does not say otherwise. So it excuses nothing but late hand-offs: no overlap,
// no token, no lease that is lost or taken away.

// minorityHit are the effects of a fault that hits a minority of the servers.
const minorityHit = judge.HitsMinority | judge.LosesWaiters

// A trouble is what may befall a server of a quorum.
type trouble struct {
	name string
	// begin lets it befall a server. The function that it returns mends that; nil: there
	// is nothing to mend.
	begin func(r *scenarioRun, server int) (mend func())
	// forgets says that the server loses its data. It may not vote for a ttl then.
	forgets bool
}

var (
	downThenEmpty = trouble{"down", (*scenarioRun).letDown, true}
	restartsEmpty = trouble{"restart, empty", (*scenarioRun).letRestart, true}
	flushed       = trouble{"FLUSHALL", (*scenarioRun).letFlush, true}
	frozen        = trouble{"SIGSTOP of a server", (*scenarioRun).letFreeze, false}
	leapingClock  = trouble{"clock moved", (*scenarioRun).letClockLeap, false}

	slowLines   = trouble{"latency", (*scenarioRun).letLinesDelay, false}
	linesCut    = trouble{"cut", (*scenarioRun).letLinesBreak, false}
	linesSilent = trouble{"half-open", (*scenarioRun).letLinesFallSilent, false}
	repliesLost = trouble{"replies dropped", (*scenarioRun).letRepliesGetLost, false}

	pubSubKilled = trouble{"CLIENT KILL pubsub", (*scenarioRun).letPubSubBreak, false}
	normalKilled = trouble{"CLIENT KILL normal", (*scenarioRun).letNormalBreak, false}
	refusing     = trouble{"NOREPLICAS", (*scenarioRun).letRefuse, false}
	full         = trouble{"maxmemory", (*scenarioRun).letFill, false}
)

// honestTroubles are those in which a server forgets nothing, or shows by a restart that
// it has.
var honestTroubles = []trouble{
	downThenEmpty, restartsEmpty, restartsEmpty, frozen, slowLines, linesCut, linesSilent,
	repliesLost, pubSubKilled, normalKilled, refusing, full,
}

// troubles are all of them.
var troubles = append(slices.Clip(honestTroubles), flushed, leapingClock)

// ofMinority returns the fault that one of the troubles befalls each server of a
// minority of one server in three, or two in five. The servers are in trouble at the same
// time, and may be in different trouble.
func ofMinority(name string, troubles ...trouble) fault {
	return fault{name, func(r *scenarioRun) {
		r.befall(troubles, len(r.backend.servers)/2, minorityHit, quarantine)
	}}
}

// ofMajority returns the fault that one of the troubles befalls each server of a majority
// of the servers, or of all. Nothing goes on meanwhile, and leases may be lost. But there
// are never two holders, and tokens rise. The troubles must not be such that servers
// forget without a restart: a majority that does so is taken for new servers.
func ofMajority(name string, troubles ...trouble) fault {
	return fault{name, func(r *scenarioRun) {
		least := len(r.backend.servers)/2 + 1
		count := least + r.rng.IntN(len(r.backend.servers)-least+1)
		r.befall(troubles, count, judge.DelaysMessages|judge.ForgetsVotes, firstQuarantine)
	}}
}

// befall lets one of the troubles befall each of so many servers. That lasts until all
// servers vote again: for as long as quarantine if they have forgotten. The fault's name
// says which servers are in which trouble.
func (r *scenarioRun) befall(
	troubles []trouble, count int, effects judge.Effects, quarantine time.Duration,
) {
	victims := r.rng.Perm(len(r.backend.servers))[:count]
	chosen, names, forgets := make([]trouble, count), []string(nil), false
	for i, server := range victims {
		t := troubles[r.rng.IntN(len(troubles))]
		chosen[i], names = t, append(names, fmt.Sprintf("%s, server %d", t.name, server))
		forgets = forgets || t.forgets
	}
	r.fault = strings.Join(names, "; ")
	r.during(effects, nil, judge.AllKeys, func() {
		var mends []func()
		for i, server := range victims {
			if mend := chosen[i].begin(r, server); mend != nil {
				mends = append(mends, mend)
			}
			r.wait(r.randomTime(0, 200*time.Millisecond))
		}
		if len(mends) > 0 {
			r.wait(r.randomTime(200*time.Millisecond, 4*time.Second))
		}
		r.rng.Shuffle(len(mends), func(i, j int) { mends[i], mends[j] = mends[j], mends[i] })
		for _, mend := range mends {
			mend()
			r.wait(r.randomTime(0, 100*time.Millisecond))
		}
		if forgets {
			r.wait(quarantine)
		}
	})
}

// quarantine is how long a server that has forgotten its votes may not vote: a ttl from
// when a process finds that out. A process asks all the time.
const quarantine = ttl + 300*time.Millisecond

// firstQuarantine is how long new servers may not vote. They count from their start, in
// whole seconds.
const firstQuarantine = quarantine + time.Second

func (r *scenarioRun) letDown(server int) func() {
	s := r.backend.servers[server]
	s.Kill()
	return s.Restart
}

func (r *scenarioRun) letRestart(server int) func() {
	r.letDown(server)()
	return nil
}

func (r *scenarioRun) letFlush(server int) func() {
	r.backend.servers[server].Do("FLUSHALL")
	return nil
}

func (r *scenarioRun) letFreeze(server int) func() {
	s := r.backend.servers[server]
	s.Pause()
	return s.Resume
}

// letClockLeap sets a server's clock as moveClock does, and then right.
func (r *scenarioRun) letClockLeap(server int) func() {
	s := r.backend.servers[server]
	s.SetClock(r.randomOffset())
	return func() { s.SetClock(0) }
}

// linesOf returns the lines of some workers to a server.
func (r *scenarioRun) linesOf(server int) lines {
	return lines{r.randomSlots(1, workerCount), []int{server}}
}

func (r *scenarioRun) letLinesDelay(server int) func() {
	l, by := r.linesOf(server), r.randomTime(5*time.Millisecond, 500*time.Millisecond)
	r.network.slow(l, requests, by, by/2)
	r.network.slow(l, replies, by, by/2)
	return func() { r.network.restore(l) }
}

func (r *scenarioRun) letLinesBreak(server int) func() {
	l := r.linesOf(server)
	r.network.cut(l)
	return func() { r.network.mend(l) }
}

func (r *scenarioRun) letLinesFallSilent(server int) func() {
	l := r.linesOf(server)
	r.network.silence(l, requests)
	r.network.silence(l, replies)
	return func() { r.network.restore(l) }
}

func (r *scenarioRun) letRepliesGetLost(server int) func() {
	l := r.linesOf(server)
	r.network.silence(l, replies)
	return func() { r.network.restore(l) }
}

func (r *scenarioRun) letPubSubBreak(server int) func() {
	r.backend.servers[server].Do("CLIENT", "KILL", "TYPE", "pubsub")
	return nil
}

func (r *scenarioRun) letNormalBreak(server int) func() {
	r.backend.servers[server].Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	return nil
}

func (r *scenarioRun) letRefuse(server int) func() {
	s := r.backend.servers[server]
	s.Do("CONFIG", "SET", "min-replicas-to-write", 1)
	return func() { s.Do("CONFIG", "SET", "min-replicas-to-write", 0) }
}

func (r *scenarioRun) letFill(server int) func() {
	s := r.backend.servers[server]
	s.Do("CONFIG", "SET", "maxmemory", 1)
	return func() { s.Do("CONFIG", "SET", "maxmemory", 0) }
}

// The faults that hit not one minority of the servers.
var (
	scattered       = fault{"cut, each worker elsewhere", (*scenarioRun).scatter}
	restartInTurn   = fault{"restarts in turn", (*scenarioRun).restartInTurn}
	restartTogether = fault{"all restart", (*scenarioRun).restartTogether}
)

// scatter cuts each worker off a minority of the servers, each worker off other ones.
// Messages and replies may get lost, but no worker has lost a majority.
func (r *scenarioRun) scatter() {
	r.during(minorityHit|judge.HitsMinorities, nil, judge.AllKeys, func() {
		var mends []func()
		for slot := range workerCount {
			count := len(r.backend.servers)
			l := lines{[]int{slot}, r.rng.Perm(count)[:count/2]}
			switch r.rng.IntN(3) {
			case 0:
				r.network.cut(l)
				mends = append(mends, func() { r.network.mend(l) })
				continue
			case 1:
				r.network.silence(l, requests)
			}
			r.network.silence(l, replies)
			mends = append(mends, func() { r.network.restore(l) })
		}
		r.wait(r.randomTime(300*time.Millisecond, 3*time.Second))
		for _, mend := range mends {
			mend()
		}
	})
}

// restartInTurn lets one server after another restart empty, each as soon as the one
// before it may vote again.
func (r *scenarioRun) restartInTurn() {
	order := r.rng.Perm(len(r.backend.servers))
	for _, server := range slices.Concat(order, order[:1]) {
		r.fault = fmt.Sprintf("%s, server %d", restartsEmpty.name, server)
		r.during(minorityHit, nil, judge.AllKeys, func() {
			mend := r.letDown(server)
			r.wait(r.randomTime(0, 50*time.Millisecond))
			mend()
			r.wait(quarantine)
		})
	}
}

// restartTogether lets all servers restart empty within a third of a ttl, so that no
// renewal can tell one server what another has forgotten. Nothing goes on until they may
// vote again, and the leases are lost. But there are never two holders, and tokens rise.
func (r *scenarioRun) restartTogether() {
	effects := judge.DelaysMessages | judge.ForgetsVotes
	r.during(effects, nil, judge.AllKeys, func() {
		for _, server := range r.rng.Perm(len(r.backend.servers)) {
			r.letRestart(server)
			r.wait(r.randomTime(0, ttl/10))
		}
		r.wait(firstQuarantine)
	})
}
