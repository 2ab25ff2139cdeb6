package main

import (
	"context"
	"errors"
	"time"
)

// freezing are systems with one of their servers frozen, each beside itself with
// none frozen.
var freezing = beside([]system{quorumRivals[0], quorumRivals[2], redsyncFailFast})

const noneFrozen = ", none frozen"

func beside(systems []system) (all []system) {
	for _, s := range systems {
		whole := s
		whole.name += noneFrozen
		s.freezes = true
		all = append(all, whole, s)
	}
	return all
}

// frozen measures how long one goroutine takes to lock and unlock. For a system
// that freezes, one server is stopped from the end of the warm-up on.
func (b *bench) frozen(sys system) (m measurement, err error) {
	w := new(wire)
	c, err := sys.connect(b.setup(w))
	if err != nil {
		return m, err
	}
	defer func() { err = firstOf(err, c.close()) }()
	l, sec := c.locker("frozen"), new(section)
	if _, err := b.useFor(b.warmUp, l, sec); err != nil {
		return m, err
	}
	if sys.freezes {
		victim := b.voters[len(b.voters)-1]
		if err := stop(victim.proc.Process); err != nil {
			return m, err
		}
		defer func() { err = errors.Join(err, victim.thaw()) }()
	}
	before := w.commands.Load()
	m, err = b.useFor(b.window, l, sec)
	m.Commands = float64(w.commands.Load()-before) / float64(max(m.Samples, 1))
	return m, err
}

// useFor locks and unlocks for window, and at least once. The times are those of
// lock and unlock together.
func (b *bench) useFor(window time.Duration, l locker, sec *section) (m measurement, err error) {
	times, start := newHistogram(), time.Now()
	for m.Samples == 0 || time.Since(start) < window {
		began := time.Now()
		if err := l.lock(context.Background()); err != nil {
			return m, err
		}
		sec.visit()
		if err := l.unlock(); err != nil {
			return m, err
		}
		_ = times.RecordValue(int64(time.Since(began))) // never out of range
		m.Samples++
	}
	m.Rate = float64(m.Samples) / time.Since(start).Seconds()
	m.latenciesOfFew(times)
	m.Broken = sec.broken()
	return m, nil
}
