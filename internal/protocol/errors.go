package protocol

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/send"
)

// ErrUnavailable says that Redis could not be reached, or could not serve, when
// it was last asked.
var ErrUnavailable = errors.New("warlock: Redis is unavailable")

// A Kind says whether it helps to try again after an error.
type Kind int

const (
	None    Kind = iota // no error, or ErrNotHeld
	Passing             // try again: no server answered, or the server will recover
	Final               // do not try again: the same error will come back
	Strange             // an unknown answer of a server: Final if it lasts
)

// final lists the texts of Final errors, each with an advice to the user. A
// server wraps the errors of a script's commands in its own words, which depend
// on its version. So each text may stand anywhere in an error. KEYS in an
// advice stands for the keys of the lock.
var final = []struct{ text, advice string }{
	{"NOAUTH", "give the client a username and password"},
	{"unauthenticated multibulk length", "give the client a username and password"}, // before NOAUTH
	{"WRONGPASS", "check the client's username and password"},
	{"invalid password", "check the client's username and password"},
	{"invalid username-password pair", "check the client's username and password"},
	{"without any password configured", "the server has no password: give the client none"},
	{"NOPERM", noperm},
	{"The user executing the script", noperm},
	{"ACL failure in script", noperm},
	{wrongType, "one of KEYS holds no lock's value: use another key, or delete that value"},
	{"CROSSSLOT", "KEYS must share a hash slot"},
	{"unknown command", "the server must offer " + commands},
	{"unknown Redis command", "the server must offer, also to scripts, " + commands},
	{"Unknown Redis command", "the server must offer, also to scripts, " + commands},
	{"DENIED", "the server is in protected mode: give it a password or a bind address"},
	{"DB index is out of range", "give the client a DB that the server has"},
	{"SELECT is not allowed in cluster mode", "a cluster has DB 0 only: give the client no DB"},
	{"bad lua script", "a proxy refuses scripts of several keys: connect to the server itself"},
}

// passing lists the texts in the answers of a server that will recover.
var passing = []string{
	"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF",
	"NOREPLICAS", "max number of clients", "NOSCRIPT", "MOVED ", "ASK ", "UNBLOCKED",
}

// A misdirected error is a MOVED answer to a client of one server, which does
// not follow it.
type misdirected struct{ error }

func (e misdirected) Unwrap() error { return e.error }

const movedAdvice = "the server is a cluster's: use a redis.ClusterClient, " +
	"or more than one address with NewUniversalClient"

// A noWait error is the answer of a server that does not carry out WAIT.
type noWait struct{ error }

func (e noWait) Unwrap() error { return e.error }

const noWaitAdvice = "WithReplicas needs WAIT: allow it to the user, " +
	"on a server that knows it and is the master, " +
	"or leave WithReplicas out"

const (
	prefix    = "warlock: "
	wrongType = "WRONGTYPE"
	noperm    = "allow the user " + commands + " on KEYS"
	commands  = "EVALSHA, EVAL, SET, GET, DEL, UNLINK, TIME, PTTL, PEXPIRE, " +
		"HSET, HGET, HDEL, HMGET, ZADD, ZCARD, ZCOUNT, ZRANGE, ZRANGEBYSCORE, " +
		"ZREVRANGEBYSCORE, ZRANK, ZREM and ZSCORE"
)

// KindOf returns the Kind of a request's error.
func KindOf(err error) Kind {
	switch {
	case err == nil || errors.Is(err, ErrNotHeld):
		return None
	case advice(err) != "":
		return Final
	case send.IsPanic(err):
		return Final
	case send.Lost(err) || mentions(err, passing...) || errors.As(err, new(momentary)):
		return Passing
	default:
		return Strange
	}
}

// Permanent reports whether err is Final: for example a closed client, a failed
// authentication, a denied command, or a key of another type.
func Permanent(err error) bool { return KindOf(err) == Final }

// Explain returns err as users see it: the operation, the key, the error and an
// advice. The result is an ErrUnavailable unless err is Final or one of
// warlock's own errors. doing names the operation.
func (l *Lock) Explain(doing string, err error) error {
	a := advice(err)
	switch {
	case send.IsPanic(err):
		return err // the caller panics again
	case strings.HasPrefix(err.Error(), prefix): // one of warlock's own errors
		return fmt.Errorf("%w (%s %s)", err, doing, Quote(l.Key()))
	case a != "":
		a = strings.ReplaceAll(a, "KEYS", l.names())
		return fmt.Errorf(prefix+"%s %s: %w (%s)", doing, Quote(l.Key()), err, a)
	}
	return unavailable{fmt.Errorf(prefix+"%s %s: %w", doing, Quote(l.Key()), err)}
}

// An unavailable error is an ErrUnavailable with a text of its own.
type unavailable struct{ error }

func (e unavailable) Unwrap() error        { return e.error }
func (e unavailable) Is(target error) bool { return target == ErrUnavailable }

// ExplainEnd returns the error that users see of a call whose context has
// ended. problem is the error of the last request to Redis, or nil. With a
// problem, the result is an ErrUnavailable too.
func (l *Lock) ExplainEnd(ctx context.Context, doing string, problem error) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != err {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	err = fmt.Errorf(prefix+"%s %s: %w", doing, Quote(l.Key()), err)
	if problem == nil {
		return err
	}
	return unavailable{fmt.Errorf("%w (the last try failed: %w)", err, problem)}
}

// names returns the keys of the lock as they stand in messages.
func (l *Lock) names() string {
	var quoted []string
	for _, key := range l.keys {
		quoted = append(quoted, Quote(key.(string)))
	}
	if l.votes {
		quoted = append(quoted, Quote(MemoryKey))
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " and " + quoted[last]
}

// advice returns what a user can do about a Final error, and "" for any other.
func advice(err error) string {
	if errors.Is(err, redis.ErrClosed) {
		return "keep the client open for as long as its locks are in use"
	}
	if errors.As(err, new(*noWait)) {
		return noWaitAdvice
	}
	if h := new(hopeless); errors.As(err, h) {
		return h.advice
	}
	for _, f := range final {
		if mentions(err, f.text) {
			return f.advice
		}
	}
	if errors.As(err, new(misdirected)) {
		return movedAdvice
	}
	return ""
}

// mentions reports whether err is a server's answer that contains one of texts.
func mentions(err error, texts ...string) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	answer := reply.Error()
	for _, text := range texts {
		if strings.Contains(answer, text) {
			return true
		}
	}
	return false
}

func isWrongType(err error) bool { return mentions(err, wrongType) }
