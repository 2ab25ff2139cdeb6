package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/chaos/judge"
	"github.com/warlock-go/warlock/internal/redistest"
)

// A fault is one kind of fault. Its function makes the fault, waits, mends it,
// and records its effects.
type fault struct {
	name string
	make func(*scenarioRun)
}

var (
	killWorkers = fault{"kill -9", (*scenarioRun).killWorkers}
	stopWorkers = fault{"SIGSTOP", (*scenarioRun).stopWorkers}

	latency      = fault{"latency", (*scenarioRun).latency}
	cutLines     = fault{"cut", (*scenarioRun).cutLines}
	halfOpen     = fault{"half-open", (*scenarioRun).halfOpen}
	dropReplies  = fault{"replies dropped", (*scenarioRun).dropReplies}
	slowThenGone = fault{"slow, then half-open", (*scenarioRun).slowThenGone}

	killPubSub   = fault{"CLIENT KILL pubsub", (*scenarioRun).killPubSub}
	killNormal   = fault{"CLIENT KILL normal", (*scenarioRun).killNormal}
	pauseServer  = fault{"CLIENT PAUSE", (*scenarioRun).pauseServer}
	flushScripts = fault{"SCRIPT FLUSH", (*scenarioRun).flushScripts}
	fillMemory   = fault{"maxmemory", (*scenarioRun).fillMemory}
	deleteLock   = fault{"DEL", (*scenarioRun).deleteLock}
	deleteAll    = fault{"FLUSHALL", (*scenarioRun).deleteAll}
	moveClock    = fault{"clock moved", (*scenarioRun).moveClock}

	releaseReaders = fault{"readers released", (*scenarioRun).releaseReaders}
	noReplicas     = fault{"NOREPLICAS", (*scenarioRun).noReplicas}
	readOnly       = fault{"READONLY", (*scenarioRun).readOnly}

	restartKept  = fault{"restart, kept", (*scenarioRun).restartKept}
	restartEmpty = fault{"restart, empty", (*scenarioRun).restartEmpty}

	killMaster  = fault{"master killed", (*scenarioRun).killMaster}
	killAhead   = fault{"master killed, ahead of its replicas", (*scenarioRun).killMasterAhead}
	stopMaster  = fault{"master stopped", (*scenarioRun).stopMaster}
	failOver    = fault{"failover asked for", (*scenarioRun).failOver}
	moveSlot    = fault{"slot migrated", (*scenarioRun).moveSlot}
	moveAddress = fault{"address moved", (*scenarioRun).moveAddress}
)

// Effects of faults that concern the servers' data.
const (
	mayLose  = judge.DelaysMessages | judge.MayLoseData
	losesAll = mayLose | judge.LosesData
)

// during runs f, and records a fault with these effects that lasts as long.
func (r *scenarioRun) during(effects judge.Effects, slots []int, key int, f func()) {
	fault := &judge.Fault{Name: r.fault, Start: now(), Slots: slots, Key: key, Effects: effects}
	f()
	fault.End = now()
	r.recorder.Fault(fault)
}

func (r *scenarioRun) killWorkers() {
	slots := r.randomSlots(1, 3)
	r.during(judge.StopsProcess|judge.KillsProcess, slots, judge.AllKeys, func() {
		for _, slot := range slots {
			r.workers.kill(slot)
		}
		r.wait(r.randomTime(0, 500*time.Millisecond))
		for _, slot := range slots {
			r.workers.start(slot)
		}
	})
}

func (r *scenarioRun) stopWorkers() {
	slots := r.randomSlots(1, 5)
	r.during(judge.StopsProcess, slots, judge.AllKeys, func() {
		for _, slot := range slots {
			r.workers.signal(slot, syscall.SIGSTOP)
		}
		r.wait(r.randomTime(200*time.Millisecond, 4*time.Second))
		for _, slot := range slots {
			r.workers.signal(slot, syscall.SIGCONT)
		}
	})
}

