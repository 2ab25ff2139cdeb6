package bubble_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/bubble"
)

// A key expires by the bubble's time, a message arrives, and a read of a client
// ends at its time-out.
func TestRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bubble.Start()
		defer r.Close()
		client := r.Client()
		defer client.Close()
		ctx := t.Context()
		if err := client.Set(ctx, "key", "value", time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Millisecond)
		if got := client.Get(ctx, "key").Val(); got != "value" {
			t.Errorf("before its end the key has %q", got)
		}
		time.Sleep(time.Millisecond)
		if err := client.Get(ctx, "key").Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("after its end: %v", err)
		}

		sub := client.Subscribe(ctx, "channel")
		defer sub.Close()
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := sub.ReceiveTimeout(ctx, time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("without a message: %v", err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("the read ended after %v, want its time-out", took)
		}
		client.Publish(ctx, "channel", "hello")
		if message, err := sub.ReceiveMessage(ctx); err != nil || message.Payload != "hello" {
			t.Errorf("received %v, %v", message, err)
		}
	})
}

// A carrier keeps what is written.
type carrier struct {
	written []byte
	closed  bool
}

func (c *carrier) Carry(p []byte) { c.written = append(c.written, p...) }
func (c *carrier) Closed()        { c.closed = true }

// A read returns what was delivered before it returns the end.
func TestConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := new(carrier)
		conn := bubble.NewConn(way)
		const text = "to the other end"
		if _, err := io.WriteString(conn, text); err != nil || string(way.written) != text {
			t.Errorf("carried %q, %v", way.written, err)
		}
		read := func() string {
			p := make([]byte, 100)
			n, err := conn.Read(p)
			if err != nil {
				return err.Error()
			}
			return string(p[:n])
		}
		got := make(chan string)
		go func() { got <- read() }()
		synctest.Wait() // it waits
		conn.Deliver([]byte("hello"))
		if text := <-got; text != "hello" {
			t.Errorf("a read that waited: %q", text)
		}
		conn.Deliver([]byte("the rest"))
		conn.End(io.EOF)
		conn.Deliver([]byte("too late"))
		if text := read(); text != "the rest" {
			t.Errorf("before the end: %q", text)
		}
		if text := read(); text != io.EOF.Error() {
			t.Errorf("at the end: %q", text)
		}
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Error("a write to a connection that has ended succeeds")
		}
		if err := conn.Close(); err != nil || !way.closed {
			t.Errorf("close: %v; the carrier knows: %v", err, way.closed)
		}
		if _, err := conn.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a read after Close: %v", err)
		}
	})
}

// A new deadline ends a read that waits already.
func TestDeadlineOfAReadThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := bubble.NewConn(new(carrier))
		failed := make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			failed <- err
		}()
		synctest.Wait()
		began := time.Now()
		if err := conn.SetReadDeadline(began.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		_ = conn.Close()
	})
}
