package lock

import "context"

// enter waits for the turn. It returns a hold if the goroutine got one in place
// of the turn, or along with it. The error is that of ctx.
func (l *Lock) enter(ctx context.Context, mode Mode) (*Hold, error) {
	for {
		h, err := l.enterOnce(ctx, mode)
		switch {
		case err != nil:
			if h != nil {
				go l.dispose(ctx, mode)
			}
			return nil, err
		case h == nil || h.lease.Err() == nil:
			return h, nil
		}
		// The process was stopped between the grant and now.
		if mode == Write {
			l.mu.Lock()
			l.writer = nil
			l.mu.Unlock()
			go h.abandon(ctx)
			return nil, nil // the turn is this goroutine's
		}
		go l.dispose(ctx, mode)
	}
}

// enterOnce is enter for a hold that may have been lost meanwhile. If ctx ends
// at the grant, enterOnce returns the hold together with the error.
func (l *Lock) enterOnce(ctx context.Context, mode Mode) (*Hold, error) {
	l.mu.Lock()
	if h, ok := l.admitLocked(mode); ok {
		l.mu.Unlock()
		return h, nil
	}
	c := l.queue.wait(mode)
	l.watchLocked()
	l.mu.Unlock()
	if h, served := c.await(ctx); served {
		return h, nil
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	h, served := l.queue.withdraw(c)
	if served && h == nil {
		l.queue.leave()
	}
	l.advanceLocked() // the goroutine may have stopped readers
	return h, ctx.Err()
}

// tryEnter takes the turn, or joins a share, if that can be done at once. It
// returns false if the lock is taken. While another reader's answer is under
// way, a reader waits for that, as both may share a hold.
func (l *Lock) tryEnter(ctx context.Context, mode Mode) (h *Hold, entered bool) {
	for {
		l.mu.Lock()
		if mode == Read || len(l.shares) == 0 { // and nobody reads
			h, entered = l.admitLocked(mode)
		}
		answer := l.queue.underway()
		l.mu.Unlock()
		if entered || mode == Write || answer == nil {
			return h, entered
		}
		select {
		case <-answer:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// admitLocked gives a goroutine that has just come the turn or a hold, if it
// need not wait.
func (l *Lock) admitLocked(mode Mode) (h *Hold, entered bool) {
	s := l.openLocked(mode)
	switch l.queue.admit(mode, s != nil) {
	case mayAsk:
		return nil, true
	case mayJoin:
		l.joinLocked(s, 1)
		return s.hold, true
	}
	return nil, false
}

// advanceLocked serves the goroutines that wait, as far as they need not wait
// any more.
func (l *Lock) advanceLocked() {
	mode, ok := l.queue.next()
	if !ok {
		return
	}
	var h *Hold
	s := l.openLocked(mode)
	if s != nil {
		h = s.hold
	}
	if joined := l.queue.advance(s != nil, h); joined > 0 {
		l.joinLocked(s, joined)
	}
}

// openLocked returns the share that the next goroutine may join, or nil.
func (l *Lock) openLocked(mode Mode) *share {
	if mode == Write {
		return nil
	}
	if s := l.shares.newest(); s != nil && s.open(l.Clock.Now()) {
		return s
	}
	return nil
}

// joinLocked counts so many more readers of s. A reader whose lease was lost by
// then finds that when it runs.
func (l *Lock) joinLocked(s *share, readers int) {
	s.readers += readers
	if l.MaxHold > 0 {
		s.hold.lease.Join(l.Clock.Now())
	}
}

// refuse tells goroutines that only try that Redis has refused the reader that
// asks.
func (l *Lock) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.refuse()
}

// leave leaves the turn to the goroutine that is next.
func (l *Lock) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.leave()
	l.advanceLocked()
}

// leaveWithout, deferred, is leave for a call that did not come to a hold.
func (l *Lock) leaveWithout(h **Hold) {
	if *h == nil {
		l.leave()
	}
}