func (r *scenarioRun) latency() {
	slots := r.randomSlots(1, workerCount)
	r.during(judge.DelaysMessages, slots, judge.AllKeys, func() {
		by := r.randomTime(5*time.Millisecond, 300*time.Millisecond)
		r.network.slow(ofSlots(slots), requests, by, by/2)
		r.network.slow(ofSlots(slots), replies, by, by/2)
		r.wait(r.randomTime(500*time.Millisecond, 2*time.Second))
		r.network.restore(ofSlots(slots))
	})
}

func (r *scenarioRun) cutLines() {
	slots := r.randomSlots(1, workerCount)
	r.during(judge.DelaysMessages, slots, judge.AllKeys, func() {
		r.network.cut(ofSlots(slots))
		r.wait(r.randomTime(0, time.Second))
		r.network.mend(ofSlots(slots))
	})
}

func (r *scenarioRun) halfOpen() {
	slots := r.randomSlots(1, 4)
	r.during(judge.DelaysMessages, slots, judge.AllKeys, func() {
		r.network.silence(ofSlots(slots), requests)
		r.network.silence(ofSlots(slots), replies)
		r.wait(r.randomTime(300*time.Millisecond, 2*time.Second))
		r.network.restore(ofSlots(slots))
	})
}

func (r *scenarioRun) dropReplies() {
	slots := r.randomSlots(1, 4)
	r.during(judge.DelaysMessages, slots, judge.AllKeys, func() {
		r.network.silence(ofSlots(slots), replies)
		r.wait(r.randomTime(100*time.Millisecond, 1500*time.Millisecond))
		r.network.restore(ofSlots(slots))
	})
}

// slowThenGone delays replies, and then drops requests. So renewals get late
// replies at first, and then none.
func (r *scenarioRun) slowThenGone() {
	slots := r.randomSlots(1, 3)
	r.during(judge.DelaysMessages, slots, judge.AllKeys, func() {
		by := r.randomTime(50*time.Millisecond, 400*time.Millisecond)
		r.network.slow(ofSlots(slots), replies, by, 0)
		r.wait(r.randomTime(500*time.Millisecond, 1500*time.Millisecond))
		r.network.silence(ofSlots(slots), requests)
		r.wait(r.randomTime(time.Second, 2*time.Second))
		r.network.restore(ofSlots(slots))
	})
}

// askServers sends a command to each server.
func (r *scenarioRun) askServers(words ...any) {
	for _, server := range r.backend.servers {
		err := server.Admin.Do(context.Background(), words...).Err()
		if err != nil && err != redis.Nil {
			r.Fatalf("%v: %v", words, err)
		}
	}
}

func (r *scenarioRun) killPubSub() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, func() {
		for range r.rng.IntN(4) + 1 {
			r.askServers("CLIENT", "KILL", "TYPE", "pubsub")
			r.wait(r.randomTime(0, 200*time.Millisecond))
		}
	})
}

func (r *scenarioRun) killNormal() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, func() {
		for range r.rng.IntN(4) + 1 {
			r.askServers("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			r.wait(r.randomTime(0, 100*time.Millisecond))
		}
	})
}

func (r *scenarioRun) pauseServer() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, func() {
		d := r.randomTime(100*time.Millisecond, 1500*time.Millisecond)
		r.askServers("CLIENT", "PAUSE", d.Milliseconds(), "ALL")
		r.wait(d)
	})
}

func (r *scenarioRun) flushScripts() {
	r.during(0, nil, judge.AllKeys, func() { r.askServers("SCRIPT", "FLUSH") })
}

func (r *scenarioRun) fillMemory() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, func() {
		r.askServers("CONFIG", "SET", "maxmemory", 1)
		r.wait(r.randomTime(200*time.Millisecond, 2*time.Second))
		r.askServers("CONFIG", "SET", "maxmemory", 0)
	})
}

