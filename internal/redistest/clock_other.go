//go:build !linux

package redistest

import "time"

// StartWithClock skips the test: a server's clock can be set on Linux only.
func StartWithClock(tb TB, _ ...string) *Server {
	tb.Helper()
	tb.Skip("a server's clock can be set on Linux only")
	return nil
}

// SetClock is for servers that StartWithClock started, of which there are none.
func (s *Server) SetClock(time.Duration) {}

// StopClock is for servers that StartWithClock started, of which there are none.
func (s *Server) StopClock(time.Time) {}
