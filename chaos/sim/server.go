package sim

import (
	"bufio"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	mini "github.com/alicebob/miniredis/v2/server"

	"github.com/warlock-go/warlock/internal/bubble"
)

// A server is a Redis server. It executes a frame when the frame arrives. It may
// have replicas, which have its data a moment later.
type server struct {
	*world
	number int
	name   string
	redis  *bubble.Redis
	queues map[string]queueWatch // by lock; of the scheduler alone
	down   atomic.Bool           // it takes no connections
	mood   atomic.Value          // of mood
	wrote  atomic.Bool           // the script that is being executed has written

	recording *Recording // nil: none is made

	mu       sync.Mutex // guards the following
	offset   time.Duration
	run      runOfServer
	frozen   time.Time // until then it does nothing; zero: it goes on
	held     []func()  // what came while it was frozen
	copies   []copyOfData
	replicas []*server
	waits    []replicaWait // of the frame that is being executed
	sent     time.Time     // when the last change arrives at the replicas
	messages [][2]string   // published by the frame that is being executed
}

// A mood is how a server answers.
type mood string

const (
	willing   mood = ""
	loading   mood = "LOADING Redis is loading the dataset in memory"
	outOfRoom mood = "OOM command not allowed when used memory > 'maxmemory'."
	readOnly  mood = "READONLY You can't write against a read only replica."
)

// writes are the commands with which a script writes. growing are those of them
// that a server without room refuses, until the script has written.
var (
	writes  = []string{"SET", "DEL", "UNLINK", "PEXPIRE", "HSET", "HDEL", "ZADD", "ZREM"}
	growing = []string{"SET", "HSET", "ZADD"}
)

func (w *world) newServer(number int) *server {
	s := &server{
		world: w, number: number, name: "server " + strconv.Itoa(number), redis: bubble.Start(),
		queues: make(map[string]queueWatch),
	}
	s.setMood(willing)
	s.starts(upBefore)
	s.redis.Mini.Server().SetPreHook(s.hook)
	s.setTime()
	return s
}

// setMood lets the server answer as m says from now on.
func (s *server) setMood(m mood) {
	s.mood.Store(m)
	s.record(moodSet, "", []byte(m))
}

// hook refuses commands as the server's mood is, tells the time, keeps scripts,
// and notes messages. A command of a script passes it, too.
func (s *server) hook(c *mini.Peer, cmd string, args ...string) bool {
	m := s.mood.Load().(mood)
	script, write := strings.HasPrefix(cmd, "EVAL"), slices.Contains(writes, cmd)
	switch {
	case m == loading && script,
		m == readOnly && write,
		m == outOfRoom && !s.wrote.Load() && slices.Contains(growing, cmd):
		c.WriteError(string(m))
		return true
	}
	s.wrote.Store(write || s.wrote.Load() && !script)
	switch {
	case cmd == "TIME":
		now := s.now()
		c.WriteStrings([]string{
			strconv.FormatInt(now.Unix(), 10), strconv.Itoa(now.Nanosecond() / 1000),
		})
		return true
	case cmd == "INFO" && s.info(args) != "":
		c.WriteBulk(s.info(args))
		return true
	case cmd == "WAIT" && len(args) > 0:
		c.WriteInt(s.await(args))
		return true
	case cmd == "EVAL" && len(args) > 0: // miniredis would forget a script that fails
		s.apply("SCRIPT", "LOAD", args[0])
	case cmd == "PUBLISH" && len(args) == 2:
		s.mu.Lock()
		s.messages = append(s.messages, [2]string{args[0], args[1]})
		s.mu.Unlock()
	}
	return false
}

// now returns what the server's clock shows.
func (s *server) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return serverEpoch.Add(time.Since(s.began) + s.offset)
}

// setTime sets the clock by which the server's keys expire.
//
// Redis counts whole milliseconds, and a key lives until the clock is past its
// end. miniredis counts nanoseconds, and a key is gone at its end. So this clock
// moves once a millisecond, by a tick. A key outlives its end by 1 ns for each
// millisecond of its life. PTTL rounds down, and tells what Redis tells. No key
// of a lock lives for 10^6 ms.
func (s *server) setTime() {
	ticks := s.now().UnixMilli() - serverEpoch.UnixMilli()
	s.redis.Mini.SetTime(serverEpoch.Add(time.Duration(ticks) * tick))
}

// tick stands for a millisecond, see setTime.
const tick = time.Millisecond - 1

// serverEpoch is what the clock of a server shows at the beginning of a run. All
// runs of a seed have the same times.
var serverEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// receive executes a frame.
func (s *server) receive(l *link, p []byte) {
	if s.down.Load() {
		return
	}
	s.hash(l.name, p)
	s.tellFrame(l, up, p)
	s.setTime()
	scripts := scriptsOf(p)
	s.countTogether(scripts)
	s.watchQueues(scripts)
	s.recordState()
	s.record(requested, l.name, p)
	l.remote.Deliver(p)
	s.mu.Lock()
	replicated := len(s.replicas) > 0 || s.plan.Durable
	s.mu.Unlock()
	if replicated {
		synctest.Wait()
		s.replicate(keysOf(scripts))
	}
	s.mu.Lock()
	s.messages = nil
	s.mu.Unlock()
}

// ahead returns how far the clock is ahead of the right time.
func (s *server) ahead() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.offset
}