// deleteLock deletes a lock's key. In 1 of 3 cases it also deletes the lock's
// other keys.
func (r *scenarioRun) deleteLock() {
	key := r.rng.IntN(len(r.keys))
	words := []any{"DEL", r.keys[key]}
	r.during(losesAll, nil, key, func() {
		if r.rng.IntN(3) == 0 {
			for _, name := range r.backend.servers[0].Keys() {
				if strings.Contains(name, "{"+r.keys[key]+"}") {
					words = append(words, name)
				}
			}
		}
		r.askServers(words...)
	})
}

func (r *scenarioRun) deleteAll() {
	r.during(losesAll, nil, judge.AllKeys, func() { r.askServers("FLUSHALL") })
}

// releaseReaders releases all readers by their IDs, as an administrator may.
// Each waiter learns of its grant at once. The readers learn of their loss at
// their next renewal.
func (r *scenarioRun) releaseReaders() {
	ctx, admin := context.Background(), r.backend.servers[0].Admin
	for key, name := range r.keys {
		r.during(mayLose, nil, key, func() {
			ids, err := admin.ZRange(ctx, "warlock:{"+name+"}:readers", 0, -1).Result()
			r.must(err)
			for _, id := range ids {
				if err := warlock.Release(ctx, admin, name, id); !errors.Is(err, warlock.ErrNotHeld) {
					r.must(err)
				}
			}
		})
	}
}

// noReplicas lets the server refuse to write, as a master that lost its
// replicas.
func (r *scenarioRun) noReplicas() {
	r.refuse([]any{"CONFIG", "SET", "min-replicas-to-write", 1},
		[]any{"CONFIG", "SET", "min-replicas-to-write", 0})
}

// readOnly lets the server refuse to write, as a replica.
func (r *scenarioRun) readOnly() {
	noMaster := []any{"REPLICAOF", "127.0.0.1", 1} // no server listens there
	r.refuse(noMaster, []any{"REPLICAOF", "NO", "ONE"})
}

// refuse lets servers refuse to write, from the command begin to the command
// end.
func (r *scenarioRun) refuse(begin, end []any) {
	r.during(judge.RefusesWrites, nil, judge.AllKeys, func() {
		r.askServers(begin...)
		r.wait(r.randomTime(100*time.Millisecond, 400*time.Millisecond))
		r.askServers(end...)
	})
}

// moveClock sets the clock to a random offset.
func (r *scenarioRun) moveClock() { r.setClock(r.randomOffset()) }

// randomOffset returns by how much a clock is to differ from the right time: up to 60 s
// before or after. So two of them differ by up to the 2 minutes for which a fence
// outlives a lease.
func (r *scenarioRun) randomOffset() time.Duration {
	const most = 60
	return time.Duration(r.rng.IntN(2*most+1)-most) * time.Second
}

func (r *scenarioRun) setClock(offset time.Duration) {
	r.during(mayLose, nil, judge.AllKeys, func() {
		r.backend.servers[0].SetClock(offset)
		r.wait(10 * time.Millisecond) // until the server has read its clock
	})
}

func (r *scenarioRun) restartKept() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, r.restart)
}

func (r *scenarioRun) restartEmpty() {
	r.during(losesAll, nil, judge.AllKeys, r.restart)
}

func (r *scenarioRun) restart() {
	server := r.backend.servers[0]
	server.Kill()
	r.wait(r.randomTime(0, 500*time.Millisecond))
	server.Restart()
}

// stopMaster stops a master, and lets it go on when it has a successor. For a
// moment there are two masters.
func (r *scenarioRun) stopMaster() {
	r.during(r.effectsOfFailover(), nil, judge.AllKeys, func() {
		key := r.keys[r.rng.IntN(len(r.keys))]
		old := r.backend.master(r.testbed, key)
		old.Pause()
		r.waitForSuccessor(old, key)
		old.Resume()
		r.waitHealthy()
	})
}

// waitForSuccessor waits until a server other than old is the master for key, and
// returns that.
func (r *scenarioRun) waitForSuccessor(old *redistest.Server, key string) *redistest.Server {
	rest := &backend{kind: r.backend.kind}
	for _, server := range r.backend.servers {
		if server != old {
			rest.servers = append(rest.servers, server)
		}
	}
	return rest.master(r.testbed, key)
}

