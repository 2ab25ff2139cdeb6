package redistest

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// A Log keeps what is written to it. Its methods may be called concurrently.
// The zero value is an empty Log.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Logger returns a logger that writes lines of text to l.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// Write appends p to l.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Count returns how often part was written so far.
func (l *Log) Count(part string) int { return strings.Count(l.String(), part) }
