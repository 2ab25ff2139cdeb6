package sim

import (
	"slices"
	"sync"
	"time"
)

// A Recording is what a server executed in a run, in this order, and what it
// answered. It can be replayed against another server.
type Recording struct {
	Server string

	mu      sync.Mutex // guards the following
	Entries []Entry
	ended   map[string]bool // the links that have ended
}

// An Entry is one thing that happened to a server.
type Entry struct {
	Kind EntryKind
	At   time.Time // by the server's clock
	Link string    // of requested, answered and linkEnded
	Text []byte    // what went over the link; of moodSet: the mood
}

// An EntryKind is a kind of entry.
type EntryKind int

const (
	requested  EntryKind = iota // a frame arrived, and was executed
	answered                    // the server wrote to a link: replies, or messages
	linkEnded                   // the server learned that a link had ended
	flushed                     // it forgot its scripts
	emptied                     // it forgot its data
	clockMoves                  // its clock is about to jump
	moodSet                     // it was told how to answer
)

// RunRecorded is Run, with a recording of each server. The run is the same.
func RunRecorded(plan *Plan) (*Outcome, []*Recording) {
	var recordings []*Recording
	o := run(plan, func(w *world) {
		for _, s := range w.servers {
			s.recording = &Recording{Server: s.name, ended: make(map[string]bool)}
			recordings = append(recordings, s.recording)
		}
	})
	return o, recordings
}

// replayable reports whether one real server can repeat what each server of a
// run does. It cannot begin to load its data when told to. No recording has the
// changes that a server got from its master.
func (p *Plan) replayable() bool {
	return !slices.ContainsFunc(p.Faults, func(f Fault) bool {
		return f.Kind == Loading || f.Kind == Promote || f.Kind == Move
	})
}

// record adds an entry to the recording of s, if there is one. What arrives on a
// link that has ended is not executed, and not recorded.
func (s *server) record(kind EntryKind, link string, p []byte) {
	r := s.recording
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended[link] {
		return
	}
	if kind == linkEnded {
		r.ended[link] = true
	}
	r.Entries = append(r.Entries, Entry{Kind: kind, At: s.now(), Link: link, Text: p})
}
