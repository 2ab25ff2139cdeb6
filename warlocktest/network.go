package warlocktest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/warlock-go/warlock/internal/bubble"
)

// errDown is what calls of clients fail with while the network is down.
type errDown struct{}

func (errDown) Error() string { return "warlocktest: Redis is down: call Up to go on" }

// Is reports whether target is io.EOF, the error of a connection that the server
// has closed. It is not wrapped, since go-redis unwraps some errors.
func (errDown) Is(target error) bool { return target == io.EOF }

var errOver = errors.New("warlocktest: the test of this Redis is over")

// A network connects clients with the server, in memory. Its methods may be
// called concurrently.
//
// A connection that nobody uses while the network is down goes on to work after
// that. A client does not notice that an idle connection of its pool has broken. So
// its calls would fail on one after another when the network is up again.
type network struct {
	server *bubble.Redis

	// before is called before a request arrives at the server.
	before func()

	mu    sync.Mutex // guards the following
	state state
	conns map[*conn]struct{} // that are not closed
}

// A state is what a network does with what is sent.
type state int

const (
	up   state = iota // it arrives
	down              // it breaks its connection
	over              // and nobody can connect
)

func newNetwork(server *bubble.Redis, before func()) *network {
	return &network{server: server, before: before, conns: make(map[*conn]struct{})}
}

// dial connects a client. The connection works only while the network is up. To
// refuse it would have a client wait before it tries again.
func (n *network) dial(context.Context, string, string) (net.Conn, error) {
	c := &conn{network: n}
	c.Conn = bubble.NewConn(requests{c})
	c.far = bubble.NewConn(replies{c})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == over {
		return nil, errOver
	}
	n.conns[c] = struct{}{}
	n.server.Serve(c.far)
	return c, nil
}

// set sets the state. Any state but up breaks the connections on which somebody
// waits for an answer.
func (n *network) set(s state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = s
	if s == up {
		return
	}
	for c := range n.conns {
		if c.reads.Load() > 0 {
			c.cut()
		}
	}
}

func (n *network) isUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == up
}

// carry lets p arrive at an end of c, or breaks c.
func (n *network) carry(c *conn, to *bubble.Conn, p []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == up {
		to.Deliver(p)
	} else {
		c.cut()
	}
}

func (n *network) forget(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// close ends all connections and stops the server.
func (n *network) close() {
	n.set(over)
	n.server.Close()
}

// A conn is a client's end of a connection.
type conn struct {
	*bubble.Conn
	far     *bubble.Conn // the server's end
	network *network
	reads   atomic.Int32 // under way
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	c.reads.Add(1)
	defer c.reads.Add(-1)
	if !c.network.isUp() { // a subscriber sends nothing, and would wait for ever
		c.cut()
	}
	return c.Conn.Read(p)
}

// cut breaks the connection at both ends.
func (c *conn) cut() {
	c.Conn.End(errDown{})
	c.far.End(errDown{})
}

// requests carries what the client writes.
type requests struct{ conn *conn }

func (r requests) Carry(p []byte) {
	n := r.conn.network
	n.before() // without n.mu: the server may be busy
	n.carry(r.conn, r.conn.far, p)
}

func (r requests) Closed() {
	r.conn.far.End(io.EOF)
	r.conn.network.forget(r.conn)
}

// replies carries what the server writes.
type replies struct{ conn *conn }

func (r replies) Carry(p []byte) { r.conn.network.carry(r.conn, r.conn.Conn, p) }

func (r replies) Closed() { r.conn.Conn.End(io.EOF) }
