package redistest

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"

	"github.com/redis/go-redis/v9"
)

// A Fault is what befalls a request on a Line.
type Fault int

const (
	None       Fault = iota
	Lost             // it never arrives, and no answer comes
	Unanswered       // it is carried out, and no answer comes
	Cut              // it is carried out, and the connection breaks before the answer
)

// A Line is the way of a client to its server. A test breaks it by the request,
// of which those that run a script count. The zero value is whole.
type Line struct {
	mu      sync.Mutex
	judge   func(n int) Fault
	scripts int // since Break
}

// Client returns a client of s that speaks over the line.
func (l *Line) Client(s *Server, change ...func(*redis.Options)) *redis.Client {
	over := func(o *redis.Options) {
		dial := new(net.Dialer).DialContext
		if s.dial != nil {
			dial = s.dial
		}
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &lineConn{Conn: conn, line: l}, nil
		}
	}
	return s.Client(append([]func(*redis.Options){over}, change...)...)
}

// Break lets judge decide about each request that runs a script from now on,
// the first of which is number 1. A nil judge mends the line for what comes
// after.
func (l *Line) Break(judge func(n int) Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.judge, l.scripts = judge, 0
}

// BreakFirst lets the next n requests that run a script meet f.
func (l *Line) BreakFirst(n int, f Fault) {
	l.Break(func(i int) Fault {
		if i > n {
			return None
		}
		return f
	})
}

// meets returns the fault that request meets, which is as it is sent:
// "*6\r\n$7\r\nevalsha\r\n...".
func (l *Line) meets(request []byte) Fault {
	if !bytes.Contains(request, []byte("\r\neval")) {
		return None
	}
	l.mu.Lock()
	l.scripts++
	judge, n := l.judge, l.scripts
	l.mu.Unlock()
	if judge == nil {
		return None
	}
	return judge(n)
}

type lineConn struct {
	net.Conn
	line *Line

	mu    sync.Mutex
	fault Fault // the worst so far: what a connection has lost stays lost
}

func (c *lineConn) Write(p []byte) (int, error) {
	f := c.line.meets(p)
	c.mu.Lock()
	if f != None {
		c.fault = f
	}
	lost := c.fault == Lost
	c.mu.Unlock()
	if lost {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *lineConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		c.mu.Lock()
		f := c.fault
		c.mu.Unlock()
		switch {
		case err != nil || f == None:
			return n, err
		case f == Cut:
			_ = c.Conn.Close() // as the other side would
			return 0, io.EOF
		}
	}
}
