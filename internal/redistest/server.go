// Package redistest gives tests the Redis servers they run on: miniredis inside
// the test's process, and real redis-servers of their own on free loopback
// ports; and the means to break them and the way to them.
package redistest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Patience is how long a test waits for what should come at once.
const Patience = 20 * time.Second

// TB is what a server needs of its test. A program that is no test can be one,
// too: Fatal and what is like it must not return.
type TB interface {
	Helper()
	Cleanup(f func())
	TempDir() string
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Skipf(format string, args ...any)
}

// A Server is a Redis server that stops with its test.
type Server struct {
	Addr string
	Mini *miniredis.Miniredis // nil for a real server

	// Admin is a client for looking into the server and for breaking it.
	Admin *redis.Client

	tb   TB
	args []string
	env  []string
	node bool // of a cluster
	proc *exec.Cmd
	gone chan struct{} // closed when proc has ended

	clock []byte // the shared memory of a server started by StartWithClock

	// dial connects to a server in memory; nil: the server has a port.
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Each runs the same test over miniredis and over a real server, both at a
// time. It may return before the test has begun.
func Each(t *testing.T, test func(t *testing.T, s *Server)) {
	t.Helper()
	EachInTurn(t, func(t *testing.T, s *Server) {
		t.Parallel()
		test(t, s)
	})
}

// EachInTurn runs the same test over miniredis, and then over a real server. It
// is for a test that looks at its whole process.
func EachInTurn(t *testing.T, test func(t *testing.T, s *Server)) {
	t.Helper()
	t.Run("miniredis", func(t *testing.T) { test(t, StartMini(t)) })
	t.Run("redis-server", func(t *testing.T) { test(t, Start(t)) })
}

// tries is how often a server is started on another port: another process may
// take a port before the server does.
const tries = 5

// StartMini starts a miniredis.
func StartMini(tb TB) *Server {
	tb.Helper()
	mini := miniredis.NewMiniRedis()
	for try := 1; ; try++ { // another process, or test, may take the port first
		err := mini.StartAddr("127.0.0.1:" + strconv.Itoa(FreePort(tb)))
		if err == nil {
			break
		}
		if try == tries {
			tb.Fatal(err)
		}
	}
	tb.Cleanup(mini.Close)
	s := &Server{Addr: mini.Addr(), Mini: mini, tb: tb}
	s.Admin = s.Client()
	return s
}

// Start starts a real redis-server with args. Two environment variables matter:
//
//   - WARLOCK_REDIS_SERVER is the path of a redis-server or a valkey-server.
//     Tests start this program, also as a node of a cluster and as a Sentinel.
//     If the path names no program, the test fails. If the variable is empty,
//     tests start the redis-server in PATH.
//   - WARLOCK_REQUIRE_REDIS set to 1 fails a test that finds no redis-server in
//     PATH. Otherwise the test is skipped.
//
// The tests need Redis 7.0 or later. Nodes of a cluster need its
// --cluster-port, and some tests ask for PEXPIRETIME or COMMAND DOCS.
func Start(tb TB, args ...string) *Server {
	tb.Helper()
	s := &Server{tb: tb, args: args}
	s.start()
	return s
}

// StartNode starts a real redis-server with args as the node of a cluster,
// which serves no slots yet.
func StartNode(tb TB, args ...string) *Server {
	tb.Helper()
	args = append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "5000"}, args...)
	s := &Server{tb: tb, node: true, args: args}
	s.start()
	return s
}

func (s *Server) start() {
	s.tb.Helper()
	requireServer(s.tb)
	args := append([]string{
		"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.tb.TempDir(),
	}, s.args...)
	s.tb.Cleanup(s.Kill)
	for range tries {
		port := strconv.Itoa(FreePort(s.tb))
		s.Addr = "127.0.0.1:" + port
		ports := []string{"--port", port}
		if s.node {
			ports = append(ports, "--cluster-port", strconv.Itoa(FreePort(s.tb)))
		}
		if s.run(append(ports, args...)) {
			s.Admin = s.Client()
			return
		}
	}
	s.tb.Fatalf("%s does not start with %q", serverPath(), s.args)
}

