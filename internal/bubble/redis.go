// Package bubble has a Redis that works in a bubble of testing/synctest.
//
// In a bubble, time passes when all goroutines wait. A goroutine that reads from
// a real connection does not count as waiting, so the server and the
// connections to it are in memory. The server's keys expire by the bubble's
// time.
//
// go-redis keeps timers in a package variable. They belong to the bubble that
// made them, and their use in another bubble is a fatal error. A client that
// waits for a connection of its pool takes such a timer. So a process in which
// a pool may be used up can have one bubble.
package bubble

import (
	"context"
	"io"
	"net"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Addr is the address of every Redis of this package. go-redis would look up
// the name of a host, which is fatal in a bubble.
const Addr = "127.0.0.1:6379"

// A Redis is a server in memory. It belongs to the bubble in which it is
// started.
type Redis struct{ Mini *miniredis.Miniredis }

// Start starts a Redis. The caller closes it, after all clients.
func Start() *Redis {
	mini := miniredis.NewMiniRedis()
	conn, err := mini.Dial() // which starts it without a listener
	if err != nil {
		panic(err) // Dial fails only if a command is registered twice
	}
	_ = conn.Close()
	mini.ClockTTL(true)
	return &Redis{mini}
}

// Close ends all connections, and stops the server.
func (r *Redis) Close() { r.Mini.Close() }

// Serve lets the server answer at its end of a connection, until that ends.
func (r *Redis) Serve(c *Conn) { r.Mini.Server().ServeConn(c) }

// Dial connects to the server. Nothing on the connection takes any time.
func (r *Redis) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := new(wire), new(wire)
	client.conn, server.conn = NewConn(server), NewConn(client)
	r.Serve(server.conn)
	return client.conn, nil
}

// Client returns a new client of the server. The caller closes it.
func (r *Redis) Client(change ...func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: Addr, Dialer: r.Dial}
	for _, c := range change {
		c(o)
	}
	return redis.NewClient(o)
}

// A wire carries what the other end writes to conn.
type wire struct{ conn *Conn }

func (w *wire) Carry(p []byte) { w.conn.Deliver(p) }
func (w *wire) Closed()        { w.conn.End(io.EOF) }
