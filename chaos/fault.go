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
	"github.com/warlock-go/warlock/internal/redistest"
)

// A fault is made, lasts for a while, and is mended. What it does and when goes into the
// history.
type fault struct {
	name string
	make func(*stage)
}

var (
	killWorkers = fault{"kill -9", (*stage).killWorkers}
	stopWorkers = fault{"SIGSTOP", (*stage).stopWorkers}

	latency      = fault{"latency", (*stage).latency}
	cutLines     = fault{"cut", (*stage).cutLines}
	halfOpen     = fault{"half-open", (*stage).halfOpen}
	dropReplies  = fault{"replies dropped", (*stage).dropReplies}
	slowThenGone = fault{"slow, then half-open", (*stage).slowThenGone}

	killPubSub  = fault{"CLIENT KILL pubsub", (*stage).killPubSub}
	killNormal  = fault{"CLIENT KILL normal", (*stage).killNormal}
	pauseServer = fault{"CLIENT PAUSE", (*stage).pauseServer}
	flushScript = fault{"SCRIPT FLUSH", (*stage).flushScripts}
	fillMemory  = fault{"maxmemory", (*stage).fillMemory}
	deleteLock  = fault{"DEL", (*stage).deleteLock}
	deleteAll   = fault{"FLUSHALL", (*stage).deleteAll}
	moveClock   = fault{"clock moved", (*stage).moveClock}

	endShares  = fault{"readers released", (*stage).endShares}
	loneMaster = fault{"NOREPLICAS", (*stage).loneMaster}
	readOnly   = fault{"READONLY", (*stage).readOnly}

	restartKept  = fault{"restart, kept", (*stage).restartKept}
	restartEmpty = fault{"restart, empty", (*stage).restartEmpty}

	masterKilled = fault{"master killed", (*stage).masterKilled}
	masterHung   = fault{"master stopped", (*stage).masterHung}
	failover     = fault{"failover asked for", (*stage).failover}
	slotMoved    = fault{"slot migrated", (*stage).slotMoved}
	addressMoved = fault{"address moved", (*stage).addressMoved}
)

// during notes an effect that lasts as long as f runs.
func (s *stage) during(what does, slots []int, key int, f func()) {
	e := &effect{Fault: s.fault, Start: now(), Slots: slots, Key: key, Does: what}
	f()
	e.End = now()
	s.recorder.hit(e)
}

func (s *stage) killWorkers() {
	slots := s.some(1, 3)
	s.during(halts|ends, slots, allKeys, func() {
		for _, slot := range slots {
			s.crew.kill(slot)
		}
		s.wait(s.between(0, 500*time.Millisecond))
		for _, slot := range slots {
			s.crew.start(slot)
		}
	})
}

func (s *stage) stopWorkers() {
	slots := s.some(1, 5)
	s.during(halts, slots, allKeys, func() {
		for _, slot := range slots {
			s.crew.signal(slot, syscall.SIGSTOP)
		}
		s.wait(s.between(200*time.Millisecond, 4*time.Second))
		for _, slot := range slots {
			s.crew.signal(slot, syscall.SIGCONT)
		}
	})
}

func (s *stage) latency() {
	slots := s.some(1, workers)
	s.during(delays, slots, allKeys, func() {
		by := s.between(5*time.Millisecond, 300*time.Millisecond)
		s.network.slow(slots, requests, by, by/2)
		s.network.slow(slots, replies, by, by/2)
		s.wait(s.between(500*time.Millisecond, 2*time.Second))
		s.network.restore(slots)
	})
}

func (s *stage) cutLines() {
	slots := s.some(1, workers)
	s.during(delays, slots, allKeys, func() {
		s.network.cut(slots)
		s.wait(s.between(0, time.Second))
		s.network.mend(slots)
	})
}

func (s *stage) halfOpen() {
	slots := s.some(1, 4)
	s.during(delays, slots, allKeys, func() {
		s.network.silence(slots, requests)
		s.network.silence(slots, replies)
		s.wait(s.between(300*time.Millisecond, 2*time.Second))
		s.network.restore(slots)
	})
}

func (s *stage) dropReplies() {
	slots := s.some(1, 4)
	s.during(delays, slots, allKeys, func() {
		s.network.silence(slots, replies)
		s.wait(s.between(100*time.Millisecond, 1500*time.Millisecond))
		s.network.restore(slots)
	})
}

// slowThenGone lets the answers to renewals be late, and then to be missed.
func (s *stage) slowThenGone() {
	slots := s.some(1, 3)
	s.during(delays, slots, allKeys, func() {
		by := s.between(50*time.Millisecond, 400*time.Millisecond)
		s.network.slow(slots, replies, by, 0)
		s.wait(s.between(500*time.Millisecond, 1500*time.Millisecond))
		s.network.silence(slots, requests)
		s.wait(s.between(time.Second, 2*time.Second))
		s.network.restore(slots)
	})
}

