package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/redistest"
)

// This file counts the leases that a failover loses. A lease counts if its holder had
// it, and believed in it, from the kill of the master until the replicas were looked
// at. It is lost if the successor did not have it then.

// A succession is what the successor of a master had when that had been killed.
type succession struct {
	killed, looked judge.Instant
	keys           map[int]bool    // the locks of the master
	ids            map[string]bool // of the leases that the successor had
}

// effectsOfFailover returns the effects of a failover. Where all replicas have a lock
// before its holder, a failover loses none, and excuses nothing but delays.
func (r *scenarioRun) effectsOfFailover() judge.Effects {
	if r.load.Replicas > 0 {
		return judge.DelaysMessages
	}
	return mayLose
}

// killMaster kills a master, and starts it again when it has a successor.
func (r *scenarioRun) killMaster() {
	r.succeed(func(old *redistest.Server, _ []*redistest.Server) judge.Instant {
		defer old.Kill()
		return now()
	})
}

// killMasterAhead does the same to a master that has lost its replicas a moment before.
// These are stopped meanwhile, so that they do not come back.
func (r *scenarioRun) killMasterAhead() {
	r.succeed(func(old *redistest.Server, replicas []*redistest.Server) (killed judge.Instant) {
		for _, s := range replicas {
			s.Pause()
			defer s.Resume()
		}
		old.Do("CLIENT", "KILL", "TYPE", "replica")
		r.wait(r.randomTime(100*time.Millisecond, 300*time.Millisecond))
		killed = now()
		old.Kill()
		return killed
	})
}

// succeed kills a master by kill, which returns when it did, and waits for a successor.
func (r *scenarioRun) succeed(
	kill func(old *redistest.Server, replicas []*redistest.Server) judge.Instant,
) {
	r.during(r.effectsOfFailover(), nil, judge.AllKeys, func() {
		key := r.keys[r.rng.IntN(len(r.keys))]
		old := r.backend.master(r.testbed, key)
		replicas, s := r.replicasOf(old), succession{keys: r.keysAt(old)}
		s.killed = kill(old, replicas)
		ids := make(map[*redistest.Server]map[string]bool)
		for _, replica := range replicas {
			redistest.Eventually(r.testbed, func() bool {
				return replica.Info("master_link_status") != "up"
			}, "the replica has read all that its master had sent")
			ids[replica] = r.idsAt(replica)
		}
		s.looked = now()
		if s.ids = ids[r.waitForSuccessor(old, key)]; s.ids != nil {
			r.successions = append(r.successions, s)
		}
		old.Restart()
		r.waitHealthy()
	})
}

// replicasOf returns the replicas of a master, of which there is one at least.
func (r *scenarioRun) replicasOf(master *redistest.Server) (replicas []*redistest.Server) {
	port := hostPort(master)[1]
	redistest.Eventually(r.testbed, func() bool {
		replicas = nil
		for _, s := range r.backend.servers {
			info, err := s.Admin.Info(context.Background(), "replication").Result()
			if err == nil && strings.Contains(info, "master_port:"+port) {
				replicas = append(replicas, s)
			}
		}
		return len(replicas) > 0
	}, "there is a replica of %s", master.Addr)
	return replicas
}

// keysAt returns the numbers of the keys that a master serves.
func (r *scenarioRun) keysAt(master *redistest.Server) map[int]bool {
	keys := make(map[int]bool)
	for i, key := range r.keys { // other masters answer MOVED
		keys[i] = master.Admin.Exists(context.Background(), key).Err() == nil
	}
	return keys
}

// idsAt returns the IDs of the leases that a replica has.
func (r *scenarioRun) idsAt(replica *redistest.Server) map[string]bool {
	ids, ctx := make(map[string]bool), context.Background()
	for _, key := range r.keys {
		pipe := replica.Admin.Pipeline() // on one connection
		pipe.ReadOnly(ctx)               // a replica of a cluster then answers
		writer, readers := pipe.Get(ctx, key), pipe.ZRange(ctx, "warlock:{"+key+"}:readers", 0, -1)
		_, _ = pipe.Exec(ctx) // without a cluster, READONLY is an error; other keys are elsewhere
		for _, id := range append(readers.Val(), writer.Val()) {
			ids[id] = true
		}
	}
	return ids
}

// notKept returns how many leases failovers lost, of how many.
func (v *verdict) notKept() string {
	if v.ToKeep == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", v.NotKept, v.ToKeep)
}

// judgeSuccessions counts the leases that failovers had to keep, and those that they
// lost. With WithReplicas none may be lost.
func (v *verdict) judgeSuccessions(successions []succession, replicas int) {
	f := &judge.Findings{Judge: "durable"}
	for _, s := range successions {
		for _, o := range v.history.Ops {
			held := o.Granted != 0 && o.Granted < s.killed && o.Checked.Deadline > s.looked &&
				(o.UnlockCalled == 0 || o.UnlockCalled > s.looked) && (o.Lost == 0 || o.Lost > s.looked)
			if !held || !s.keys[o.Key] {
				continue
			}
			v.ToKeep++
			if s.ids[o.ID] {
				continue
			}
			v.NotKept++
			if replicas > 0 {
				f.Add(o.Key, "%s was lost by a failover, though %d replicas had it", o, replicas)
			}
		}
	}
	v.Violations = append(v.Violations, f.Violations...)
}
