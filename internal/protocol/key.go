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
// and likewise for the queue, the waiters and the readers. The two forms cannot meet: one ends in
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
var companions = []string{":fence", ":queue", ":waiters", ":readers"}

// keys returns the names of the lock and its companions.
func keys(key string) ([]string, error) {
	if key == "" {
		return nil, errors.New("warlock: the key is empty: name what is to be locked")
	}
	for _, c := range companions {
		if strings.HasSuffix(key, tagged+c) || strings.HasPrefix(key, prefixed) && strings.HasSuffix(key, "}"+c) {
			return nil, fmt.Errorf("warlock: the key %s is named as the %s of another lock: choose another name", Quote(key), c[1:])
		}
	}
	base := prefixed + key + "}"
	switch {
	case hasTag(key):
		base = key + tagged
	case strings.Contains(key, "}"):
		return nil, fmt.Errorf("warlock: the braces of key %s give it no usable hash tag: put something between { and }, or use none", Quote(key))
	}
	names := []string{key}
	for _, c := range companions {
		names = append(names, base+c)
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
