package main

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"sync/atomic"
)

// A wire counts the commands that clients of any library send. INFO does not
// help, since it also counts the commands inside scripts.
type wire struct{ commands atomic.Int64 }

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: conn, wire: w}, nil
}

// A wireConn counts the requests on one connection. A request is an array of
// bulk strings: "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n". One goroutine writes at a
// time.
type wireConn struct {
	net.Conn
	wire *wire
	skip int    // how many bytes of a bulk string are still to come
	line []byte // the beginning of a line whose end is still to come
}

// Write counts before it writes. So a request is counted before its effect can
// be seen anywhere.
func (c *wireConn) Write(p []byte) (int, error) {
	c.follow(p)
	return c.Conn.Write(p)
}

func (c *wireConn) follow(p []byte) {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(c.skip, len(p))
			c.skip -= n
			p = p[n:]
			continue
		}
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		c.line = append(c.line, line...)
		if !ended {
			return
		}
		p = rest
		switch line := bytes.TrimSuffix(c.line, []byte("\r")); line[0] {
		case '*':
			c.wire.commands.Add(1)
		case '$':
			length, err := strconv.Atoi(string(line[1:]))
			if err == nil {
				c.skip = length + len("\r\n")
			}
		}
		c.line = c.line[:0]
	}
}
