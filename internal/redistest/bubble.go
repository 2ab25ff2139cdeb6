package redistest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/warlock-go/warlock/internal/bubble"
)

// InBubble runs test in a bubble of testing/synctest. The server is a miniredis
// in memory, and its keys expire by the bubble's time. The server cannot be
// restarted. A test that lets callers wait for a connection of a pool cannot run
// in a bubble: see package bubble.
//
// The test fails if a goroutine of the library is left a minute after it.
func InBubble(t *testing.T, test func(t *testing.T, s *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // the clients are closed
		r := bubble.Start()
		t.Cleanup(r.Close)
		s := &Server{Addr: bubble.Addr, Mini: r.Mini, tb: t, dial: r.Dial}
		s.Admin = s.Client()
		test(t, s)
	})
}
