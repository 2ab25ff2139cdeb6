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

// replays, given like seed, lets TestReplayOnRedis compare more runs, or fewer.
var replays = flag.Int("replays", sample, "how many runs TestReplayOnRedis replays")

// The seeds from firstReplay on need but few runs, sample, to have all faults.
const firstReplay, sample = 570, 25

// A real server answers what the servers of the simulation answered, and has the
// same data, given the same commands at the same times.
func TestReplayOnRedis(t *testing.T) {
	r, seeds := newReplay(t), *replays
	replayed, faults := 0, make(map[string]int)
	record(t, job{From: firstReplay, Step: 1, Most: seeds}, func(result *Result) {
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
	if seeds < sample {
		return
	}
	for k := range kindsOfFaults {
		possible := (&Plan{Faults: []Fault{{Kind: k}}}).replayable()
		if possible && faults[k.String()] == 0 {
			t.Errorf("no run had the fault %v", k)
		}
	}
}

// A replay notices each reply and each message that differs, that is missing, or
// that is too many, and data that differ.
func TestReplayNotices(t *testing.T) {
	r := newReplay(t)
	r.patience = 200 * time.Millisecond // for a reply that does not come
	var recording *Recording
	record(t, job{From: 4, Step: 1, Most: 1}, func(result *Result) {
		recording = result.Recordings[0]
	})
	if err := r.play(recording); err != nil {
		t.Fatal(err)
	}
	isToken := func(e Entry) bool {
		return e.Kind == answered && bytes.HasPrefix(e.Text, []byte(":17"))
	}
	isMessage := func(e Entry) bool { return e.Kind == answered && isPush(e.Text) }
	hasData := func(e Entry) bool { return e.Kind == observed && len(e.Text) > 0 }
	for _, test := range []struct {
		name  string
		finds func(Entry) bool // the entry that is altered
		as    func(Entry) []Entry
	}{
		{"another token", isToken, otherDigit},
		{"another message", isMessage, otherDigit},
		{"no token", isToken, none},
		{"no message", isMessage, none},
		{"two tokens", isToken, twice},
		{"two messages", isMessage, twice},
		{"other data", hasData, otherDigit},
	} {
		all := recording.Entries
		i := slices.IndexFunc(all, test.finds)
		if i < 0 {
			t.Fatalf("%s: the recording has no such entry", test.name)
		}
		err := r.play(&Recording{Entries: slices.Concat(all[:i], test.as(all[i]), all[i+1:])})
		if err == nil {
			t.Errorf("%s: the replay finds no difference", test.name)
		}
		t.Logf("%s: %v", test.name, err)
	}
}

func none(Entry) []Entry { return nil }

func twice(e Entry) []Entry { return []Entry{e, e} }

// otherDigit changes the last digit that an entry tells.
func otherDigit(e Entry) []Entry {
	e.Text = slices.Clone(e.Text)
	e.Text[bytes.LastIndexAny(e.Text, "0123456789")] ^= 1 // even and odd change places
	return []Entry{e}
}

// A recording alters nothing: the same run without one has the same digest.
func TestRecordingAltersNothing(t *testing.T) {
	differ := 0
	record(t, job{From: 1, Step: 1, Most: 5, Again: 1}, func(result *Result) {
		if result.Differs {
			differ++
		}
	})
	if differ > 1 { // see TestSim
		t.Errorf("%d runs of 5 were others when they were recorded", differ)
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
type compared struct{ recordings, links, batches, replies, messages, states int }

func (c compared) String() string {
	return fmt.Sprintf("%d recordings with %d links and %d batches; "+
		"%d replies, %d messages and the data at %d times compared",
		c.recordings, c.links, c.batches, c.replies, c.messages, c.states)
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
	case observed:
		return r.observe(e)
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

// observe compares the data of the server.
func (r *replay) observe(e Entry) error {
	r.compared.states++
	reply, ok := r.server.Do("EVAL", observation, 0).([]any)
	if !ok {
		return fmt.Errorf("the observation returns %v", reply)
	}
	var lines []string
	for _, key := range reply {
		fields := key.([]any)
		values := fields[2].([]any)
		var parts []string
		for i := 0; i < len(values); i += 2 {
			part := fmt.Sprint(values[i])
			if i+1 < len(values) {
				part += fmt.Sprint(" = ", values[i+1])
			}
			parts = append(parts, part)
		}
		lines = append(lines, stateLine(fields[0].(string), max(0, fields[1].(int64)), parts))
	}
	slices.Sort(lines)
	want := strings.Split(string(e.Text), "\n")
	slices.Sort(want)
	if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
		return fmt.Errorf("the data differ; of miniredis:\n%s\nof Redis:\n%s", e.Text, got)
	}
	return nil
}

// observation returns each key, with its PTTL and its value.
const observation = `
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind, value = redis.call('TYPE', key).ok
  if kind == 'hash' then
    value = redis.call('HGETALL', key)
  elseif kind == 'zset' then
    value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  else
    value = {redis.call('GET', key)}
  end
  table.insert(all, {key, redis.call('PTTL', key), value})
end
return all`

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
	for _, key := range keysOf(scriptsOf(e.Text)) {
		if !slices.Contains(r.keys, key) {
			r.keys = append(r.keys, key)
		}
	}
	var commands []string
	commands, l.sent = values(append(l.sent, e.Text...))
	if len(commands) > 1 {
		r.compared.batches++
	}
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
		} else if r.compared.replies++; len(l.waiting) > 0 {
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
