package serve

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9/logging"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

func TestMain(m *testing.M) {
	logging.Disable()                              // go-redis's: servers are stopped on purpose
	slog.SetDefault(slog.New(slog.DiscardHandler)) // locks are broken on purpose
	os.Exit(m.Run())
}

const (
	token = "correct horse battery staple"
	ttl   = 10 * time.Minute // no test outlives it
)

// A site is a Server that serves a test.
type site struct {
	*Server
	t    *testing.T
	base string  // without a slash at its end
	log  *synced // what the server logs
	stop func()  // stops the server, and returns when it has stopped
}

// A synced is text that is written and read at once.
type synced struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (s *synced) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *synced) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// start starts a Server over Redis. It stops with the test.
func start(t *testing.T, on *redistest.Server, o Options) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := new(synced)
	o.Client, o.Listen = on.Client(), l.Addr().String()
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	s := &site{Server: New(o), t: t, base: "http://" + o.Listen, log: log}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// within returns a context that ends when a test has waited too long.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), redistest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// do sends a request. change may change it first. The body is closed with the test.
func (s *site) do(method, target, body string, change ...func(*http.Request)) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.base+target, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range change {
		c(r)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	answer, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = answer.Body.Close() }) // a stream may have ended
	return answer
}

// text returns the body of an answer.
func (s *site) text(answer *http.Response) string {
	s.t.Helper()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(body)
}

func header(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// A streamed is a stream of events that a test reads.
type streamed struct {
	t     *testing.T
	lines *bufio.Reader
	close func() error
}

func (s *site) events(query string) *streamed {
	s.t.Helper()
	answer := s.do("GET", "/events"+query, "")
	if answer.StatusCode != http.StatusOK {
		s.t.Fatalf("a stream: %s: %s", answer.Status, s.text(answer))
	}
	return &streamed{s.t, bufio.NewReader(answer.Body), answer.Body.Close}
}

// next reads the next event into v, and returns its name.
func (s *streamed) next(v any) string {
	s.t.Helper()
	var name string
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the stream ended: %v", err)
		}
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = strings.TrimSpace(n)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			if err := json.Unmarshal([]byte(data), v); err != nil {
				s.t.Fatalf("%s: %v", data, err)
			}
			return name
		}
	}
}

// hello reads the first event.
func (s *streamed) hello() (h hello) {
	s.t.Helper()
	if name := s.next(&h); name != "hello" {
		s.t.Fatalf("the first event is %s", name)
	}
	return h
}

// until reads events until one is as wanted.
func until[T any](s *streamed, wanted func(T) bool, what string) (v T) {
	s.t.Helper()
	for deadline := time.Now().Add(redistest.Patience); time.Now().Before(deadline); {
		v = *new(T)
		if s.next(&v) == "news" && wanted(v) {
			return v
		}
	}
	s.t.Fatalf("not within %v: %s; the last was %+v", redistest.Patience, what, v)
	return v
}

// hold locks key as another process would, until the test ends.
func hold(t *testing.T, on *redistest.Server, key, owner string) *warlock.Mutex {
	t.Helper()
	m := warlock.NewMutex(on.Client(), key, ttl, warlock.WithOwner(owner))
	if err := m.LockContext(within(t)); err != nil {
		t.Fatal(err)
	}
	return m
}

// queue lets another process wait for key, and returns when it is the nth in the
// queue. The channel is closed when the process has the lock.
func queue(t *testing.T, on *redistest.Server, key, owner string, nth int) <-chan struct{} {
	t.Helper()
	m := warlock.NewMutex(on.Client(), key, ttl, warlock.WithOwner(owner))
	locked := make(chan struct{})
	go func() {
		if m.LockContext(t.Context()) == nil {
			close(locked)
		}
	}()
	redistest.Eventually(t, func() bool {
		s, err := warlock.Inspect(t.Context(), on.Admin, key)
		return err == nil && len(s.Waiting) == nth
	}, "%s waits", owner)
	return locked
}

