package protocol

import (
	"errors"
	"fmt"
	"strings"
)

// The keys of one lock hash to one slot. The lock's own key is the user's. The
// names of its 5 companions derive from it, for example that of the fence:
//
//	invoice:42         warlock:{invoice:42}:fence
//	invoice:{42}:lock  invoice:{42}:lock:warlock:fence
//
//  1. A key without a hash tag becomes the hash tag of its companions.
//  2. A key with a hash tag becomes the prefix of its companions.
//  3. The two forms never give the same name: the one ends in "}:fence", the
//     other in ":warlock:fence".
//  4. A key without a hash tag cannot be used if it contains '}', which would
//     end the tag of its companions early.
//
// The hash tag of a key is the text between the first '{' and the next '}'. If
// that text is empty, or there is none, the whole key is hashed.

const (
	tagged   = ":warlock"
	prefixed = "warlock:{"
)

// companions are the suffixes of the companions, in the order of KEYS in the
// scripts.
var companions = [keyCount - 1]string{":fence", ":queue", ":waiters", ":readers", ":deadlines"}

const keyCount = 6 // of a lock and its companions

// ErrBadKey says that a key or an id cannot be used for a lock.
var ErrBadKey = errors.New("warlock: unusable key")

// keys returns the names of the lock and its companions, in the order of KEYS
// in the scripts. It returns an ErrBadKey if the key cannot be used.
func keys(key string) (names [keyCount]string, err error) {
	if key == "" {
		return names, fmt.Errorf("%w: the key is empty: name what is to be locked", ErrBadKey)
	}
	if c := companionOf(key); c != "" {
		return names, fmt.Errorf("%w: the key %s is named as the %s of another lock: "+
			"choose another name", ErrBadKey, Quote(key), c[1:])
	}
	if key == MemoryKey {
		return names, fmt.Errorf("%w: %s is the key in which a server of a quorum notes what it "+
			"remembers: choose another name", ErrBadKey, Quote(key))
	}
	base := prefixed + key + "}"
	switch {
	case hasTag(key):
		base = key + tagged
	case strings.Contains(key, "}"):
		return names, fmt.Errorf("%w: the braces of key %s give it no usable hash tag: "+
			"put something between { and }, or use none", ErrBadKey, Quote(key))
	}
	names[0] = key
	companionNames(base, names[1:])
	return names, nil
}

// companionOf returns the suffix of the companion that key is named as, or "".
func companionOf(key string) string {
	for _, c := range companions {
		wrapped := strings.HasPrefix(key, prefixed) && strings.HasSuffix(key, "}"+c)
		if wrapped || strings.HasSuffix(key, tagged+c) {
			return c
		}
	}
	return ""
}

// CompanionPatterns returns patterns of Redis for the names of the fences and the
// queues of locks whose keys match pattern. A lock that is held has a fence, unless
// another program holds it, and one that is waited for has a queue.
func CompanionPatterns(pattern string) []string {
	return []string{prefixed + pattern + "}:[fq]*e", pattern + tagged + ":[fq]*e"}
}

// KeyOf returns the key of the lock whose fence or queue has that name, or "".
func KeyOf(name string) (key string) {
	base, ok := strings.CutSuffix(name, companions[0])
	if !ok {
		base, ok = strings.CutSuffix(name, companions[1])
	}
	if !ok {
		return ""
	}
	if key, ok = strings.CutSuffix(base, tagged); ok && hasTag(key) {
		return key
	}
	if key, ok = strings.CutPrefix(base, prefixed); ok && strings.HasSuffix(key, "}") {
		return key[:len(key)-1]
	}
	return ""
}

// companionNames sets names to those of the companions, which begin with base.
// They share one string, since there may be many locks.
func companionNames(base string, names []string) {
	var all strings.Builder
	all.Grow(len(companions) * (len(base) + len(":deadlines")))
	for _, c := range companions {
		all.WriteString(base)
		all.WriteString(c)
	}
	rest := all.String()
	for i, c := range companions {
		n := len(base) + len(c)
		names[i], rest = rest[:n], rest[n:]
	}
}

// hasTag reports whether key has a hash tag.
func hasTag(key string) bool { return tagOf(key) != key }

// tagOf returns what a cluster hashes of key: its hash tag, or all of it.
func tagOf(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	if end := strings.Index(rest, "}"); end > 0 {
		return rest[:end]
	}
	return key
}

// Quote returns key as it stands in messages: quoted, and cut after 128 bytes.
func Quote(key string) string {
	const longest = 128
	if len(key) <= longest {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("%q... (%d bytes)", key[:longest], len(key))
}
