package protocol

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/warlock-go/warlock/internal/send"
)

// ErrUnavailable says that Redis could not be reached, or was in trouble, when it was
// last asked.
var ErrUnavailable = errors.New("warlock: Redis is unavailable")

// A Kind is what can be done about an error.
type Kind int

const (
	None    Kind = iota // there is no error, or the answer is no
	Passing             // it is waited out: no server answered, or one that is known to recover
	Final               // no waiting can mend it
	Strange             // a server's answer that is not known: final if it lasts
)

// final lists what no waiting can mend, by the code or words that stand in
// the error, and what can. A server wraps the errors of commands inside scripts
// in its own words, by version, so each is looked for anywhere in the text.
// KEYS in an advice stands for the names of the lock and its companions.
var final = []struct{ text, advice string }{
	{"NOAUTH", "give the client a username and password"},
	{"unauthenticated multibulk length", "give the client a username and password"}, // before it reads on to NOAUTH
	{"WRONGPASS", "check the client's username and password"},
	{"invalid password", "check the client's username and password"},
	{"invalid username-password pair", "check the client's username and password"},
	{"without any password configured", "the server has no password: give the client none"},
	{"NOPERM", noperm},
	{"The user executing the script", noperm},
	{"ACL failure in script", noperm},
	{wrongType, "one of KEYS holds a value that is no lock's: lock under another key, or delete that value"},
	{"CROSSSLOT", "KEYS must share a hash slot"},
	{"unknown command", "the server must offer " + commands},
	{"unknown Redis command", "the server must offer, also to scripts, " + commands},
	{"Unknown Redis command", "the server must offer, also to scripts, " + commands},
	{"DENIED", "the server is in protected mode: give it a password or a bind address"},
	{"DB index is out of range", "give the client a DB that the server has"},
	{"SELECT is not allowed in cluster mode", "a cluster has DB 0 only: give the client no DB"},
	{"bad lua script", "there is a proxy that takes no scripts of several keys: connect to the server itself"},
}

// passing lists the answers of a server that will recover, by code or words.
var passing = []string{
	"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "NOREPLICAS",
	"max number of clients", "NOSCRIPT", "MOVED ", "ASK ",
}

// A misdirected error is MOVED, as a client of one server gets it: it will not follow.
type misdirected struct{ error }

func (e misdirected) Unwrap() error { return e.error }

const movedAdvice = "the server is a cluster's: use a redis.ClusterClient, or more than one address with NewUniversalClient"

const (
	prefix    = "warlock: "
	wrongType = "WRONGTYPE"
	commands  = "EVALSHA, EVAL, SET, GET, DEL, UNLINK, TIME, PTTL, PEXPIRE, HSET, HGET, HDEL, ZADD, ZCARD, ZRANGE, ZRANGEBYSCORE, ZRANK, ZREM and ZSCORE"
	noperm    = "allow the user " + commands + " on KEYS"
)

// KindOf returns what can be done about an error of a request.
func KindOf(err error) Kind {
	switch {
	case err == nil || errors.Is(err, ErrNotHeld):
		return None
	case advice(err) != "":
		return Final
	case send.IsPanic(err):
		return Final
	case send.Lost(err) || mentions(err, passing...):
		return Passing
	default:
		return Strange
	}
}

// Permanent reports whether err is one that no waiting can mend: a closed
// client, failed authentication, a denied command, a key of another type.
func Permanent(err error) bool { return KindOf(err) == Final }

// Explain returns err as users see it: what was being done to which key, the
// error, and what can be done about it. What is not final is ErrUnavailable.
func (l *Lock) Explain(doing string, err error) error {
	a := advice(err)
	switch {
	case send.IsPanic(err):
		return err // not for users: it goes on as a panic
	case strings.HasPrefix(err.Error(), prefix): // one of our conditions
		return fmt.Errorf("%w (%s %s)", err, doing, Quote(l.Key()))
	case a != "":
		a = strings.ReplaceAll(a, "KEYS", l.names())
		return fmt.Errorf(prefix+"%s %s: %w (%s)", doing, Quote(l.Key()), err, a)
	}
	return unavailable{fmt.Errorf(prefix+"%s %s: %w", doing, Quote(l.Key()), err)}
}

// An unavailable error is ErrUnavailable, in words of its own.
type unavailable struct{ error }

func (e unavailable) Unwrap() error        { return e.error }
func (e unavailable) Is(target error) bool { return target == ErrUnavailable }

// ExplainEnd returns what users see of a call that ended with its context. problem is what was
// wrong with Redis when it was last asked, or nil.
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
	quoted := make([]string, keyCount)
	for i, key := range l.keys {
		quoted[i] = Quote(key.(string))
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " and " + quoted[last]
}

func advice(err error) string {
	if errors.Is(err, redis.ErrClosed) {
		return "keep the client open for as long as its locks are in use"
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

// mentions reports whether err is a server's answer with one of texts in it.
func mentions(err error, texts ...string) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	said := reply.Error()
	for _, text := range texts {
		if strings.Contains(said, text) {
			return true
		}
	}
	return false
}

func isWrongType(err error) bool { return mentions(err, wrongType) }
