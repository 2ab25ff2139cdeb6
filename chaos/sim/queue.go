package sim

import (
	"strconv"
	"strings"
	"time"
)

// A queueWatch looks at the queue of a lock between the scripts that a server
// runs for it. The library promises that a call that queues a waiter drops some
// of the dead ones, so that they are never many more than the living.
type queueWatch struct {
	id   string // of the last script
	at   int64  // when the server ran it, us by its clock
	dead int    // waiters at that time, before the script
}

// watchQueues looks at the queues of the locks of a frame, before the server
// executes it.
func (s *server) watchQueues(scripts []script) {
	for _, script := range scripts {
		if script.requests > 1 || len(script.keys) < keysOfScript {
			continue
		}
		now := s.now().UnixMicro()
		before, known := s.queues[script.keys[0]]
		s.queues[script.keys[0]] = queueWatch{script.id, now, s.deadWaiters(script, now)}
		if !known || before.dead == 0 || !s.queued(script, before) {
			continue
		}
		if dead := s.deadWaiters(script, before.at); dead >= before.dead {
			s.problem("%s has %d dead waiters for %s, and had %d before %s queued",
				s.name, dead, script.keys[0], before.dead, before.id)
		}
	}
}

// queued reports whether the last script queued its ID.
func (s *server) queued(script script, w queueWatch) bool {
	record := s.redis.Mini.HGet(script.keys[waitersKey], w.id)
	return strings.HasPrefix(record, strconv.FormatInt(w.at, 10)+" ")
}

// deadWaiters returns how many waiters are dead at a time.
func (s *server) deadWaiters(script script, at int64) (n int) {
	if !s.redis.Mini.Exists(script.keys[deadlinesKey]) {
		return 0
	}
	deadlines, _ := s.redis.Mini.SortedSet(script.keys[deadlinesKey])
	for _, deadline := range deadlines {
		if int64(deadline) < at/int64(time.Millisecond/time.Microsecond) {
			n++
		}
	}
	return n
}

// The keys of a lock, as each script has them. A script of a quorum has the memory of the
// server as well. The script that asks for the memory has no other key.
const (
	waitersKey   = 3
	deadlinesKey = 5
	keysOfScript = 6
	keysOfJoint  = 3 // of each lock, in the script that serves several
)

// joins are the first arguments of the script that serves several locks.
var joins = map[string]bool{"acquire": true, "renew": true, "release": true}

// A script is a script of a frame.
type script struct {
	keys     []string
	id       string // its first argument: in most scripts the ID
	requests int    // it serves: 1, or those of several locks
}

// scriptsOf returns the scripts of a frame.
func scriptsOf(p []byte) (scripts []script) {
	words := strings.Split(string(p), "\r\n")
	for i := 0; i+1 < len(words); i++ {
		name := strings.ToLower(words[i])
		if name != "evalsha" && name != "eval" {
			continue
		}
		if i+4 >= len(words) {
			return scripts
		}
		// The name, $, the script, $, the number of keys, and then $ and a key each.
		n, _ := strconv.Atoi(words[i+4])
		after := i + 6 + 2*n // of the first argument
		if after >= len(words) {
			return scripts
		}
		s := script{id: words[after], requests: 1}
		if joins[s.id] { // the name of a script for one lock
			s.requests = n / keysOfJoint
		}
		for j := range n {
			s.keys = append(s.keys, words[i+6+2*j])
		}
		scripts = append(scripts, s)
	}
	return scripts
}
