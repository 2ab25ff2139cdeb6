// Package serve shows locks, their holders and their queues in browsers.
package serve

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/cmd/warlock/internal/board"
)

// Options say what a Server serves, and to whom.
type Options struct {
	Client     redis.UniversalClient
	Pattern    string   // of the keys in the list; empty: all
	Listen     string   // the address at which the server listens, with its port
	Hosts      []string // what else the Host header of a request may be
	Token      string   // what each request must have; empty: nothing
	AllowBreak bool
	Logger     *slog.Logger
}

// A Server serves the pages. One Board looks at Redis for all pages, while at least
// one page of the list is open.
type Server struct {
	Options
	secret secret
	hub    *hub
	stop   context.CancelFunc // ends the streams
	board  *board.Board
	found  atomic.Pointer[board.Snapshot] // the newest; nil: none yet
}

// New returns a Server. It does not listen yet.
func New(o Options) *Server {
	life, stop := context.WithCancel(context.Background())
	return &Server{
		Options: o, secret: newSecret(), hub: newHub(life, mostStreams), stop: stop,
		board: &board.Board{Client: o.Client, Pattern: o.Pattern, Every: listPause},
	}
}

// longestStop is how long Run takes at most to end.
const longestStop = 5 * time.Second

// Run serves on l until ctx ends. It then closes l and all streams, and waits for
// requests under way, but not for long. It returns nil if ctx is why it ended.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second, // a stream sets its own
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longestStop)
	defer cancel()
	s.stop()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // the time is up
	}
	s.hub.close(ctx)
	return err
}

// Handler returns the handler of all requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, page := range []struct{ path, file string }{
		{"/{$}", "list.html"}, {"/lock", "lock.html"},
	} {
		mux.HandleFunc("GET "+page.path, func(w http.ResponseWriter, _ *http.Request) {
			serveFile(w, http.StatusOK, page.file)
		})
		mux.HandleFunc("POST "+page.path, s.login)
	}
	for _, name := range []string{styleFile, iconFile, "list.js", "lock.js", "live.js", "rows.js"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			serveFile(w, http.StatusOK, name)
		})
	}
	mux.HandleFunc("GET /events", s.stream)
	mux.HandleFunc("POST /break", s.breakLock)
	return s.guarded(mux)
}

// guarded returns a handler that gives next the requests that may be served.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protect(w.Header())
		switch {
		case !s.served(r.Host):
			problem := fmt.Sprintf("the host %q is not served: start with --host to serve it", r.Host)
			http.Error(w, problem, http.StatusMisdirectedRequest)
		case s.loggedIn(r) || forAll(r):
			next.ServeHTTP(w, r)
		default:
			s.askToken(w, r)
		}
	})
}

func (s *Server) served(host string) bool { return served(host, s.Listen, s.Hosts) }

// The files of which the form of the token consists, beside the form.
const (
	styleFile = "page.css"
	iconFile  = "icon.svg"
)

// forAll reports whether a request needs no token: it sends the token, or asks for
// what the form of the token looks like.
func forAll(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/lock":
		return r.Method == http.MethodPost
	case "/" + styleFile, "/" + iconFile:
		return true
	}
	return false
}

//go:embed page
var files embed.FS

// types has the content types of the files: those of the system may be wrong.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// serveFile answers with a file of the folder page.
func serveFile(w http.ResponseWriter, status int, name string) {
	content, err := files.ReadFile("page/" + name)
	if err != nil {
		panic(err) // the file is part of this program
	}
	w.Header().Set("Content-Type", types[path.Ext(name)])
	w.WriteHeader(status)
	_, _ = w.Write(content) // the browser may have gone
}
