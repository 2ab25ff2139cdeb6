package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warlock-go/warlock"
	"github.com/warlock-go/warlock/internal/redistest"
)

func TestTopWithoutATerminal(t *testing.T) {
	status, out, errs := run(t.Context(), "top")
	const want = "warlock: top needs a terminal: use \"warlock ls\", or --json\n"
	if status != exitUsage || out != "" || errs != want {
		t.Errorf("status %d, output %q, error %q; want %d and %q", status, out, errs, exitUsage, want)
	}
}

func TestTopOnWrongUse(t *testing.T) {
	for _, args := range [][]string{
		{"top", "--json", "--every", "1ms"}, {"top", "--json", "--every", "-1s"},
		{"top", "--every", "x"}, {"top", "a", "b"}, {"top", "--json", "--redis", "http://x"},
	} {
		status, out, errs := run(t.Context(), args...)
		if status != exitUsage || out != "" || strings.Count(errs, "\n") != 1 {
			t.Errorf("%q: status %d, output %q, error %q", args, status, out, errs)
		}
	}
}

// looks are the lines of top --json.
type looks struct {
	t     *testing.T
	lines *bufio.Scanner
}

// until returns the first line for which ok holds.
func (l looks) until(ok func(look lookJSON) bool) (line string) {
	l.t.Helper()
	for l.lines.Scan() {
		var look lookJSON
		if err := json.Unmarshal(l.lines.Bytes(), &look); err != nil {
			l.t.Fatalf("%q: %v", l.lines.Text(), err)
		}
		if time.Since(look.At) > time.Minute {
			l.t.Fatalf("a look is of %v", look.At)
		}
		if ok(look) {
			return l.lines.Text()
		}
	}
	l.t.Fatal("no more lines")
	return ""
}

func TestTopJSON(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan int, 1)
	go func() {
		args := []string{"top", "invoice:*", "--json", "--every=100ms", "--redis=redis://" + s.Addr}
		done <- execute(ctx, args, strings.NewReader(""), writer, io.Discard)
		_ = writer.Close()
	}()
	next := looks{t, bufio.NewScanner(reader)}
	line := next.until(func(lookJSON) bool { return true })
	if !strings.HasSuffix(line, `,"locks":[],"more":0}`) {
		t.Errorf("without locks: %s", line)
	}
	heldBy(t, s, "invoice:<42>", "web-3/4711")
	heldBy(t, s, "other", "web-3/4711")
	line = next.until(func(look lookJSON) bool { return len(look.Locks) == 1 })
	for _, part := range []string{`"key":"invoice:<42>","mode":"write"`, `"waiting":[],`} {
		if !strings.Contains(line, part) {
			t.Errorf("with a lock there is no %s in %s", part, line)
		}
	}
	s.Kill()
	next.until(func(look lookJSON) bool { return look.Error != "" && len(look.Locks) == 1 })
	cancel()
	_ = reader.Close()
	if status := <-done; status == 0 {
		t.Error("the end of a context is no success")
	}
}

func TestStatusJSON(t *testing.T) {
	none, err := json.Marshal(statusJSON(warlock.Status{Key: "k"}))
	const want = `{"key":"k","mode":"free","holders":[],"moreholders":0,` +
		`"waiting":[],"morewaiting":0,"fence":0}`
	if err != nil || string(none) != want {
		t.Errorf("%s, %v; want %s", none, err, want)
	}
	got := statusJSON(warlock.Status{
		Mode: warlock.ModeRead, MoreHolders: 1, MoreWaiting: 2, Fence: 3,
		Holders: []warlock.Holder{{ID: "a", Owner: "b", Remaining: 1500 * time.Millisecond}},
		Waiting: []warlock.Waiter{{ID: "c", Owner: "d", Mode: warlock.ModeWrite, For: time.Minute}},
	})
	full := lockJSON{
		Mode: "read", MoreHolders: 1, MoreWaiting: 2, Fence: 3,
		Holders: []holderJSON{{ID: "a", Owner: "b", Remaining: 1.5}},
		Waiting: []waiterJSON{{"c", "d", "write", 60}},
	}
	if !reflect.DeepEqual(got, full) {
		t.Errorf("%+v, want %+v", got, full)
	}
}

