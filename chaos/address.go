package main

import (
	"io"
	"net"
	"sync"

	"github.com/warlock-go/warlock/internal/redistest"
)

// An address is how clients know a server, as by a DNS name or a virtual IP. New connections reach the
// server that the address leads to when they are made. A connection stays with its server when the
// address moves.
type address struct {
	listener net.Listener
	running  sync.WaitGroup // the goroutines that accept and copy

	mu      sync.Mutex // guards the following
	server  string     // where new connections go
	conns   map[net.Conn]struct{}
	stopped bool
}

// newAddress returns an address that leads to server.
func newAddress(g *ground, server *redistest.Server) *address {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	g.must(err)
	a := &address{listener: l, server: server.Addr, conns: make(map[net.Conn]struct{})}
	a.running.Go(a.accept)
	g.Cleanup(a.stop)
	return a
}

// String returns the address as clients dial it.
func (a *address) String() string { return a.listener.Addr().String() }

// move lets the address lead to server. Connections that exist stay where they are.
func (a *address) move(server *redistest.Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.server = server.Addr
}

// stop closes all connections, and returns when all goroutines have ended.
func (a *address) stop() {
	_ = a.listener.Close() // fails only if stop was called before
	a.mu.Lock()
	a.stopped = true
	for c := range a.conns {
		_ = c.Close()
	}
	a.mu.Unlock()
	a.running.Wait()
}

func (a *address) accept() {
	for {
		client, err := a.listener.Accept()
		if err != nil {
			return // stopped
		}
		a.running.Go(func() { a.forward(client) })
	}
}

// forward connects a client to the server, and returns when either has closed the connection.
func (a *address) forward(client net.Conn) {
	a.mu.Lock()
	to := a.server
	a.mu.Unlock()
	server, err := net.Dial("tcp", to)
	if err != nil {
		_ = client.Close() // as near to a refusal as a listener can come
		return
	}
	if !a.keep(client, server) {
		return
	}
	defer a.drop(client, server)
	a.running.Go(func() { pass(server, client) })
	pass(client, server)
}

// pass copies what one end says to the other, until one of them is closed. Then it closes both.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // an error means that one of them is closed
	_ = to.Close()
	_ = from.Close()
}

// keep notes connections for stop to close, and returns true. If the address has been stopped, keep closes
// them instead, and returns false.
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

func (a *address) drop(conns ...net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range conns {
		delete(a.conns, c)
	}
}
