package serve

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// breakForm returns the body of a request to break key.
func breakForm(key string, ids ...string) string {
	form := "key=" + ref(key)
	for _, id := range ids {
		form += "&id=" + ref(id)
	}
	return form
}

// broke sends a request to break a lock, as a page does.
func (s *site) broke(form string) (b broken) {
	s.t.Helper()
	answer := s.do("POST", "/break", form, header(forgeryHeader, s.secret.forgeryToken()),
		header("Origin", s.base), header("Sec-Fetch-Site", "same-origin"))
	text := s.text(answer)
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		s.t.Fatalf("%s: %s", answer.Status, text)
	}
	return b
}

func idOf(t *testing.T, on *redistest.Server, key string) string {
	t.Helper()
	s, err := warlock.Inspect(t.Context(), on.Admin, key)
	if err != nil || len(s.Holders) == 0 {
		t.Fatalf("%v, %v", s, err)
	}
	return s.Holders[0].ID
}

func TestBreakNeverFreesANewerHolder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, on *redistest.Server) {
		const key = "invoice:42"
		s := start(t, on, Options{AllowBreak: true})
		hold(t, on, key, "web-1/1")
		seen := idOf(t, on, key)
		second := queue(t, on, key, "web-2/2", 1)
		b := s.broke(breakForm(key, seen))
		if !slices.Equal(b.Freed, []string{ref(seen)}) || b.NotHeld != nil {
			t.Errorf("the holder that was seen: %+v", b)
		}
		<-second
		b = s.broke(breakForm(key, seen))
		if !slices.Equal(b.NotHeld, []string{ref(seen)}) || b.Freed != nil {
			t.Errorf("a second time: %+v", b)
		}
		if id := idOf(t, on, key); id == seen || !strings.Contains(id, "web-2/2") {
			t.Errorf("%q holds the lock", id)
		}
		if log := s.log.String(); !strings.Contains(log, key) {
			t.Errorf("the log is %s", log)
		}
	})
}

func TestBreakOfAnyBytes(t *testing.T) {
	redistest.Each(t, func(t *testing.T, on *redistest.Server) {
		key, id := "k"+everyByte(), "i"+everyByte()
		on.Do("SET", key, id, "PX", ttl.Milliseconds(), "NX")
		s := start(t, on, Options{AllowBreak: true})
		if b := s.broke(breakForm(key, "other", id)); len(b.Freed) != 1 || len(b.NotHeld) != 1 {
			t.Errorf("%+v", b)
		}
		if on.Do("EXISTS", key) != int64(0) {
			t.Error("the lock is still held")
		}
	})
}

func TestBreakIsUnknownWithoutRedis(t *testing.T) {
	on := redistest.Start(t)
	s := start(t, on, Options{AllowBreak: true})
	on.Kill()
	if b := s.broke(breakForm("a", "x")); len(b.Unknown) != 1 || b.Error == "" {
		t.Errorf("%+v", b)
	}
}

func TestBreakIsProtected(t *testing.T) {
	on := redistest.StartMini(t)
	hold(t, on, "a", "web-1/1")
	form, s := breakForm("a", idOf(t, on, "a")), start(t, on, Options{AllowBreak: true})
	forgery := header(forgeryHeader, s.secret.forgeryToken())
	inQuery := func(r *http.Request) { r.URL.RawQuery = form }
	type change = func(*http.Request)
	for name, c := range map[string]struct {
		method, form string
		change       []change
		want         int
	}{
		"no token": {"POST", form, nil, http.StatusForbidden},
		"a wrong token": {"POST", form,
			[]change{header(forgeryHeader, "x")}, http.StatusForbidden},
		"another origin": {"POST", form,
			[]change{forgery, header("Origin", "http://evil.example")}, http.StatusForbidden},
		"another site": {"POST", form,
			[]change{forgery, header("Sec-Fetch-Site", "cross-site")}, http.StatusForbidden},
		"no POST":            {"GET", "", []change{forgery}, http.StatusMethodNotAllowed},
		"no holder":          {"POST", "key=a", []change{forgery}, http.StatusBadRequest},
		"no key":             {"POST", "id=a", []change{forgery}, http.StatusBadRequest},
		"a key in the query": {"POST", "x=y", []change{forgery, inQuery}, http.StatusBadRequest},
		"too long": {"POST", "id=" + strings.Repeat("x", mostBreak),
			[]change{forgery}, http.StatusBadRequest},
	} {
		if answer := s.do(c.method, "/break", c.form, c.change...); answer.StatusCode != c.want {
			t.Errorf("%s: %s", name, answer.Status)
		}
	}
	if on.Get("a") == "" {
		t.Error("the lock was broken")
	}
}

func TestBreakMustBeAllowed(t *testing.T) {
	on := redistest.StartMini(t)
	hold(t, on, "a", "web-1/1")
	form, s := breakForm("a", idOf(t, on, "a")), start(t, on, Options{})
	answer := s.do("POST", "/break", form, header(forgeryHeader, s.secret.forgeryToken()))
	text := s.text(answer)
	if answer.StatusCode != http.StatusForbidden || !strings.Contains(text, "--allow-break") {
		t.Errorf("without --allow-break: %s: %s", answer.Status, text)
	}
	if on.Get("a") == "" {
		t.Error("the lock was broken")
	}
}
