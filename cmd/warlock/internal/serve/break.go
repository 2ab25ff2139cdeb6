package serve

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/warlock-go/warlock"
)

const (
	mostBreak    = 4 << 20          // bytes of a request to break a lock
	longestBreak = 20 * time.Second // with many readers, it is many requests to Redis

	// forgeryHeader has the token of hello. A stranger's page cannot set it.
	forgeryHeader = "X-Warlock-Forgery"
)

// A broken is what became of a request to break a lock. Each holder of the request
// is in one of the three lists, as a ref of its ID.
type broken struct {
	Freed   []string `json:"freed"`   // holders that had the lock, and lost it
	NotHeld []string `json:"notHeld"` // holders that no longer had it
	Unknown []string `json:"unknown"` // holders that may still have it: see Error
	Error   string   `json:"error,omitempty"`
}

// breakLock frees a lock from the holders of the request, whose IDs the page has
// shown. A holder that took the lock later keeps it.
func (s *Server) breakLock(w http.ResponseWriter, r *http.Request) {
	if status, problem := s.mayBreak(r); problem != "" {
		http.Error(w, problem, status)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, mostBreak)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the request cannot be read", http.StatusBadRequest)
		return
	}
	key, ids := r.PostForm.Get("key"), r.PostForm["id"]
	if key == "" || len(ids) == 0 {
		http.Error(w, "the request names no key or no holder", http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), longestBreak)
	defer cancel()
	became := s.free(ctx, key, ids)
	s.Logger.Info("a lock was broken from a page", "key", key, "from", r.RemoteAddr,
		"freed", became.Freed, "not held", became.NotHeld, "unknown", became.Unknown)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(encode(became)) // the page may have gone
}

// mayBreak returns a status and a problem if r may not break a lock.
func (s *Server) mayBreak(r *http.Request) (status int, problem string) {
	switch {
	case !s.AllowBreak:
		return http.StatusForbidden, "locks cannot be broken here: start with --allow-break"
	case !ownPage(r.Header, s.served):
		return http.StatusForbidden, "the request was sent from another site"
	case !same(r.Header.Get(forgeryHeader), s.secret.forgeryToken()):
		return http.StatusForbidden, "the page is of an earlier start of the server: load it again"
	}
	return 0, ""
}

func (s *Server) free(ctx context.Context, key string, ids []string) (b broken) {
	for _, id := range ids {
		name := ref(id)
		switch err := warlock.Release(ctx, s.Client, key, id); {
		case err == nil:
			b.Freed = append(b.Freed, name)
		case errors.Is(err, warlock.ErrNotHeld):
			b.NotHeld = append(b.NotHeld, name)
		default:
			b.Unknown, b.Error = append(b.Unknown, name), errorText(err)
		}
	}
	return b
}
