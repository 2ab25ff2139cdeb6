package bubble

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A Conn is one end of a connection in memory. What is written to an end is
// given to its Carrier, which passes it to the other end: at once, later,
// altered or not at all. So a write never waits, unlike one to a net.Pipe.
//
// Its methods may be called concurrently.
type Conn struct {
	carrier Carrier

	mu       sync.Mutex // guards the following
	changed  sync.Cond  // signalled when a Read may go on
	inbox    []byte     // what has arrived and is not read yet
	end      error      // what a Read returns after inbox; nil: more may arrive
	closed   bool       // by Close
	deadline time.Time  // of a Read; zero: none
	alarm    *time.Timer
}

// A Carrier carries what is written to a Conn. Neither method may wait.
type Carrier interface {
	// Carry takes what was written. It may keep p.
	Carry(p []byte)
	// Closed says that the end was closed.
	Closed()
}

// NewConn returns an end whose writes c carries.
func NewConn(c Carrier) *Conn {
	conn := &Conn{carrier: c}
	conn.changed.L = &conn.mu
	return conn
}

// Deliver lets p arrive at c. It does nothing if c is closed or at its end.
func (c *Conn) Deliver(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil && !c.closed {
		c.inbox = append(c.inbox, p...)
		c.changed.Broadcast()
	}
}

// End lets reads return err when they have returned what has arrived, and
// writes fail with err at once. err is io.EOF if the other end was closed.
func (c *Conn) End(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		c.end = err
		c.changed.Broadcast()
	}
}

// Read waits until something has arrived, or until the deadline.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(c.inbox) > 0:
			n := copy(p, c.inbox)
			c.inbox = c.inbox[n:]
			return n, nil
		case c.end != nil:
			return 0, c.end
		}
		c.armLocked()
		c.changed.Wait()
	}
}

// armLocked lets a Read that waits look again at the deadline.
func (c *Conn) armLocked() {
	switch {
	case c.deadline.IsZero():
		if c.alarm != nil {
			c.alarm.Stop()
		}
	case c.alarm == nil:
		c.alarm = time.AfterFunc(time.Until(c.deadline), c.wake)
	default:
		c.alarm.Reset(time.Until(c.deadline))
	}
}

func (c *Conn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed.Broadcast()
}

// Write passes p to the carrier.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	end, closed := c.end, c.closed
	c.mu.Unlock()
	switch {
	case closed:
		return 0, net.ErrClosed
	case errors.Is(end, io.EOF):
		return 0, io.ErrClosedPipe
	case end != nil:
		return 0, end
	}
	c.carrier.Carry(append([]byte(nil), p...))
	return len(p), nil
}

// Close ends reads and writes with net.ErrClosed.
func (c *Conn) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	if c.alarm != nil {
		c.alarm.Stop()
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	c.carrier.Closed()
	return nil
}

// SetReadDeadline sets the deadline of reads, also of a Read that waits.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.deadline = t
	c.changed.Broadcast()
	return nil
}

// SetWriteDeadline does nothing: no write waits.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// LocalAddr returns the address of every Conn.
func (c *Conn) LocalAddr() net.Addr { return address{} }

// RemoteAddr returns the address of every Conn.
func (c *Conn) RemoteAddr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return Addr }
