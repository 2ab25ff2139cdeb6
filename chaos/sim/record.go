package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
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
	frames  int             // that were executed
}

// An Entry is one thing that happened to a server.
type Entry struct {
	Kind EntryKind
	At   time.Time // by the server's clock
	Link string    // of requested, answered and linkEnded
	Text []byte    // what went over the link; of moodSet: the mood; of observed: the data
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
	observed                    // its data were looked at
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
// changes that a server got from its master, or a replica to wait for. A real server has
// a run ID of its own.
func (p *Plan) replayable() bool {
	return !p.Durable && !p.Quorum && !slices.ContainsFunc(p.Faults, func(f Fault) bool {
		return f.Kind == Loading || f.Kind == Promote || f.Kind >= Move
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
	switch kind {
	case linkEnded:
		r.ended[link] = true
	case requested:
		r.frames++
	}
	r.Entries = append(r.Entries, Entry{Kind: kind, At: s.now(), Link: link, Text: p})
}

// recordState adds the data of s to its recording, before every tenth frame.
func (s *server) recordState() {
	if s.recording == nil {
		return
	}
	s.recording.mu.Lock()
	due := s.recording.frames%10 == 0
	s.recording.mu.Unlock()
	if !due {
		return
	}
	m := s.redis.Mini
	var lines []string
	for _, key := range m.Keys() {
		k := stateOf(m, key)
		lines = append(lines, stateLine(key, k.ttl.Milliseconds(), k.parts()))
	}
	s.record(observed, "", []byte(strings.Join(lines, "\n")))
}

// stateLine returns what a key has as text. Parts are in any order. ttl is what
// PTTL returns, or 0 for a key that never expires.
func stateLine(key string, ttl int64, parts []string) string {
	slices.Sort(parts)
	return fmt.Sprintf("%s, for %d ms: %q", key, ttl, parts)
}

// parts returns the text, or the fields or members with their values or scores.
func (k *keyState) parts() (parts []string) {
	for f, v := range k.hash {
		parts = append(parts, f+" = "+v)
	}
	for m, score := range k.sorted {
		parts = append(parts, m+" = "+strconv.FormatFloat(score, 'f', -1, 64))
	}
	if k.hash == nil && k.sorted == nil {
		parts = append(parts, k.text)
	}
	return parts
}