// StartSentinel starts a Sentinel that watches s under the name master, alone.
func (s *Server) StartSentinel(master string) *Server {
	s.tb.Helper()
	host, port := hostPort(s.tb, s)
	file := filepath.Join(s.tb.TempDir(), "sentinel.conf") // which Sentinel writes to as well
	if err := os.WriteFile(file, fmt.Appendf(nil, "sentinel monitor %s %s %s 1\n", master, host, port), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	own := strconv.Itoa(FreePort(s.tb))
	sentinel := &Server{Addr: "127.0.0.1:" + own, tb: s.tb}
	s.tb.Cleanup(sentinel.Kill)
	if !sentinel.run([]string{file, "--sentinel", "--bind", "127.0.0.1", "--port", own}) {
		s.tb.Fatal("the Sentinel does not start")
	}
	return sentinel
}

const serverVariable = "WARLOCK_REDIS_SERVER"

// serverPath returns the program that a real server runs, see Start.
func serverPath() string {
	if path := os.Getenv(serverVariable); path != "" {
		return path
	}
	return "redis-server" // in PATH
}

// requireServer ends the test if the program of a real server is missing, see
// Start.
func requireServer(tb TB) {
	tb.Helper()
	path := os.Getenv(serverVariable)
	if path == "" {
		Require(tb, serverPath())
		return
	}
	if _, err := exec.LookPath(path); err != nil {
		tb.Fatalf("%s names no program: %v", serverVariable, err)
	}
}

// Require skips the test if there is no such program, or fails it if the
// environment variable WARLOCK_REQUIRE_REDIS is 1.
func Require(tb TB, program string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("WARLOCK_REQUIRE_REDIS") == "1" {
		tb.Fatalf("there is no %s in PATH, and WARLOCK_REQUIRE_REDIS=1", program)
	}
	tb.Skipf("there is no %s in PATH: install it to run this test", program)
}

// run starts a process and reports whether it came to answer.
func (s *Server) run(args []string) bool {
	proc := exec.Command(serverPath(), args...)
	proc.Env = append(os.Environ(), s.env...)
	proc.SysProcAttr = endWithTest()
	if err := proc.Start(); err != nil {
		s.tb.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = proc.Wait() // how it ended is of no interest
	}()
	s.proc, s.gone = proc, gone
	for !answers(s.Addr, proc.Process.Pid) {
		select {
		case <-gone:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// answers reports whether the process pid answers at addr. Another test's server
// may have taken the port first. A server that only listens may still end,
// because the port of its cluster's bus is taken.
func answers(addr string, pid int) bool {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return false
	}
	if _, err := io.WriteString(conn, "INFO server\r\n"); err != nil {
		return false
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if id, ok := strings.CutPrefix(lines.Text(), "process_id:"); ok {
			return id == strconv.Itoa(pid)
		}
		if strings.HasPrefix(lines.Text(), "-") { // it demands a password
			return true
		}
	}
	return false
}

// Kill ends the server as a crash does: nothing is saved.
func (s *Server) Kill() {
	if s.Mini != nil {
		s.Mini.Close()
		return
	}
	if s.proc != nil {
		_ = s.proc.Process.Kill() // it may have ended by itself
		<-s.gone
	}
}

// Restart starts the server anew after Kill, empty and under the same address.
func (s *Server) Restart() {
	s.tb.Helper()
	if s.Mini != nil {
		s.Mini.FlushAll()
		// A process that is being started holds the closed listener until it is
		// executed.
		Eventually(s.tb, func() bool { return s.Mini.Restart() == nil }, "the miniredis starts again")
		return
	}
	if !s.run(s.proc.Args[1:]) {
		s.tb.Fatalf("%s does not start again at %s", serverPath(), s.Addr)
	}
}

// Pause stops a real server's process; connections stay, and are not answered.
// The test is skipped on systems that cannot stop one.
func (s *Server) Pause() {
	s.tb.Helper()
	Stop(s.tb, s.proc.Process)
}

// Resume lets a paused server go on.
func (s *Server) Resume() {
	s.tb.Helper()
	GoOn(s.tb, s.proc.Process)
}

// Client returns a new client of the server, which is closed with the test.
func (s *Server) Client(change ...func(*redis.Options)) *redis.Client {
	opts := &redis.Options{Addr: s.Addr, Dialer: s.dial}
	for _, c := range change {
		c(opts)
	}
	client := redis.NewClient(opts)
	s.tb.Cleanup(func() { _ = client.Close() }) // the test may have closed it
	return client
}

// Do runs a command as the administrator and returns its reply.
func (s *Server) Do(words ...any) any {
	s.tb.Helper()
	reply, err := s.Admin.Do(context.Background(), words...).Result()
	if err != nil && err != redis.Nil {
		s.tb.Fatalf("%v: %v", words, err)
	}
	return reply
}

// Get returns the string under key, and "" if there is none.
func (s *Server) Get(key string) string {
	s.tb.Helper()
	value, _ := s.Do("GET", key).(string)
	return value
}

// Keys returns the names of all keys.
func (s *Server) Keys() []string {
	s.tb.Helper()
	keys, err := s.Admin.Keys(context.Background(), "*").Result()
	if err != nil {
		s.tb.Fatal(err)
	}
	return keys
}

// TTL returns how long key has to live; negative if it has no end or is not
// there.
func (s *Server) TTL(key string) time.Duration {
	s.tb.Helper()
	ttl, err := s.Admin.PTTL(context.Background(), key).Result()
	if err != nil {
		s.tb.Fatal(err)
	}
	return ttl
}

// Expire lets key run out now.
func (s *Server) Expire(key string) {
	s.tb.Helper()
	if s.Mini != nil {
		s.Mini.SetTTL(key, time.Millisecond)
		s.Mini.FastForward(time.Millisecond)
		return
	}
	s.Do("PEXPIRE", key, 1)
	Eventually(s.tb, func() bool { return s.Do("EXISTS", key) == int64(0) }, "%s expires", key)
}

// Eventually waits until cond holds, and fails the test if it does not. It
// calls cond every 1 ms at first, and every 10 ms when it has waited for long,
// so that tests that wait leave the processor to others.
func Eventually(tb TB, cond func() bool, format string, args ...any) {
	tb.Helper()
	const shortest, longest = time.Millisecond, 10 * time.Millisecond
	for begin := time.Now(); !cond(); {
		waited := time.Since(begin)
		if waited > Patience {
			tb.Fatalf("not within %v: %s", Patience, fmt.Sprintf(format, args...))
		}
		<-time.After(min(longest, shortest+waited/50))
	}
}

// ports has the ports that FreePort has returned, or found taken.
var ports sync.Map

// FreePort returns a TCP port that nobody listens on, on loopback. It is none
// of those that systems give to outgoing connections (Linux from 32768, others
// from 49152), for which a server that starts anew might lose its port. It
// returns each port once: two tests at a time would take the server that has
// the port for the server of both.
func FreePort(tb TB) int {
	tb.Helper()
	const first, last, tries = 10000, 32767, 100
	for range tries {
		port := first + rand.IntN(last-first+1)
		if _, given := ports.LoadOrStore(port, true); given {
			continue
		}
		// Listening instead would hold the port for as long as a process that
		// is just being started has a copy of the listener.
		conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			return port
		}
		_ = conn.Close()
	}
	tb.Fatalf("no free port in %d tries between %d and %d", tries, first, last)
	return 0
}

// Info returns one field of the server's INFO.
func (s *Server) Info(field string) string {
	s.tb.Helper()
	info, err := s.Admin.Info(context.Background(), "everything").Result()
	if err != nil {
		s.tb.Fatal(err)
	}
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	s.tb.Fatalf("the server's INFO has no %s", field)
	return ""
}
