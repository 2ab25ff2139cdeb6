// Package copies misuses a Mutex and an RWMutex: go vet is to say so.
package copies

import "github.com/warlock-go/warlock"

func use(m warlock.Mutex) { m.Lock() }

func read(rw warlock.RWMutex) { rw.RLock() }
