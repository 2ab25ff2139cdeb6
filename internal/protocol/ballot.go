package protocol

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/warlock-go/warlock/internal/send"
)

var (
	//go:embed vote.lua
	voteSource string
	//go:embed ballot.lua
	ballotSource string
	//go:embed contest.lua
	contestSource string
	//go:embed concede.lua
	concedeSource string
	//go:embed cede.lua
	cedeSource string
	//go:embed memory.lua
	memorySource string

	ballotScript = newScript(lockSource + voteSource + ballotSource + shareSource + waitersSource +
		enqueueSource + refuseSource + contestSource)
	concedeScript = newScript(lockSource + concedeSource + voteSource + shareSource +
		waitersSource + enqueueSource + leaveSource + cedeSource)
	memoryScript = newScript(memorySource)
)

// MemoryKey is the key in which a server of a quorum says what it remembers.
const MemoryKey = "warlock:quorum:memory"

// OnVoter is [Over] for a server of a quorum.
func OnVoter(sender send.Sender, key string) (*Lock, error) {
	l, err := Over(sender, key)
	if err == nil {
		l.votes = true
	}
	return l, err
}

// TakeNotes returns nothing: callers learn of all that ails a single server.
func (l *Lock) TakeNotes() []Note { return nil }

// MemoryOf returns the memory of a server of a quorum. Only Recollect, Remember and Probe may be
// called.
func MemoryOf(sender send.Sender) *Lock {
	l := &Lock{sender: sender}
	l.keys[0] = MemoryKey
	return l
}

// memoryLifetime is how long a memory outlives its last use.
const memoryLifetime = 7 * 24 * time.Hour

// A Ballot asks one server of a quorum for its vote.
type Ballot struct {
	Request
	Token  int64  // the fencing token that the client proposes
	Memory Memory // of the server, as the client has read it. Zero: the server forgets nothing
}

// Refill is the Round of a Ballot of an ID that holds the lock on a majority.
const Refill = -1

// A Vote is the answer to a Ballot.
type Vote struct {
	Grant               // Granted with the Ballot's token, or refused
	Before    int64     // if Granted: the fence before; 0: there was none
	Low       bool      // neither: the token is not above Floor
	Floor     int64     // of the server, if Low
	Forgotten bool      // neither: the Memory is another by now
	Now       time.Time // by the server's clock; zero: it did not say
}

// A Note is what people are to read of a server of a quorum: that it does not vote, though a
// majority does.
type Note struct {
	Server string
	Err    error // why it does not vote; nil: it votes again
}

// Refused reports whether the server has refused the lock to the ID: only then it says
// anything of the ID's place, and of its mailbox.
func (v Vote) Refused() bool { return !v.Granted && !v.Low && !v.Forgotten }

// Vote asks for the server's vote, once.
func (l *Lock) Vote(ctx context.Context, b Ballot) (Vote, error) {
	lifetime := (b.TTL + FloorLifetime).Milliseconds()
	counted := 0
	if b.AskSubscribed {
		counted = 1
	}
	reply, err := l.runOver(send.WithoutDeadline(ctx), ballotScript, b.ID, b.TTL.Milliseconds(),
		lifetime, b.Reserve, b.Round, b.Place, counted, modes[b.Mode],
		b.Token, b.Memory.text(), b.Memory.Run)
	if err != nil {
		return Vote{}, err
	}
	return voted(reply, b.Token)
}

// voted reads the reply to a ballot with that token.
func voted(reply any, token int64) (Vote, error) {
	if before, ok := reply.(int64); ok {
		return Vote{Grant: Grant{Granted: true, Token: token}, Before: before}, nil
	}
	parts, _ := reply.([]any)
	switch len(parts) {
	case 1:
		return Vote{Forgotten: true}, nil
	case 2:
		now, ok := parts[0].(int64)
		text, _ := parts[1].(string)
		floor, err := strconv.ParseInt(text, 10, 64)
		if ok && err == nil {
			return Vote{Low: true, Floor: floor, Now: time.UnixMicro(now)}, nil
		}
	case 6:
		now, ok := parts[5].(int64)
		grant, is := refusal(parts[:5])
		if ok && is {
			return Vote{Grant: grant, Now: time.UnixMicro(now)}, nil
		}
	}
	return Vote{}, unexpected("a ballot", reply)
}

// A Concession gives a lock back on one server of a quorum.
type Concession struct {
	Request       // with a Round above 0 the ID goes on waiting at its Place, with 0 it leaves
	Fence   int64 // that the fence goes back to; 0: it stays; NoFence: there was none
	Only    int64 // concede only a grant whose highest token is this one; 0: any

	// Next is the token with which the server hands the lock off to the first waiter, if it has
	// this Memory still. 0: it hands it to nobody.
	Next   int64
	Memory Memory
}

// NoFence is the Fence of a Concession after a grant before which there was none.
const NoFence = -1

