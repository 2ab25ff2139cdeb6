package serve

import (
	"context"
	"errors"
	"sync"
)

// A source makes messages until ctx ends, and gives each one to show.
type source func(ctx context.Context, show func(message []byte))

// A hub gives the messages of sources to subscribers. All subscribers of a name
// share one source, which runs while there are any.
type hub struct {
	life    context.Context // ends with the server
	most    int             // how many subscribers it has at once
	running sync.WaitGroup  // the goroutines of sources

	mu     sync.Mutex       // guards what follows
	feeds  map[string]*feed // by name
	count  int              // of subscribers
	closed bool             // set by close: no source starts any more
}

// A feed is one run of a source. The hub's mutex guards it.
type feed struct {
	ctx         context.Context // ends when the last subscriber has left
	stop        context.CancelFunc
	ended       chan struct{} // closed when the source has returned
	subscribers map[*subscriber]struct{}
	newest      []byte // nil until the first message
}

// A subscriber gets the newest message of a feed.
type subscriber struct {
	feed *feed

	// news has the newest message, until it is taken. A later message replaces it:
	// a slow subscriber misses messages, and none queue up.
	news chan []byte
}

// The reasons for which a hub takes no subscriber.
var (
	errCrowded = errors.New("too many pages watch at once: close one of them")
	errClosed  = errors.New("the server stops")
)

func newHub(life context.Context, most int) *hub {
	return &hub{life: life, most: most, feeds: make(map[string]*feed)}
}

// subscribe returns a subscriber of name. The caller calls leave with it. run is the
// source of name: it starts if no other subscriber keeps it running.
func (h *hub) subscribe(name string, run source) (*subscriber, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, errClosed
	case h.count == h.most:
		return nil, errCrowded
	}
	f := h.feeds[name]
	if f == nil || f.ctx.Err() != nil {
		f = h.startLocked(name, run, f)
	}
	s := &subscriber{feed: f, news: make(chan []byte, 1)}
	if f.newest != nil {
		s.news <- f.newest
	}
	f.subscribers[s] = struct{}{}
	h.count++
	return s, nil
}

// startLocked starts run once the feed before, which may be nil, has ended.
func (h *hub) startLocked(name string, run source, before *feed) *feed {
	f := &feed{ended: make(chan struct{}), subscribers: make(map[*subscriber]struct{})}
	f.ctx, f.stop = context.WithCancel(h.life)
	h.feeds[name] = f
	h.running.Go(func() {
		if before != nil {
			<-before.ended
		}
		run(f.ctx, func(message []byte) { h.publish(f, message) })
		h.end(name, f)
	})
	return f
}

func (h *hub) publish(f *feed, message []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.newest = message
	for s := range f.subscribers {
		select {
		case <-s.news: // it was not taken, and is old now
		default:
		}
		s.news <- message // has room: only publish and subscribe send, under mu
	}
}

// end forgets f, whose source has returned.
func (h *hub) end(name string, f *feed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.stop()
	close(f.ended)
	if h.feeds[name] == f {
		delete(h.feeds, name)
	}
}

// leave ends a subscription. The source ends with its last subscriber.
func (h *hub) leave(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(s.feed.subscribers, s)
	h.count--
	if len(s.feed.subscribers) == 0 {
		s.feed.stop()
	}
}

// close refuses new subscribers, and waits until the sources have returned or ctx
// ends. life must have ended.
func (h *hub) close(ctx context.Context) {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.running.Wait()
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}
