package warlock

import "github.com/warlock-go/warlock/internal/lock"

// The bounds of hand-offs within a process.
const (
	HandOffTime = lock.HandOffTime
	MaxHandOffs = lock.MaxHandOffs
)

// Waiting returns how many goroutines of this process wait for their turn at m.
func (m *Mutex) Waiting() int { return m.lock.Waiting() }

// Waiting returns how many goroutines of this process wait for their turn at
// rw.
func (rw *RWMutex) Waiting() int { return rw.lock.Waiting() }

// Waiting returns how many goroutines of this process wait for their turn at
// id.
func (k *Keyed) Waiting(id string) int { return k.table.Waiting(id) }
