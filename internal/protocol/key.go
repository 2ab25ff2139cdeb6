package protocol

import (
	"errors"
	"fmt"
	"strings"
)

// Names of the keys of one lock. All hash to the slot of the lock key, whose
// name is the user's and is not changed:
//
//	invoice:42         warlock:{invoice:42}:fence    no braces: the whole name is the tag
//	invoice:{42}:lock  invoice:{42}:lock:warlock:fence    a tag of its own: kept as it is
//
// and likewise for the queue, the waiters, the readers and the deadlines. The two forms cannot meet: one ends in
// "}:fence", the other in ":warlock:fence".
//
// Redis takes as the hash tag what stands between the first '{' and the next
// '}', if that is not empty, and the whole name otherwise. A name without a tag
// can be wrapped in one only if it holds no '}', which would end the tag early.

const (
	tagged   = ":warlock"
	prefixed = "warlock:{"
)

// companions are the keys beside the lock's own, in the order in which the
// scripts take them.
var companions = [keyCount - 1]string{":fence", ":queue", ":waiters", ":readers", ":deadlines"}

const keyCount = 6 // of a lock and its companions

// ErrBadKey says that a key, or an id, cannot be used for a lock.
var ErrBadKey = errors.New("warlock: unusable key")

// keys returns the names of the lock and its companions, or an error that is ErrBadKey.
func keys(key string) (names [keyCount]string, err error) {
	if key == "" {
		return names, fmt.Errorf("%w: the key is empty: name what is to be locked", ErrBadKey)
	}
	for _, c := range companions {
		if strings.HasSuffix(key, tagged+c) || strings.HasPrefix(key, prefixed) && strings.HasSuffix(key, "}"+c) {
			return names, fmt.Errorf("%w: the key %s is named as the %s of another lock: choose another name", ErrBadKey, Quote(key), c[1:])
		}
	}
	base := prefixed + key + "}"
	switch {
	case hasTag(key):
		base = key + tagged
	case strings.Contains(key, "}"):
		return names, fmt.Errorf("%w: the braces of key %s give it no usable hash tag: put something between { and }, or use none", ErrBadKey, Quote(key))
	}
	var all strings.Builder // one string for all of them: there may be many locks
	all.Grow(len(companions) * (len(base) + len(":deadlines")))
	names[0] = key
	for _, c := range companions {
		all.WriteString(base)
		all.WriteString(c)
	}
	rest := all.String()
	for i, c := range companions {
		n := len(base) + len(c)
		names[1+i], rest = rest[:n], rest[n:]
	}
	return names, nil
}

func hasTag(key string) bool {
	_, rest, ok := strings.Cut(key, "{")
	return ok && strings.Index(rest, "}") > 0
}

// Quote returns key as it stands in messages: quoted, and cut where it is long.
func Quote(key string) string {
	const most = 128
	if len(key) <= most {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("%q... (%d bytes)", key[:most], len(key))
}