// waitHealthy waits until all servers and Sentinels know their roles.
func (r *scenarioRun) waitHealthy() {
	if r.backend.kind == cluster {
		redistest.Eventually(r.testbed, r.backend.clusterHealthy, "the cluster is healthy again")
		return
	}
	healthy := func() bool { return r.backend.replicated() && r.backend.sentinelsReady() }
	// Sentinels may take longer to turn an old master than a test waits for most things.
	for longest := time.Now().Add(40 * time.Second); !healthy() && time.Now().Before(longest); {
		r.wait(50 * time.Millisecond)
	}
	redistest.Eventually(r.testbed, healthy, "the old master is a replica")
}

// failOver asks for a failover, as for maintenance. The old master lives on.
func (r *scenarioRun) failOver() {
	r.during(r.effectsOfFailover(), nil, judge.AllKeys, func() {
		key := r.keys[r.rng.IntN(len(r.keys))]
		old := r.backend.master(r.testbed, key)
		if r.backend.kind == sentinel {
			r.backend.sentinels[0].Do("SENTINEL", "FAILOVER", masterName)
			r.waitForSuccessor(old, key)
		} else {
			r.replicasOf(old)[0].Do("CLUSTER", "FAILOVER")
			r.waitForSuccessor(old, key)
		}
		r.waitHealthy()
	})
}

// moveSlot moves the slot of a lock to another master, with its keys.
func (r *scenarioRun) moveSlot() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, func() {
		key := r.keys[r.rng.IntN(len(r.keys))]
		from := r.backend.master(r.testbed, key)
		others := slices.DeleteFunc(r.backend.masters(), func(server *redistest.Server) bool {
			return server == from
		})
		if len(others) == 0 {
			r.Fatalf("no master but %s", from.Addr)
		}
		to := others[r.rng.IntN(len(others))]
		redistest.MoveSlot(r.testbed, from, to, key, func() {
			r.wait(r.randomTime(0, 500*time.Millisecond))
		})
		r.waitHealthy()
	})
}

// moveAddress exchanges a pair's master and replica, as for maintenance, and
// moves the address to the new master. Subscriptions stay with the old master,
// and receive there what the new master publishes. All other connections are
// closed. No acknowledged write is lost, so the fault excuses only delays.
func (r *scenarioRun) moveAddress() {
	r.during(judge.DelaysMessages, nil, judge.AllKeys, func() {
		old := r.backend.masters()[0]
		next := r.backend.servers[0]
		if next == old {
			next = r.backend.servers[1]
		}
		copies := next.Info("sync_full")
		r.promote(old, next)
		redistest.Eventually(r.testbed, r.backend.replicated, "the old master is a replica")
		if next.Info("sync_full") != copies { // the old master had to copy everything anew
			r.Fatalf("the old master had a write that the new one does not have")
		}
	})
}

// promote makes next the master and old its replica, and moves the address to
// next. It pauses writes on old until old is a replica, which refuses writes.
func (r *scenarioRun) promote(old, next *redistest.Server) {
	const most = 20 * time.Second
	began := now()
	old.Do("CLIENT", "PAUSE", most.Milliseconds(), "WRITE")
	redistest.Eventually(r.testbed, func() bool {
		return offset(old) == offset(next)
	}, "the replica has every write")
	r.wait(r.randomTime(0, 200*time.Millisecond)) // an operator takes a moment
	next.Do("REPLICAOF", "NO", "ONE")
	to := hostPort(next)
	old.Do("REPLICAOF", to[0], to[1])
	if took := now().Since(began); took > most {
		r.Fatalf("the failover took %v, but writes were paused for %v", took, most)
	}
	r.backend.address.move(next)
	old.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	old.Do("CLIENT", "UNPAUSE")
}

// offset returns the replication offset of a server: how many bytes of the
// stream of writes it has carried out.
func offset(server *redistest.Server) any {
	role := server.Do("ROLE").([]any)
	if role[0] == "master" {
		return role[1]
	}
	return role[4]
}
