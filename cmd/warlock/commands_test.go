package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

// on returns args with the URL of s.
func on(s *redistest.Server, args ...string) []string {
	return append(args, "--redis", "redis://"+s.Addr)
}

// expect runs the command line and checks the status and the outputs: each has parts in
// this order.
func expect(t *testing.T, args []string, status int, out, errs []string) {
	t.Helper()
	got, o, e := run(t.Context(), args...)
	if got != status {
		t.Errorf("%q: status %d, want %d: %s%s", args, got, status, o, e)
	}
	has(t, args, o, out)
	has(t, args, e, errs)
	if strings.Count(e, "\n") > 1 {
		t.Errorf("%q: the error has several lines: %s", args, e)
	}
}

func has(t *testing.T, args []string, text string, parts []string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Errorf("%q: no %q in %q", args, part, text)
			return
		}
		rest = after
	}
	if len(parts) == 0 && text != "" {
		t.Errorf("%q: it writes %q", args, text)
	}
}

func TestList(t *testing.T) {
	s := redistest.Start(t)
	expect(t, on(s, "ls"), 0, nil, nil)
	heldBy(t, s, "report:2026", "cron-1/7")
	heldBy(t, s, "invoice:42", "web-3/4711")
	awaitedBy(t, s, "invoice:42", "web-4/1")
	waits(t, s, "invoice:42", 1)
	expect(t, on(s, "ls"), 0, []string{
		"KEY", "MODE", "HOLDER", "LEASE", "WAITING\n",
		"invoice:42", "write", "web-3/4711", "59.", "1\n", "report:2026", "cron-1/7", "0\n",
	}, nil)
	expect(t, on(s, "ls", "report:*"), 0, []string{"report:2026"}, nil)
	_, out, _ := run(t.Context(), on(s, "ls", "--json")...)
	for line := range strings.Lines(out) {
		var l lockJSON
		err := json.Unmarshal([]byte(line), &l)
		if err != nil || l.Mode != "write" || len(l.Holders) != 1 {
			t.Errorf("%s: %v", line, err)
		}
	}
	if strings.Count(out, "\n") != 2 {
		t.Error(out)
	}
}

func TestShow(t *testing.T) {
	s := redistest.Start(t)
	expect(t, on(s, "show", "k"), 0, []string{"k: free\n"}, nil)
	heldBy(t, s, "k", "web-3/4711")
	awaitedBy(t, s, "k", "web-4/1")
	waits(t, s, "k", 1)
	expect(t, on(s, "show", "k"), 0, []string{
		"k: held, fencing token 1", "HOLDER", "web-3/4711", "59.", "WAITER", "web-4/1", "write",
	}, nil)
	_, out, _ := run(t.Context(), on(s, "show", "k", "--json")...)
	var l lockJSON
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		t.Fatal(err)
	}
	h, w := l.Holders[0], l.Waiting[0]
	if l.Key != "k" || l.Mode != "write" || l.Fence < 1e15 || h.Owner != "web-3/4711" ||
		h.Remaining < 50 || h.Remaining > 60 || w.Owner != "web-4/1" || w.Mode != "write" ||
		w.For < 0 || w.For > 50 {
		t.Errorf("%+v", l)
	}
	s.Do("SET", "plain", "by hand")
	expect(t, on(s, "show", "plain"), 0, []string{"plain: held", `"by hand"`, "for ever"}, nil)
	s.Do("LPUSH", "list", "x")
	expect(t, on(s, "show", "list"), exitUnavailable, nil, []string{"warlock: ", `"list"`})
}

// What strangers put into Redis is shown in quotes, so no terminal obeys it.
func TestStrangersNamesAreQuoted(t *testing.T) {
	s := redistest.Start(t)
	const key = "k\x1b[2J\nx"
	heldBy(t, s, key, "o")
	for _, args := range [][]string{{"ls"}, {"show", key}} {
		_, out, _ := run(t.Context(), on(s, args...)...)
		if strings.Contains(out, "\x1b") || !strings.Contains(out, `"k\x1b[2J\nx"`) {
			t.Errorf("%q: %q", args, out)
		}
	}
}