// offers returns what a shell is told for the last of words.
func offers(t *testing.T, words ...string) (keys []string, directive string) {
	t.Helper()
	status, out, errs := run(t.Context(), append([]string{"__complete"}, words...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if status != 0 || strings.Contains(errs, "warlock:") {
		t.Errorf("%q: status %d, error %q", words, status, errs)
	}
	return lines[:len(lines)-1], lines[len(lines)-1]
}

const (
	noFiles = ":4" // cobra.ShellCompDirectiveNoFileComp
	files   = ":0" // cobra.ShellCompDirectiveDefault
)

func TestKeysComplete(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	for _, key := range []string{
		"invoice:42", "invoice:43", "inventory", "other",
		"in*", "in[v]", `in\`, "in\x1b", "in\tb", "-in", "in x",
	} {
		heldBy(t, s, key, "o")
	}
	redis := "--redis=redis://" + s.Addr
	for _, c := range []struct {
		begun string
		want  []string
	}{
		{"inv", []string{"inventory", "invoice:42", "invoice:43"}},
		{"invoice:4", []string{"invoice:42", "invoice:43"}},
		{"in*", []string{"in*"}}, {"in[", []string{"in[v]"}}, {`in\`, []string{`in\`}}, {"in?", nil},
		{"none", nil},
		{"", []string{"in x", "in*", "in[v]", `in\`, "inventory", "invoice:42", "invoice:43", "other"}},
	} {
		got, directive := offers(t, redis, "top", c.begun)
		if !slices.Equal(got, c.want) || directive != noFiles {
			t.Errorf("%q is completed by %q (%s), want %q", c.begun, got, directive, c.want)
		}
	}
	for i := range mostOffered {
		heldBy(t, s, "many:"+time.Duration(i).String(), "o")
	}
	if got, _ := offers(t, redis, "top", "many"); len(got) != mostOffered {
		t.Errorf("%d keys are offered, want %d", len(got), mostOffered)
	}
	if got, _ := offers(t, redis, "top", ""); len(got) != mostOffered {
		t.Errorf("%d keys are offered, want %d", len(got), mostOffered)
	}
}

// Behind -- stand the words of another command.
func TestNoKeysBehindDashes(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	heldBy(t, s, "invoice:42", "o")
	for _, words := range [][]string{{"--", ""}, {"k", "--", ""}, {"k", "--", "true", ""}} {
		before := []string{"__complete", "--redis=redis://" + s.Addr, "top"}
		cmd := command(t, append(before, words...)...)
		out, err := cmd.Output()
		if want := files + "\n"; err != nil || string(out) != want {
			t.Errorf("%q: %q, %v; want %q", words, out, err, want)
		}
	}
}

func TestCompletionIsSilent(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"redis://127.0.0.1:1", "http://x", "unix:///missing"} {
		begin := time.Now()
		got, directive := offers(t, "--redis="+url, "top", "x")
		if len(got) > 0 || directive != noFiles {
			t.Errorf("%s: %q %s", url, got, directive)
		}
		if took := time.Since(begin); took > 10*longestOffered {
			t.Errorf("%s: completion took %v", url, took)
		}
	}
	s := redistest.Start(t)
	s.Pause()
	t.Cleanup(s.Resume)
	if got, _ := offers(t, "--redis=redis://"+s.Addr, "top", "x"); len(got) > 0 {
		t.Errorf("a server that hangs: %q", got)
	}
}

func TestFlagsComplete(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"top", "--password-file", ""}, files}, {[]string{"top", "--user-file="}, files},
		{[]string{"--user-file", ""}, files}, {[]string{"serve", "--token-file", ""}, files},
		{[]string{"top", "--redis", ""}, noFiles},
		{[]string{"top", "--every", ""}, noFiles}, {[]string{"top", "--user", ""}, noFiles},
	} {
		if got, directive := offers(t, c.words...); directive != c.want || len(got) > 0 {
			t.Errorf("%q: %q %s, want %s", c.words, got, directive, c.want)
		}
	}
}
