package wait

import (
	"hash/maphash"
	"sync"
)

// expected is a set of IDs, in stripes, so that goroutines that lock different keys
// at a time seldom meet. The zero value is empty. Its methods may be called
// concurrently.
type expected [16]stripe

type stripe struct {
	mu  sync.Mutex // guards ids
	ids map[string]struct{}
}

var seed = maphash.MakeSeed()

func (e *expected) of(id string) *stripe {
	return &e[maphash.String(seed, id)%uint64(len(e))]
}

func (e *expected) add(id string) {
	s := e.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = make(map[string]struct{})
	}
	s.ids[id] = struct{}{}
}

func (e *expected) remove(id string) {
	s := e.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ids, id)
}

func (e *expected) has(id string) bool {
	s := e.of(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.ids[id]
	return ok
}
