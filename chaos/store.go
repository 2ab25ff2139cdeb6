package main

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"sync"
)

// A Store is what the locks protect. It has two counters for each key. Fencing
// tokens guard one of them. No fault reaches the Store.
//
// The Store refuses a writer whose token is below the highest that it has seen,
// both when the writer reads and when it writes. It refuses a reader whose
// token is below the highest of a writer. So if two holders read the same
// value, only the later one can write, however late the other's request comes.
type Store struct {
	mu            sync.Mutex // guards the following
	fenced, plain []counter
	stale         int // how many requests were refused
}

type counter struct {
	value, writes  int
	top, topWriter int64 // the highest tokens: of all holders, and of writers
}

// Access is one request to a Store. A holder reads both values. A writer then
// writes each of them, one higher.
type Access struct {
	Key   int
	Token int64
	Read  bool // the holder is a reader
	Value int  // the new value
}

// Values are the values of the two counters of a key.
type Values struct{ Fenced, Plain int }

var errStale = errors.New("the store has seen a higher token")

func newStore(keys int) *Store {
	return &Store{fenced: make([]counter, keys), plain: make([]counter, keys)}
}

// Get reads both counters.
func (s *Store) Get(a Access, v *Values) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admitLocked(a); err != nil {
		return err
	}
	v.Fenced, v.Plain = s.fenced[a.Key].value, s.plain[a.Key].value
	return nil
}

// SetFenced writes the guarded counter.
func (s *Store) SetFenced(a Access, _ *Values) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.admitLocked(a); err != nil {
		return err
	}
	s.fenced[a.Key].write(a.Value)
	return nil
}

// SetPlain writes the plain counter.
func (s *Store) SetPlain(a Access, _ *Values) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plain[a.Key].write(a.Value)
	return nil
}

func (s *Store) admitLocked(a Access) error {
	c := &s.fenced[a.Key]
	least := c.top
	if a.Read {
		least = c.topWriter
	}
	if a.Token < least {
		s.stale++
		return errStale
	}
	c.top = max(c.top, a.Token)
	if !a.Read {
		c.topWriter = max(c.topWriter, a.Token)
	}
	return nil
}

func (c *counter) write(value int) {
	c.value = value
	c.writes++
}

// lost returns how many updates were overwritten, of the guarded and of the
// plain counters. It also returns how many requests were refused.
func (s *Store) lost() (fenced, plain, stale int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.fenced {
		fenced += s.fenced[i].writes - s.fenced[i].value
		plain += s.plain[i].writes - s.plain[i].value
	}
	return fenced, plain, s.stale
}

// serve serves the store on a Unix socket at path until stop is called.
func (s *Store) serve(path string) (stop func(), err error) {
	server := rpc.NewServer()
	if err := server.Register(s); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the store cannot listen: %w", err)
	}
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(conn) // ends with the worker
		}
	}()
	return func() { _ = l.Close() }, nil
}