// servers asks something of each server that answers.
func (s *stage) servers(words ...any) {
	for _, server := range s.backend.servers {
		err := server.Admin.Do(context.Background(), words...).Err()
		if err != nil && err != redis.Nil {
			s.Fatalf("%v: %v", words, err)
		}
	}
}

func (s *stage) killPubSub() {
	s.during(delays, nil, allKeys, func() {
		for range s.rng.IntN(4) + 1 {
			s.servers("CLIENT", "KILL", "TYPE", "pubsub")
			s.wait(s.between(0, 200*time.Millisecond))
		}
	})
}

func (s *stage) killNormal() {
	s.during(delays, nil, allKeys, func() {
		for range s.rng.IntN(4) + 1 {
			s.servers("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
			s.wait(s.between(0, 100*time.Millisecond))
		}
	})
}

func (s *stage) pauseServer() {
	s.during(delays, nil, allKeys, func() {
		d := s.between(100*time.Millisecond, 1500*time.Millisecond)
		s.servers("CLIENT", "PAUSE", d.Milliseconds(), "ALL")
		s.wait(d)
	})
}

func (s *stage) flushScripts() {
	s.during(0, nil, allKeys, func() { s.servers("SCRIPT", "FLUSH") })
}

func (s *stage) fillMemory() {
	s.during(delays, nil, allKeys, func() {
		s.servers("CONFIG", "SET", "maxmemory", 1)
		s.wait(s.between(200*time.Millisecond, 2*time.Second))
		s.servers("CONFIG", "SET", "maxmemory", 0)
	})
}

// deleteLock deletes what is under a lock's key, and now and then all that is beside it too.
func (s *stage) deleteLock() {
	key := s.rng.IntN(len(s.keys))
	words := []any{"DEL", s.keys[key]}
	s.during(delays|loses|wipes, nil, key, func() {
		if s.rng.IntN(3) == 0 {
			for _, name := range s.backend.servers[0].Keys() {
				if strings.Contains(name, "{"+s.keys[key]+"}") {
					words = append(words, name)
				}
			}
		}
		s.servers(words...)
	})
}

func (s *stage) deleteAll() {
	s.during(delays|loses|wipes, nil, allKeys, func() { s.servers("FLUSHALL") })
}

// endShares releases all who read, by their IDs, as an administrator may. Each waiter is then told at once that it
// has the lock. The readers learn of it at their next renewal.
func (s *stage) endShares() {
	ctx, admin := context.Background(), s.backend.servers[0].Admin
	for key, name := range s.keys {
		s.during(delays|loses, nil, key, func() {
			ids, err := admin.ZRange(ctx, "warlock:{"+name+"}:readers", 0, -1).Result()
			s.must(err)
			for _, id := range ids {
				if err := warlock.Release(ctx, admin, name, id); !errors.Is(err, warlock.ErrNotHeld) {
					s.must(err)
				}
			}
		})
	}
}

// loneMaster lets the server refuse to write, as one that has lost its replicas.
func (s *stage) loneMaster() {
	s.refuse([]any{"CONFIG", "SET", "min-replicas-to-write", 1}, []any{"CONFIG", "SET", "min-replicas-to-write", 0})
}

// readOnly lets the server refuse to write, as a replica.
func (s *stage) readOnly() {
	s.refuse([]any{"REPLICAOF", "127.0.0.1", 1}, []any{"REPLICAOF", "NO", "ONE"}) // nobody listens there
}

// refuse lets servers refuse to write for a moment.
func (s *stage) refuse(begin, end []any) {
	s.during(refuses, nil, allKeys, func() {
		s.servers(begin...)
		s.wait(s.between(100*time.Millisecond, 400*time.Millisecond))
		s.servers(end...)
	})
}

// moveClock sets the clock by up to the lifetime of the floor of tokens.
func (s *stage) moveClock() {
	const most = 60
	s.setClock(time.Duration(s.rng.IntN(2*most+1)-most) * time.Second)
}

func (s *stage) setClock(offset time.Duration) {
	s.during(delays|loses, nil, allKeys, func() {
		s.backend.servers[0].SetClock(offset)
		s.wait(10 * time.Millisecond) // until the server has looked at it
	})
}

func (s *stage) restartKept() {
	s.during(delays, nil, allKeys, s.restart)
}

func (s *stage) restartEmpty() {
	s.during(delays|loses|wipes, nil, allKeys, s.restart)
}

func (s *stage) restart() {
	server := s.backend.servers[0]
	server.Kill()
	s.wait(s.between(0, 500*time.Millisecond))
	server.Restart()
}

// masterKilled kills a master, and starts it again when another has taken its place.
func (s *stage) masterKilled() {
	s.during(delays|loses, nil, allKeys, func() {
		key := s.keys[s.rng.IntN(len(s.keys))]
		old := s.backend.master(s.ground, key)
		old.Kill()
		s.successor(old, key)
		old.Restart()
		s.whole()
	})
}

// masterHung stops a master, and lets it go on when another has taken its place: for a moment there are
// two.
func (s *stage) masterHung() {
	s.during(delays|loses, nil, allKeys, func() {
		key := s.keys[s.rng.IntN(len(s.keys))]
		old := s.backend.master(s.ground, key)
		old.Pause()
		s.successor(old, key)
		old.Resume()
		s.whole()
	})
}

// successor waits until a server other than old is the master for key.
func (s *stage) successor(old *redistest.Server, key string) {
	rest := &backend{kind: s.backend.kind}
	for _, server := range s.backend.servers {
		if server != old {
			rest.servers = append(rest.servers, server)
		}
	}
	rest.master(s.ground, key)
}

// whole waits until all servers, and Sentinels, know their places.
func (s *stage) whole() {
	if s.backend.kind == cluster {
		redistest.Eventually(s.ground, s.backend.whole, "the cluster is whole again")
		return
	}
	redistest.Eventually(s.ground, func() bool { return s.backend.replicated() && s.backend.watched() }, "the old master is a replica")
}

// failover asks for one, as for maintenance: the old master lives.
func (s *stage) failover() {
	s.during(delays|loses, nil, allKeys, func() {
		key := s.keys[s.rng.IntN(len(s.keys))]
		old := s.backend.master(s.ground, key)
		if s.backend.kind == sentinel {
			s.backend.sentinels[0].Do("SENTINEL", "FAILOVER", masterName)
			s.successor(old, key)
		} else {
			s.replicaOf(old).Do("CLUSTER", "FAILOVER")
			s.successor(old, key)
		}
		s.whole()
	})
}

// replicaOf returns a replica of a cluster's master.
func (s *stage) replicaOf(master *redistest.Server) (replica *redistest.Server) {
	port := hostPort(master)[1]
	redistest.Eventually(s.ground, func() bool {
		for _, server := range s.backend.servers {
			info, err := server.Admin.Info(context.Background(), "replication").Result()
			if err == nil && strings.Contains(info, "master_port:"+port) {
				replica = server
				return true
			}
		}
		return false
	}, "there is a replica of %s", master.Addr)
	return replica
}

// slotMoved moves the slot of a lock to another master, with the keys in it.
func (s *stage) slotMoved() {
	s.during(delays, nil, allKeys, func() {
		key := s.keys[s.rng.IntN(len(s.keys))]
		from := s.backend.master(s.ground, key)
		others := slices.DeleteFunc(s.backend.masters(), func(server *redistest.Server) bool { return server == from })
		if len(others) == 0 {
			s.Fatalf("no master but %s", from.Addr)
		}
		to := others[s.rng.IntN(len(others))]
		redistest.MoveSlot(s.ground, from, to, key, func() { s.wait(s.between(0, 500*time.Millisecond)) })
		s.whole()
	})
}

// addressMoved exchanges a pair's master and replica, as for maintenance, and moves the address to the new master.
// Subscriptions stay with the old master, and hear there what the new one publishes. All other connections are
// closed. No acknowledged write is lost, so the fault excuses delays and nothing else.
func (s *stage) addressMoved() {
	s.during(delays, nil, allKeys, func() {
		old := s.backend.masters()[0]
		next := s.backend.servers[0]
		if next == old {
			next = s.backend.servers[1]
		}
		copies := next.Info("sync_full")
		s.promote(old, next)
		redistest.Eventually(s.ground, s.backend.replicated, "the old master is a replica")
		if next.Info("sync_full") != copies { // the old master could not go on where the new one began
			s.Fatalf("the old master had a write that the new one does not have")
		}
	})
}

// promote makes next the master, old its replica, and the address lead to next. Writes on old are paused until it is a
// replica; then it refuses them.
func (s *stage) promote(old, next *redistest.Server) {
	const most = 20 * time.Second
	began := now()
	old.Do("CLIENT", "PAUSE", most.Milliseconds(), "WRITE")
	redistest.Eventually(s.ground, func() bool { return offset(old) == offset(next) }, "the replica has every write")
	s.wait(s.between(0, 200*time.Millisecond)) // as an operator takes a moment
	next.Do("REPLICAOF", "NO", "ONE")
	to := hostPort(next)
	old.Do("REPLICAOF", to[0], to[1])
	if took := now().since(began); took > most {
		s.Fatalf("the failover took %v, but writes were paused for %v", took, most)
	}
	s.backend.address.move(next)
	old.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	old.Do("CLIENT", "UNPAUSE")
}

// offset returns how much of the stream of writes a server has carried out.
func offset(server *redistest.Server) any {
	role := server.Do("ROLE").([]any)
	if role[0] == "master" {
		return role[1]
	}
	return role[4]
}
