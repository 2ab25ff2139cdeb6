package sim

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2/proto"

	"github.com/warlock-go/warlock/internal/redistest"
)

// replays, given like seed, is for a longer comparison than that of each test.
var replays = flag.Int("replays", 20, "how many runs TestReplayOnRedis replays")

// A real server answers what the servers of the simulation answered, given the
// same commands at the same times.
func TestReplayOnRedis(t *testing.T) {
	r, seeds := newReplay(t), *replays
	replayed, faults := 0, make(map[string]int)
	record(t, job{From: 1, Step: 1, Most: seeds}, func(result *Result) {
		for _, recording := range result.Recordings {
			if err := r.play(recording); err != nil {
				t.Errorf("seed %d, %s: %v", result.Seed, recording.Server, err)
			}
		}
		replayed++
		for kind, n := range result.Faults {
			faults[kind] += n
		}
	})
	t.Logf("%d runs with the faults %s: %v", replayed, counts(faults), r.compared)
	if replayed != seeds {
		t.Errorf("%d runs were replayed, want %d", replayed, seeds)
	}
	for _, k := range []Kind{Crash, Pause, Lossy, Slow, Deaf, Cut, Restart, Forget, Flush, Jump, ReadOnly, OutOfRoom} {
		if faults[k.String()] == 0 {
			t.Errorf("no run had the fault %v", k)
		}
	}
}

// record lets a worker do a job, and record each run.
func record(t *testing.T, j job, take func(*Result)) {
	t.Helper()
	j.Record = true
	if err := (&Search{Program: os.Args[0]}).runWorker(t.Context(), j, take); err != nil {
		t.Fatal(err)
	}
}

// A replay replays recordings on a real server, one after another.
type replay struct {
	server   *redistest.Server
	patience time.Duration // how long it waits for an answer
	compared compared
	links    map[string]*replayLink // of the recording, by name
	keys     []string               // that the recording's commands have named
}

// compared counts what a replay has compared.
type compared struct{ recordings, links, commands, messages int }

func (c compared) String() string {
	return fmt.Sprintf("%d recordings with %d links; %d replies and %d messages compared",
		c.recordings, c.links, c.commands, c.messages)
}

func newReplay(t *testing.T) *replay {
	return &replay{server: redistest.StartWithClock(t), patience: redistest.Patience}
}

// play replays a recording on an empty server. It returns the first difference.
func (r *replay) play(recording *Recording) error {
	r.compared.recordings++
	r.links, r.keys = make(map[string]*replayLink), nil
	defer func() {
		for _, l := range r.links {
			l.conn.Close()
		}
	}()
	if err := r.setMood(willing); err != nil {
		return err
	}
	r.server.Do("FLUSHALL")
	r.server.Do("SCRIPT", "FLUSH")
	for i, e := range recording.Entries {
		if err := r.step(e); err != nil {
			return fmt.Errorf("entry %d of %d, at %v: %w",
				i, len(recording.Entries), e.At.Sub(serverEpoch), err)
		}
	}
	return nil
}

// step replays an entry.
func (r *replay) step(e Entry) error {
	r.server.StopClock(e.At)
	switch e.Kind {
	case requested:
		return r.request(e)
	case answered:
		return r.compare(e)
	case linkEnded:
		return r.end(e.Link)
	case flushed:
		r.server.Do("SCRIPT", "FLUSH")
	case emptied:
		r.server.Do("FLUSHALL")
	case moodSet:
		return r.setMood(mood(e.Text))
	case clockMoves:
		// In miniredis no key that has run out comes back when the clock is set
		// back. In Redis one does, unless somebody looked at it.
		if len(r.keys) > 0 {
			r.server.Do(slices.Concat([]any{"EXISTS"}, anys(r.keys))...)
		}
	}
	return nil
}

// setMood lets the server be in a mood: without memory, or the replica of a
// server that nobody reaches.
func (r *replay) setMood(m mood) error {
	const nothing, everything = "0", "1"
	limit, master := nothing, []any{"REPLICAOF", "NO", "ONE"}
	switch m {
	case outOfRoom:
		limit = everything
	case readOnly:
		master = []any{"REPLICAOF", "127.0.0.1", "1"}
	case willing:
	default:
		return fmt.Errorf("no real server can be told to answer %q", m)
	}
	r.server.Do(master...)
	r.server.Do("CONFIG", "SET", "maxmemory", limit)
	return nil
}

func anys(words []string) (all []any) {
	for _, w := range words {
		all = append(all, w)
	}
	return all
}

