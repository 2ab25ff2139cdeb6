package protocol

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// permanent lists what no waiting can mend, by the code or words that stand in
// the error, and what can. A server wraps the errors of commands inside scripts
// in its own words, by version, so each is looked for anywhere in the text.
// KEYS in an advice stands for the names of the lock and its companions.
var permanent = []struct{ text, advice string }{
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
}

const (
	prefix    = "warlock: "
	wrongType = "WRONGTYPE"
	commands  = "EVALSHA, EVAL, SET, GET, DEL, TIME, PTTL, PEXPIRE, HSET, HGET, HDEL, ZADD, ZCARD, ZPOPMIN, ZRANGE, ZREM, ZREMRANGEBYSCORE and ZSCORE"
	noperm    = "allow the user " + commands + " on KEYS"
)

// Permanent reports whether err is one that no waiting can mend: a closed
// client, failed authentication, a denied command, a key of another type.
func Permanent(err error) bool {
	return advice(err) != ""
}

// Answered reports whether err is a server's answer: the request was refused,
// and nothing of it is under way.
func Answered(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// Lost reports whether err says that a request was not answered: it may have been
// carried out, or may yet be.
func Lost(err error) bool { return err != nil && !Answered(err) }

// Explain returns err as users see it: what was being done to which key, the
// error, and what can be done about it.
func (l *Lock) Explain(doing string, err error) error {
	if strings.HasPrefix(err.Error(), prefix) { // one of our conditions
		return fmt.Errorf("%w (%s %s)", err, doing, Quote(l.Key()))
	}
	a := advice(err)
	if a == "" {
		return fmt.Errorf(prefix+"%s %s: %w", doing, Quote(l.Key()), err)
	}
	a = strings.ReplaceAll(a, "KEYS", l.names())
	return fmt.Errorf(prefix+"%s %s: %w (%s)", doing, Quote(l.Key()), err, a)
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
	var reply redis.Error
	if !errors.As(err, &reply) {
		return ""
	}
	text := reply.Error()
	for _, p := range permanent {
		if strings.Contains(text, p.text) {
			return p.advice
		}
	}
	return ""
}

func isWrongType(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && strings.Contains(reply.Error(), wrongType)
}