func TestEachAnswerIsProtected(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{Token: token})
	for _, target := range []string{
		"/", "/lock?key=a", "/page.css", "/list.js", "/nothing", "/events",
	} {
		for _, auth := range []string{"", "Bearer " + token} {
			answer := s.do("GET", target, "", header("Authorization", auth))
			for name, want := range map[string]string{
				"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
				"Cache-Control": "no-store",
			} {
				if got := answer.Header.Get(name); got != want {
					t.Errorf("%s with %q: %s is %q", target, auth, name, got)
				}
			}
			switch got := answer.Header.Get("Referrer-Policy"); got {
			case "no-referrer", "same-origin": // the second is of the form of the token
			default:
				t.Errorf("%s with %q: Referrer-Policy is %q", target, auth, got)
			}
		}
	}
}

func TestForeignHostIsRefused(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{Hosts: []string{"locks.example"}})
	host := func(h string) func(*http.Request) { return func(r *http.Request) { r.Host = h } }
	for _, target := range []string{"/", "/page.css", "/events", "/lock?key=a"} {
		answer := s.do("GET", target, "", host("evil.example:7379"))
		if answer.StatusCode != http.StatusMisdirectedRequest {
			t.Errorf("%s: %s", target, answer.Status)
		}
	}
	if answer := s.do("GET", "/", "", host("locks.example")); answer.StatusCode != http.StatusOK {
		t.Errorf("a host that is named: %s", answer.Status)
	}
}

func TestEachRequestNeedsTheToken(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{Token: token, AllowBreak: true})
	requests := []struct{ method, target string }{
		{"GET", "/"}, {"GET", "/lock?key=a"}, {"GET", "/nothing"}, {"GET", "/list.js"},
		{"GET", "/lock.js"}, {"GET", "/live.js"}, {"GET", "/rows.js"}, {"GET", "/events"},
		{"GET", "/events?key=a"}, {"POST", "/break"},
	}
	for _, r := range requests {
		for _, auth := range []string{"", "Bearer", "Bearer wrong", "Basic " + token, token} {
			answer := s.do(r.method, r.target, "", header("Authorization", auth))
			if answer.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s with %q: %s", r.method, r.target, auth, answer.Status)
			}
		}
		answer := s.do(r.method, r.target, "", header("Authorization", "bearer "+token))
		if answer.StatusCode == http.StatusUnauthorized {
			t.Errorf("%s %s is refused with the token", r.method, r.target)
		}
	}
}

const (
	lockPage = "/lock?key=a%00%2Fb"
	form     = "token=correct+horse+battery+staple"
)

func TestLoginByForm(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{Token: token})
	ask := s.text(s.do("GET", lockPage, ""))
	if !strings.Contains(ask, `type="password"`) || strings.Contains(ask, token) {
		t.Errorf("the form is\n%s", ask)
	}
	wrong := s.do("POST", lockPage, "token=wrong")
	text := s.text(wrong)
	if wrong.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "The token is wrong") {
		t.Errorf("a wrong token: %s\n%s", wrong.Status, text)
	}
	foreign := s.do("POST", lockPage, form, header("Origin", "http://evil.example"))
	if foreign.StatusCode != http.StatusForbidden {
		t.Errorf("a form of another site: %s", foreign.Status)
	}
	let := s.do("POST", lockPage, form, header("Origin", s.base))
	if let.StatusCode != http.StatusSeeOther || let.Header.Get("Location") != "."+lockPage {
		t.Fatalf("the token: %s to %q", let.Status, let.Header.Get("Location"))
	}
	cookie := let.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Secure {
		t.Errorf("the cookie is %v", cookie)
	}
	with := func(r *http.Request) { r.AddCookie(cookie) }
	if answer := s.do("GET", lockPage, "", with); answer.StatusCode != http.StatusOK {
		t.Errorf("with the cookie: %s", answer.Status)
	}
	cookie.Value += "0"
	if answer := s.do("GET", lockPage, "", with); answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("with another cookie: %s", answer.Status)
	}
	if log := s.log.String(); strings.Contains(log+cookie.String(), "horse") {
		t.Errorf("the token is in the cookie %v or in the log %s", cookie, log)
	}
}

