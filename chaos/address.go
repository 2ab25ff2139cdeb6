package main

import (
	"io"
	"net"
	"sync"

	"github.com/warlock-go/warlock/internal/redistest"
)

// An address leads clients to a server, as a DNS name or a virtual IP does. It
// can move to another server. New connections then reach the new server. A
// connection that exists stays with its server.
type address struct {
	listener net.Listener
	running  sync.WaitGroup // the goroutines of the address

	mu      sync.Mutex // guards the following
	server  string     // where new connections go
	conns   map[net.Conn]struct{}
	stopped bool
}

// newAddress returns an address that leads to server.
func newAddress(t *testbed, server *redistest.Server) *address {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	t.must(err)
	a := &address{listener: l, server: server.Addr, conns: make(map[net.Conn]struct{})}
	a.running.Go(a.accept)
	t.Cleanup(a.stop)
	return a
}

// String returns the host and the port for clients.
func (a *address) String() string { return a.listener.Addr().String() }

// move lets the address lead to server.
func (a *address) move(server *redistest.Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = server.Addr
}

// stop closes all connections, and waits until all goroutines have ended.
func (a *address) stop() {
	_ = a.listener.Close() // fails if stop was called before
	a.mu.Lock()
	a.stopped = true
	for c := range a.conns {
		_ = c.Close()
	}
	a.mu.Unlock()
	a.running.Wait()
}

// accept serves connections until stop.
func (a *address) accept() {
	for {
		client, err := a.listener.Accept()
		if err != nil {
			return // stopped
		}
		a.running.Go(func() { a.forward(client) })
	}
}

// forward connects a client to the server, and returns when either of them has
// closed the connection.
func (a *address) forward(client net.Conn) {
	a.mu.Lock()
	to := a.server
	a.mu.Unlock()
	server, err := net.Dial("tcp", to)
	if err != nil {
		_ = client.Close() // a listener cannot refuse
		return
	}
	if !a.keep(client, server) {
		return
	}
	defer a.drop(client, server)
	a.running.Go(func() { pass(server, client) })
	pass(client, server)
}

// pass copies from one connection to another until one is closed. Then it
// closes both.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // fails when one of them is closed
	_ = to.Close()
	_ = from.Close()
}

// keep notes connections, which stop then closes, and returns true. After stop
// it closes the connections and returns false.
func (a *address) keep(conns ...net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range conns {
		if a.stopped {
			_ = c.Close()
			continue
		}
		a.conns[c] = struct{}{}
	}
	return !a.stopped
}

// drop forgets connections that are closed.
func (a *address) drop(conns ...net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range conns {
		delete(a.conns, c)
	}
}
