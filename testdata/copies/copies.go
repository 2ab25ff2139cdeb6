// Package copies misuses a Mutex, an RWMutex and a Keyed: go vet is to say so.
package copies

import "github.com/warlock-go/warlock"

func use(m warlock.Mutex) { m.Lock() }

func read(rw warlock.RWMutex) { rw.RLock() }

func one(k warlock.Keyed) { k.Lock("42") }