// JSON cannot have all bytes. Where it changes them, it also has them as they are.
func TestJSONHasAllBytes(t *testing.T) {
	s := redistest.Start(t)
	s.Do("SET", "k\xff", "i\xfe")
	expect(t, on(s, "show", "k\xff", "--json"), 0, []string{`"idhex":"69fe"`, `"keyhex":"6bff"`}, nil)
}

func TestWait(t *testing.T) {
	s := redistest.Start(t)
	expect(t, on(s, "wait", "k"), 0, nil, nil)
	release := hold(t, s, "k")
	expect(t, on(s, "wait", "k", "--wait", "60ms"), exitTimeout, nil,
		[]string{"warlock: ", "60ms", `lock "k"`, "held by the-test for "})
	done := make(chan int)
	go func() {
		status, _, _ := run(t.Context(), on(s, "wait", "k")...)
		done <- status
	}()
	release()
	if status := <-done; status != 0 {
		t.Errorf("status %d", status)
	}
	s.Kill()
	expect(t, on(s, "wait", "k", "--wait", "60ms"), exitUnavailable, nil, []string{"warlock: "})
}

func TestRelease(t *testing.T) {
	s := redistest.Start(t)
	defer hold(t, s, "k")()
	id := status(t, s, "k").Holders[0].ID
	expect(t, on(s, "release", "k", "another"), exitNo, nil, []string{"warlock: ", `"k"`})
	expect(t, on(s, "release", "k", id), 0, nil, nil)
	isFree(t, s, "k")
}

func TestBreak(t *testing.T) {
	s := redistest.Start(t)
	expect(t, on(s, "break", "k", "--yes"), exitNo, nil,
		[]string{`warlock: lock "k": nobody holds it`})
	heldBy(t, s, "k", "web-3/4711")
	expect(t, on(s, "break", "k"), exitUsage, nil, []string{"web-3/4711", "no terminal", "--yes"})
	expect(t, on(s, "break", "k", "--yes"), 0, []string{"k: taken from web-3/4711\n"}, nil)
	isFree(t, s, "k")

	s.Do("SET", "plain", "by hand")
	expect(t, on(s, "break", "--yes", "plain"), 0, []string{`plain: taken from "by hand"`}, nil)
	for range 3 {
		m := warlock.NewRWMutex(s.Client(), "shared", time.Minute)
		if err := m.RLockContext(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, on(s, "break", "--yes", "shared"), 0, []string{"taken", "taken", "taken"}, nil)
	isFree(t, s, "shared")
}

func TestWrongUse(t *testing.T) {
	s := redistest.Start(t)
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "no command"},
		{[]string{"nonsense"}, "nonsense"},
		{[]string{"show"}, "show takes a KEY"},
		{[]string{"show", "a", "b"}, "show takes a KEY"},
		{[]string{"show", ""}, "key"},
		{[]string{"show", "k", "--nonsense"}, "--nonsense"},
		{[]string{"wait", "k", "--wait", "-1s"}, "--wait -1s"},
		{[]string{"run", "k"}, "no --"},
		{[]string{"run", "k", "true"}, "no --"},
		{[]string{"run", "--", "true"}, "no key"},
		{[]string{"run", "k", "--"}, "no command"},
		{[]string{"run", "", "--", "true"}, "key"},
		{[]string{"run", "--ttl", "soon", "k", "--", "true"}, "soon"},
		{[]string{"run", "--ttl", "1ms", "k", "--", "true"}, "10ms"},
		{[]string{"run", "--wait", "-1s", "k", "--", "true"}, "--wait -1s"},
		{[]string{"run", "--try", "--wait", "1s", "k", "--", "true"}, "try"},
		{[]string{"run", "--owner", "a\nb", "k", "--", "true"}, "--owner"},
		{[]string{"ls", "--redis", "http://h"}, "redis://"},
	} {
		args := c.args
		if i := strings.Join(args, " "); !strings.Contains(i, "--redis") {
			args = append([]string{"--redis", "redis://" + s.Addr}, args...)
		}
		expect(t, args, exitUsage, nil, []string{"warlock: ", c.says})
	}
}
