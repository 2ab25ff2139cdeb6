// Package copies misuses a Mutex: go vet is to say so.
package copies

import "github.com/warlock-go/warlock"

func use(m warlock.Mutex) { m.Lock() }
