package quorum

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warlock-go/warlock/internal/protocol"
	"github.com/warlock-go/warlock/internal/send"
)

// The notes of a quorum are what people are to read of its servers: that one does not vote,
// though a majority does, so that no caller learns of it; and that it votes again.
type notes struct {
	any atomic.Bool // there are some

	mu  sync.Mutex // guards all
	all []protocol.Note
}

// mostNotes bounds the notes that nobody takes.
const mostNotes = 16

func (n *notes) add(note protocol.Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.all) < mostNotes {
		n.all = append(n.all, note)
	}
	n.any.Store(true)
}

// takeNotes returns the notes that no lock of the quorum has taken yet.
func (q *Quorum) takeNotes() []protocol.Note {
	if !q.notes.any.Load() {
		return nil
	}
	q.notes.mu.Lock()
	defer q.notes.mu.Unlock()
	all := q.notes.all
	q.notes.all = nil
	q.notes.any.Store(false)
	return all
}

// TakeNotes is that of the quorum.
func (l *Lock) TakeNotes() []protocol.Note { return l.quorum.takeNotes() }

// noteVote notes whether s has voted while a majority did, by the error for which it has not.
func (q *Quorum) noteVote(s *server, err error) {
	if send.Broke(err) || errors.Is(err, context.Canceled) || errors.Is(err, errLostConcession) {
		return // that says nothing of s
	}
	if s.health.votes(time.Now(), err) {
		q.notes.add(protocol.Note{Server: s.String(), Err: err})
	}
}
