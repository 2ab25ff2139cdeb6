package serve

import (
	"context"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

const (
	listPause   = time.Second            // between two looks at all locks
	lockPause   = 250 * time.Millisecond // between two looks at one lock
	longestLook = 10 * time.Second       // at one lock
)

// watchList looks at all locks until ctx ends. It never runs twice at once: the hub
// sees to that.
func (s *Server) watchList(ctx context.Context, show func([]byte)) {
	s.board.Run(ctx, func(found board.Snapshot) {
		s.found.Store(&found)
		show(encode(viewOfList(found)))
	})
}

// watchLock looks at the lock under key until ctx ends.
func (s *Server) watchLock(ctx context.Context, key string, show func([]byte)) {
	since := s.seen(key)
	view := viewOfLock(warlock.Status{Key: key}, nil, time.UnixMilli(0))
	for ctx.Err() == nil {
		status, err := s.look(ctx, key)
		if ctx.Err() != nil {
			return
		}
		view.Error, view.Old = errorText(err), err != nil
		if err == nil {
			now := time.Now()
			since = stillSeen(since, status.Holders, now)
			view = viewOfLock(status, since, now)
		}
		show(encode(view))
		select {
		case <-ctx.Done():
		case <-time.After(lockPause):
		}
	}
}

func (s *Server) look(ctx context.Context, key string) (warlock.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, longestLook)
	defer cancel()
	return warlock.Inspect(ctx, s.Client, key)
}

// seen returns when the newest look at all locks had first seen the holder of key.
func (s *Server) seen(key string) map[string]time.Time {
	if found := s.found.Load(); found != nil {
		for _, l := range found.Locks {
			if l.Key == key && len(l.Holders) > 0 {
				return map[string]time.Time{l.Holders[0].ID: l.Since}
			}
		}
	}
	return nil
}

// stillSeen returns when each of holders was first seen: as before says, or now.
func stillSeen(
	before map[string]time.Time, holders []warlock.Holder, now time.Time,
) map[string]time.Time {
	since := make(map[string]time.Time, len(holders))
	for _, h := range holders {
		at, ok := before[h.ID]
		if !ok {
			at = now
		}
		since[h.ID] = at
	}
	return since
}