// Concede gives the lock back if the ID holds it, and hands it off to the first waiter, or
// tells that. It makes one request. It returns ErrNotHeld if the ID does not hold the lock.
func (l *Lock) Concede(ctx context.Context, c Concession) error {
	lifetime := (c.TTL + FloorLifetime).Milliseconds()
	if c.Round == 0 {
		lifetime = floorLifetime
	}
	return yes(l.runOver(ctx, concedeScript, c.ID, c.TTL.Milliseconds(), lifetime,
		c.Reserve, c.Round, c.Place, 0, modes[c.Mode], c.Fence, c.Only,
		c.Next, c.Memory.text(), c.Memory.Run))
}

// runOver is run for a script that has the memory as a seventh key. go-redis does not
// repeat the request.
func (l *Lock) runOver(ctx context.Context, s script, args ...any) (any, error) {
	keys := append(l.keys[:keyCount:keyCount], MemoryKey)
	return l.runKeys(ctx, send.Once, s, send.Way{}, keys, args)
}

// A Memory says from when on a server of a quorum may vote, as it has forgotten nothing since.
type Memory struct {
	Run  string        // the run ID of the server; "": not known
	From int64         // by the server's clock (ms of Unix time); 0: since ever
	TTL  time.Duration // the longest of a lease that it may vote for
}

// text returns the memory as the server keeps it; "": none.
func (m Memory) text() string {
	if m == (Memory{}) {
		return ""
	}
	return fmt.Sprintf("%s %d %d", m.Run, m.From, m.TTL.Milliseconds())
}

// parseMemory reads a memory. The result is zero if there is none.
func parseMemory(text string) (m Memory) {
	parts := strings.Split(text, " ")
	if len(parts) != 3 {
		return m
	}
	since, err := strconv.ParseInt(parts[1], 10, 64)
	ms, failed := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || failed != nil || ms <= 0 {
		return m
	}
	return Memory{parts[0], since, milliseconds(ms)}
}

// A Recollection is what a server of a quorum says of itself.
type Recollection struct {
	Memory  Memory        // zero: none
	Run     string        // the run ID of the server; "": not known
	Up      time.Duration // for how long it has run, within a second; negative: not known
	Now     time.Time     // by its clock
	Muted   error         // why the client may not publish; nil: it may
	Hidden  error         // why the server does not tell Run and Up; nil: it does
	written string        // the text of the memory
}

// Recollect asks the server of the lock what it remembers.
func (l *Lock) Recollect(ctx context.Context, mailbox string) (Recollection, error) {
	return l.recollect(ctx, mailbox, "", "")
}

// Remember has the server of the lock remember m from now on, in place of what it
// said. If that is another by now, it stays. Remember returns what stands.
func (l *Lock) Remember(
	ctx context.Context, mailbox string, said Recollection, m Memory,
) (Recollection, error) {
	return l.recollect(ctx, mailbox, said.written, m.text())
}

func (l *Lock) recollect(ctx context.Context, mailbox, before, after string) (Recollection, error) {
	reply, err := l.runKeys(ctx, repeatable, memoryScript, send.Way{}, []any{MemoryKey},
		[]any{Channel(mailbox), before, after, memoryLifetime.Milliseconds()})
	if err != nil {
		return Recollection{}, err
	}
	parts, _ := reply.([]any)
	if len(parts) != 6 {
		return Recollection{}, unexpected("the memory", reply)
	}
	texts := make(map[int]string)
	for _, i := range []int{0, 1, 4, 5} {
		texts[i], _ = parts[i].(string)
	}
	up, _ := parts[2].(int64)
	now, ok := parts[3].(int64)
	if !ok {
		return Recollection{}, unexpected("the memory", reply)
	}
	r := Recollection{
		Memory: parseMemory(texts[0]), Run: texts[1], Up: time.Duration(up) * time.Second,
		Now: time.UnixMilli(now), written: texts[0],
	}
	if texts[4] != "" {
		r.Muted = fmt.Errorf("PUBLISH by a script: %s", texts[4])
	}
	if texts[5] != "" {
		r.Hidden = surprise(texts[5])
	}
	return r, nil
}

// Denied reports whether err says that the user may not use a command.
func Denied(err error) bool {
	return mentions(err, "NOPERM", "The user executing the script", "ACL failure in script")
}

// A momentary error is Passing, and says that no request is under way.
type momentary string

func (e momentary) Error() string { return string(e) }

// RedisError makes it a redis.Error: what it says is known.
func (momentary) RedisError() {}

// Momentary returns an error that waiting mends, and after which no request may still run.
func Momentary(problem string) error { return momentary(problem) }

// A hopeless error is Final, with an advice of its own.
type hopeless struct {
	error
	advice string
}

func (e hopeless) Unwrap() error { return e.error }

// Hopeless returns an error that no waiting mends. advice says what a user can do.
func Hopeless(problem, advice string) error { return hopeless{errors.New(problem), advice} }