func TestCookieBehindTLSStaysThere(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{Token: token})
	answer := s.do("POST", lockPage, form, header("X-Forwarded-Proto", "https"))
	if !answer.Cookies()[0].Secure {
		t.Error("a browser may send the cookie without TLS")
	}
}

func TestPassEnds(t *testing.T) {
	secret, now := newSecret(), time.Now()
	pass := secret.pass(now)
	until, signature, _ := strings.Cut(pass, ".")
	for _, c := range []struct {
		value string
		at    time.Time
		want  bool
	}{
		{pass, now, true},
		{pass, now.Add(loginLasts - time.Minute), true},
		{pass, now.Add(loginLasts + time.Second), false},
		{until + "0." + signature, now, false},
		{until + "." + secret.forgeryToken(), now, false},
		{until, now, false},
		{"", now, false},
		{newSecret().pass(now), now, false},
	} {
		if got := secret.passes(c.value, c.at); got != c.want {
			t.Errorf("passes(%q, %v) = %v", c.value, c.at, got)
		}
	}
}

func TestStreamOfTheList(t *testing.T) {
	redistest.Each(t, func(t *testing.T, on *redistest.Server) {
		s := start(t, on, Options{})
		stream := s.events("")
		if h := stream.hello(); h.Break || h.Forgery != "" {
			t.Error("locks may be broken")
		}
		until(stream, func(v listView) bool { return len(v.Locks) == 0 && v.Error == "" }, "no locks")
		hold(t, on, "invoice:42", "web-3/4711")
		queue(t, on, "invoice:42", "web-4/1", 1)
		v := until(stream, func(v listView) bool {
			return len(v.Locks) == 1 && v.Locks[0].Waiting == 1
		}, "a lock")
		row := v.Locks[0]
		want := lockRow{
			Ref: "invoice%3A42", Key: "invoice:42", Mode: "write", Holder: "web-3/4711", Waiting: 1,
			Held: row.Held, Lease: row.Lease, Longest: row.Longest,
		}
		if row != want || row.Held == "" || row.Longest == "" {
			t.Errorf("the row is %+v", row)
		}
		if !strings.HasPrefix(row.Lease, "9 min 5") && row.Lease != "10 min 0 s" {
			t.Errorf("the lease is for %s more", row.Lease)
		}
	})
}

func TestStreamOfALock(t *testing.T) {
	redistest.Each(t, func(t *testing.T, on *redistest.Server) {
		key := everyByte()
		s := start(t, on, Options{})
		stream := s.events("?key=" + ref(key))
		stream.hello()
		until(stream, func(v lockView) bool { return v.Mode == "free" && v.Error == "" }, "it is free")
		m := hold(t, on, key, "web-3/4711")
		until(stream, func(v lockView) bool {
			return len(v.Holders) == 1 && v.Holders[0].Owner == "web-3/4711" && v.Fence != ""
		}, "it is held")
		queue(t, on, key, "web-4/1", 1)
		queue(t, on, key, "web-5/1", 2)
		owners := func(v lockView) (names string) {
			for _, w := range v.Waiting {
				names += w.Owner + " "
			}
			return names
		}
		until(stream, func(v lockView) bool { return owners(v) == "web-4/1 web-5/1 " }, "two wait")
		m.Unlock()
		until(stream, func(v lockView) bool {
			return len(v.Holders) == 1 && v.Holders[0].Owner == "web-4/1" && owners(v) == "web-5/1 "
		}, "the queue moves")
	})
}