// A replayLink is the connection that stands for a link of a recording.
type replayLink struct {
	name     string
	conn     net.Conn
	in       *bufio.Reader
	id       string   // of the connection, at the server
	sent     []byte   // the beginning of a command
	waiting  []string // the names of commands whose replies are to come
	answered []byte   // the beginning of a reply in the recording
}

// request sends a frame.
func (r *replay) request(e Entry) error {
	l, err := r.link(e.Link)
	if err != nil {
		return err
	}
	if _, err := l.conn.Write(e.Text); err != nil {
		return err
	}
	for _, key := range keysOf(e.Text) {
		if !slices.Contains(r.keys, key) {
			r.keys = append(r.keys, key)
		}
	}
	var commands []string
	commands, l.sent = values(append(l.sent, e.Text...))
	for _, c := range commands {
		words, err := proto.ReadStrings(c)
		if err != nil {
			return err
		}
		l.waiting = append(l.waiting, strings.ToLower(words[0]))
	}
	return nil
}

// link returns the connection of a link, and makes it if it is new.
func (r *replay) link(name string) (*replayLink, error) {
	if l := r.links[name]; l != nil {
		return l, nil
	}
	conn, err := net.Dial("tcp", r.server.Addr)
	if err != nil {
		return nil, err
	}
	r.compared.links++
	l := &replayLink{name: name, conn: conn, in: bufio.NewReader(conn)}
	r.links[name] = l
	reply, err := l.ask("CLIENT", "ID")
	if err != nil {
		return nil, err
	}
	l.id = strings.Trim(reply, ":\r\n")
	return l, l.conn.SetDeadline(time.Time{})
}

// ask sends a command that is not in the recording, and returns what comes next.
func (l *replayLink) ask(words ...string) (string, error) {
	if err := l.conn.SetDeadline(time.Now().Add(redistest.Patience)); err != nil {
		return "", err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&text, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := l.conn.Write([]byte(text.String())); err != nil {
		return "", err
	}
	return proto.Read(l.in)
}

// compare compares what the server writes to a link.
func (r *replay) compare(e Entry) error {
	l, err := r.link(e.Link)
	if err != nil {
		return err
	}
	var wants []string
	wants, l.answered = values(append(l.answered, e.Text...))
	for _, want := range wants {
		if err := l.conn.SetDeadline(time.Now().Add(r.patience)); err != nil {
			return err
		}
		got, err := proto.Read(l.in)
		if err != nil {
			return fmt.Errorf("link %s: miniredis answers %q, Redis does not: %w", l.name, want, err)
		}
		command := "a message"
		if isPush([]byte(want)) {
			r.compared.messages++
		} else if r.compared.commands++; len(l.waiting) > 0 {
			command, l.waiting = l.waiting[0], l.waiting[1:]
		}
		if !same(command, want, got) {
			return fmt.Errorf("link %s: to %s miniredis answers %q, Redis %q", l.name, command, want, got)
		}
	}
	return nil
}

// same reports whether two replies to a command say the same. A greeting tells
// the server's version and the number of the connection. An error that a script
// raised ends with the place, which asRedis7 does not know.
func same(command, want, got string) bool {
	switch {
	case command == "hello":
		return want[0] == got[0]
	case want[0] == '-':
		return place.ReplaceAllString(want, "") == place.ReplaceAllString(got, "")
	}
	return want == got
}

var place = regexp.MustCompile(`[0-9a-f]+, on @user_script:\d+`)

// end ends a link. Before that, it looks for an answer of the server that is not
// in the recording. When the server confirms the kill, it has dropped the
// subscriptions of the link.
func (r *replay) end(name string) error {
	l := r.links[name]
	if l == nil {
		return nil // nothing arrived by it
	}
	defer l.conn.Close()
	delete(r.links, name)
	if len(l.sent) == 0 {
		const mark = "the end"
		got, err := l.ask("ECHO", mark)
		if err != nil {
			return err
		}
		if !strings.Contains(got, mark) {
			return fmt.Errorf("link %s: miniredis is silent, Redis answers %q", name, got)
		}
	}
	if killed := r.server.Do("CLIENT", "KILL", "ID", l.id); killed != int64(1) {
		return fmt.Errorf("link %s: %v connections were killed, want 1", name, killed)
	}
	return nil
}

// values cuts text into RESP values. rest is the beginning of another.
func values(text []byte) (all []string, rest []byte) {
	for len(text) > 0 {
		v, err := proto.Read(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			return all, text
		}
		all, text = append(all, v), text[len(v):]
	}
	return all, nil
}
