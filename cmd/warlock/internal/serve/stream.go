package serve

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	mostStreams = 64               // pages that watch at once
	heartbeat   = 10 * time.Second // a page that hears nothing for longer connects again
	slowest     = 10 * time.Second // for which a write may last: then the page is gone
)

// hello is the first message of a stream.
type hello struct {
	Break   bool   `json:"break"`             // locks may be broken
	Forgery string `json:"forgery,omitempty"` // then: see secret.forgeryToken
}

// A subject is what a stream shows: the list, or the lock under key.
type subject struct {
	list bool
	key  string
}

// subjectOf returns the subject of a query. A key may have any bytes.
func subjectOf(query string) (subject, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return subject{}, fmt.Errorf("the query cannot be read: %w", err)
	}
	return subject{list: !values.Has("key"), key: values.Get("key")}, nil
}

// name returns a name for the hub.
func (s subject) name() string {
	if s.list {
		return "list"
	}
	return "lock " + s.key
}

// stream sends messages of the subject in the query until the page goes away.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	if !ownPage(r.Header, s.served) {
		http.Error(w, "the request was sent from another site", http.StatusForbidden)
		return
	}
	what, err := subjectOf(r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	run := s.watchList
	if !what.list {
		run = func(ctx context.Context, show func([]byte)) { s.watchLock(ctx, what.key, show) }
	}
	sub, err := s.hub.subscribe(what.name(), run)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer s.hub.leave(sub)
	s.follow(r.Context(), newEvents(w), sub)
}

// follow sends what sub gets, and a heartbeat, until a write fails, ctx ends or the
// server stops.
func (s *Server) follow(ctx context.Context, to *events, sub *subscriber) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	greeting := hello{Break: s.AllowBreak}
	if s.AllowBreak {
		greeting.Forgery = s.secret.forgeryToken()
	}
	err := to.send("hello", encode(greeting))
	for err == nil {
		select {
		case <-ctx.Done():
			return
		case <-s.hub.life.Done():
			return
		case message := <-sub.news:
			err = to.send("news", message)
		case <-beat.C:
			err = to.write(": still here\n\n")
		}
	}
}

// events writes server-sent events.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// newEvents begins the answer. A stream outlives the time limits of the server for
// requests.
func newEvents(w http.ResponseWriter) *events {
	e := &events{w, http.NewResponseController(w)}
	_ = e.control.SetReadDeadline(time.Time{}) // where it cannot be set, there is none
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold messages back
	return e
}

// send writes one event. data has no line break.
func (e *events) send(event string, data []byte) error {
	return e.write("event: " + event + "\ndata: " + string(data) + "\n\n")
}

func (e *events) write(text string) error {
	_ = e.control.SetWriteDeadline(time.Now().Add(slowest)) // where it cannot be set, there is none
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.control.Flush()
}

// encode returns v as JSON in one line.
func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types of this package can all be encoded
	}
	return text
}
