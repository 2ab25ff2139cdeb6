package main

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"sync"
)

// A Store is what the locks protect: for each key two counters, of which one is guarded by fencing
// tokens. It is out of reach of the faults.
//
// Fencing: of writers, whoever has a token below the highest that was seen is refused, when it
// reads and when it writes. Readers are refused below the highest of a writer. So of two who
// read the same value only the later can write, however late the other's request comes.
type Store struct {
	mu            sync.Mutex // guards the following
	fenced, plain []counter
	stale         int // requests that were refused
}

type counter struct {
	value, writes  int
	top, topWriter int64 // tokens
}

// Access is one request to a Store. A holder reads both values, and writes each, one higher.
type Access struct {
	Key   int
	Token int64
	Read  bool // by one that holds for reading
	Value int  // to be written
}

// Values are what a Store has.
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

// SetPlain writes the other counter.
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

// lost returns how many updates were overwritten, of the guarded counters and of the others, and
// how many requests were refused.
func (s *Store) lost() (fenced, plain, stale int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.fenced {
		fenced += s.fenced[i].writes - s.fenced[i].value
		plain += s.plain[i].writes - s.plain[i].value
	}
	return fenced, plain, s.stale
}

// serve makes the store reachable by a Unix socket at path, until the returned function is called.
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