// TestLockKeepsItsTimeOfTheList opens the page of a lock that the list has shown.
func TestLockKeepsItsTimeOfTheList(t *testing.T) {
	on := redistest.StartMini(t)
	hold(t, on, "a", "web-1/1")
	s := start(t, on, Options{})
	held := func(v listView) bool { return len(v.Locks) == 1 && v.Locks[0].Held >= "1.5 s" }
	until(s.events(""), held, "the list has shown it for 1.5 s")
	lock := s.events("?key=a")
	v := until(lock, func(v lockView) bool { return len(v.Holders) == 1 }, "it is held")
	if v.Holders[0].Held < "1.5 s" {
		t.Errorf("it is held for %s", v.Holders[0].Held)
	}
}

func TestStreamTellsOfTrouble(t *testing.T) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	hold(t, on, "a", "web-1/1")
	list, lock := s.events(""), s.events("?key=a")
	until(list, func(v listView) bool { return len(v.Locks) == 1 }, "a lock")
	until(lock, func(v lockView) bool { return len(v.Holders) == 1 }, "a lock")
	on.Kill()
	until(list, func(v listView) bool { return v.Error != "" && v.Old && v.At > 0 }, "an error")
	until(lock, func(v lockView) bool { return v.Error != "" && v.Old && v.At > 0 }, "an error")
	on.Restart()
	until(list, func(v listView) bool { return v.Error == "" && !v.Old }, "no error")
	until(lock, func(v lockView) bool { return v.Error == "" && !v.Old }, "no error")
}

// TestListWithALockThatCannotBeRead overwrites the key of a lock.
func TestListWithALockThatCannotBeRead(t *testing.T) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	hold(t, on, "a", "web-1/1")
	hold(t, on, "b", "web-2/2")
	on.Do("DEL", "a")
	on.Do("LPUSH", "a", "x")
	until(s.events(""), func(v listView) bool {
		return len(v.Locks) == 1 && v.Locks[0].Held >= "1.5 s" && v.Error != "" && !v.Old
	}, "the other lock is still live")
}

func TestUnusableKeyIsAnError(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{})
	stream := s.events("?key=" + ref("{}a"))
	until(stream, func(v lockView) bool {
		return strings.HasPrefix(v.Error, "unusable key")
	}, "an error")
	if answer := s.do("GET", "/events?key=%zz", ""); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("a broken query: %s", answer.Status)
	}
}

func TestRedisIsLeftAloneWithoutPages(t *testing.T) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	feeds := func() int {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		return len(s.hub.feeds)
	}
	streams := []*streamed{s.events(""), s.events(""), s.events("?key=a"), s.events("?key=b")}
	for _, stream := range streams {
		until(stream, func(map[string]any) bool { return true }, "news")
	}
	if n := feeds(); n != 3 {
		t.Errorf("%d sources run for 4 streams of 3 subjects", n)
	}
	for _, stream := range streams {
		_ = stream.close()
	}
	redistest.Eventually(t, func() bool { return feeds() == 0 }, "the sources have ended")
}

func TestStreamsAreBounded(t *testing.T) {
	s := start(t, redistest.StartMini(t), Options{})
	for i := range mostStreams {
		s.events(fmt.Sprint("?key=", i)).hello()
	}
	answer := s.do("GET", "/events", "")
	text := s.text(answer)
	if answer.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, "too many") {
		t.Errorf("one more: %s: %s", answer.Status, text)
	}
	foreign := s.do("GET", "/events", "", header("Sec-Fetch-Site", "cross-site"))
	if foreign.StatusCode != http.StatusForbidden {
		t.Errorf("a stream for another site: %s", foreign.Status)
	}
}

func TestServerStopsInTime(t *testing.T) {
	on := redistest.Start(t)
	s := start(t, on, Options{})
	stream := s.events("")
	stream.hello()
	begin := time.Now()
	s.stop()
	if _, err := io.Copy(io.Discard, stream.lines); err != nil {
		t.Errorf("a stream ends with %v", err)
	}
	if took := time.Since(begin); took > longestStop+time.Second {
		t.Errorf("it took %v", took)
	}
}