// setClock lets the clock be off by offset, and returns how far it was set back.
// Keys expire by it.
func (s *server) setClock(offset time.Duration) (back time.Duration) {
	s.setTime()
	s.record(clockMoves, "", nil)
	before := s.now().UnixMilli()
	s.mu.Lock()
	s.offset = offset
	s.mu.Unlock()
	m := s.redis.Mini
	back = time.Duration(before-s.now().UnixMilli()) * time.Millisecond
	if back > 0 { // miniredis counts down what is left, and expiries are absolute
		for _, key := range m.Keys() {
			if ttl := m.TTL(key); ttl > 0 {
				m.SetTTL(key, ttl+back)
			}
		}
	}
	s.setTime()
	return max(0, back)
}

// forget loses all data, and scripts.
func (s *server) forget() {
	s.redis.Mini.FlushAll()
	s.record(emptied, "", nil)
	s.flushScripts()
}

// emptyReplicas lets the replicas forget all data. They learn of it when their
// master is up again.
func (s *server) emptyReplicas() {
	s.mu.Lock()
	replicas := slices.Clone(s.replicas)
	s.mu.Unlock()
	for _, r := range replicas {
		r.forget()
	}
}

func (s *server) flushScripts() {
	s.setTime()
	s.apply("SCRIPT", "FLUSH")
	s.record(flushed, "", nil)
}

// apply executes a command.
func (s *server) apply(words ...string) {
	s.redis.Mini.Server().Dispatch(mini.NewPeer(bufio.NewWriter(io.Discard)), words)
}

// A change is the state of some keys, and messages.
type change struct {
	keys     []keyState
	messages [][2]string
}

// A keyState is a key with its value.
type keyState struct {
	key    string
	text   string
	hash   map[string]string
	sorted map[string]float64
	ttl    time.Duration // 0: none, or there is no such key
	at     time.Time
}

// replicate sends the state of keys to the replicas.
func (s *server) replicate(keys []string) {
	c := change{}
	for _, key := range keys {
		c.keys = append(c.keys, stateOf(s.redis.Mini, key))
	}
	s.mu.Lock()
	c.messages = s.messages
	chance := s.chance(uint64(time.Since(s.began)), uint64(s.number), 2)
	lag := time.Duration(chance.Int64N(int64(s.plan.Lag)))
	at := later(s.sent, time.Now().Add(lag))
	s.sent = at
	replicas := slices.Clone(s.replicas)
	s.mu.Unlock()
	for _, r := range replicas {
		s.scheduler.at(at, func() {
			if s.replicates(r) {
				r.take(c)
			}
		})
	}
	s.answerWaits(replicas, at)
}

// replicates reports whether r is still a replica of s.
func (s *server) replicates(r *server) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.replicas, r)
}

// follow makes s a replica of master, with a copy of its data.
func (s *server) follow(master *server) {
	s.setMood(readOnly)
	s.copyData(master)
	master.mu.Lock()
	defer master.mu.Unlock()
	master.replicas = append(master.replicas, s)
}

// copyData replaces the data of s by a copy of those of another server.
func (s *server) copyData(from *server) {
	s.setTime()
	from.setTime()
	s.redis.Mini.FlushAll()
	c := change{}
	for _, key := range from.redis.Mini.Keys() {
		c.keys = append(c.keys, stateOf(from.redis.Mini, key))
	}
	s.take(c)
}

// leave ends the replication by s.
func (s *server) leave(master *server) {
	master.mu.Lock()
	defer master.mu.Unlock()
	master.replicas = slices.DeleteFunc(master.replicas, func(r *server) bool { return r == s })
}

// take applies a change.
func (s *server) take(c change) {
	s.setTime()
	for _, k := range c.keys {
		k.apply(s.redis.Mini)
	}
	for _, m := range c.messages {
		s.redis.Mini.Publish(m[0], m[1])
	}
}

// stateOf returns the state of a key.
func stateOf(m *miniredis.Miniredis, key string) keyState {
	k := keyState{key: key, at: time.Now()}
	if !m.Exists(key) {
		return k
	}
	k.ttl = m.TTL(key)
	switch m.Type(key) {
	case "string":
		k.text, _ = m.Get(key)
	case "hash":
		k.hash = make(map[string]string)
		fields, _ := m.HKeys(key)
		for _, f := range fields {
			k.hash[f] = m.HGet(key, f)
		}
	case "zset":
		k.sorted, _ = m.SortedSet(key)
	}
	return k
}

// apply gives the key its state. The ttl counts from when the state was looked
// at.
func (k *keyState) apply(m *miniredis.Miniredis) {
	m.Del(k.key)
	ttl := k.ttl - time.Since(k.at)
	if k.ttl > 0 && ttl <= 0 {
		return
	}
	switch {
	case k.hash != nil:
		for f, v := range k.hash {
			m.HSet(k.key, f, v)
		}
	case k.sorted != nil:
		for member, score := range k.sorted {
			_, _ = m.ZAdd(k.key, score, member) // fails only on another type, and it is new
		}
	case k.text != "":
		_ = m.Set(k.key, k.text) // as above
	default:
		return
	}
	if k.ttl > 0 {
		m.SetTTL(k.key, ttl)
	}
}

// keysOf returns the keys of scripts.
func keysOf(scripts []script) (keys []string) {
	for _, s := range scripts {
		for _, key := range s.keys {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}
