package wait

import (
	"hash/maphash"
	"sync"
)

// An idSet is a set of IDs. It is divided into stripes, so goroutines that lock
// different keys at the same time seldom wait for each other. The zero value is
// empty. Its methods may be called concurrently.
type idSet [16]stripe

type stripe struct {
	mu  sync.Mutex // guards ids
	ids map[string]struct{}
}

var seed = maphash.MakeSeed()

func (set *idSet) stripeOf(id string) *stripe {
	return &set[maphash.String(seed, id)%uint64(len(set))]
}

func (set *idSet) add(id string) {
	s := set.stripeOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = make(map[string]struct{})
	}
	s.ids[id] = struct{}{}
}

func (set *idSet) remove(id string) {
	s := set.stripeOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ids, id)
}

func (set *idSet) has(id string) bool {
	s := set.stripeOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.ids[id]
	return ok
}
