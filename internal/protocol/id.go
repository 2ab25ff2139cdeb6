package protocol

import (
	"strconv"
	"strings"
)

// The ID of a request, of a waiter and of a holder is
//
//	MAILBOX:NUMBER[FLAG][/LABEL]
//
//	MAILBOX  the name of a mailbox, a UUID
//	NUMBER   counts the IDs of the mailbox
//	FLAG     m: the client may not publish. r: the holder may retain the lock
//	LABEL    names the owner to people
//
// What stands before the label is unique. The scripts know the flags, and take the
// label for data. Programs that set a key by SET key id NX PX ttl have other IDs.

const (
	// Mute flags the IDs of a client that may not publish.
	Mute = 'm'

	retains = "r" // flags the holders that are told of others who ask for the lock
	label   = "/" // begins the label
)

// NewID returns the ID of a mailbox with that number. mute says that the client may not
// publish. The label ends the ID.
func NewID(mailbox string, number uint64, mute bool, label string) string {
	text := append(make([]byte, 0, 96), mailbox...)
	text = strconv.AppendUint(append(text, ':'), number, 10)
	if mute {
		text = append(text, Mute)
	}
	return string(append(text, label...))
}

// Retaining returns id, which has not been used yet, as one of a holder that may
// keep the lock while no goroutine uses it.
func Retaining(id string) string { return flagged(id, retains) }

// Former returns an ID that holds nothing, for a hold whose ID another hold has.
func Former(id string, fence int64) string {
	return flagged(id, "."+strconv.FormatInt(fence, 10))
}

func flagged(id, flag string) string {
	unique, rest, labelled := strings.Cut(id, label)
	if !labelled {
		return unique + flag
	}
	return unique + flag + label + rest
}

// Retains reports whether Retaining returned id.
func Retains(id string) bool {
	unique, _, _ := strings.Cut(id, label)
	return strings.HasSuffix(unique, retains)
}

// MaxOwner is the longest owner, in bytes.
const MaxOwner = 64

// IsOwner reports whether owner can be the owner of a lock: it is not longer than
// MaxOwner, and has only ASCII characters that can be printed.
func IsOwner(owner string) bool {
	for _, c := range []byte(owner) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return len(owner) <= MaxOwner
}

// Spaces separate the parts of a notice, so a label has none.
var (
	escape   = strings.NewReplacer("%", "%25", " ", "%20")
	unescape = strings.NewReplacer("%25", "%", "%20", " ")
)

// Label returns how the IDs of an owner end.
func Label(owner string) string {
	if owner == "" {
		return ""
	}
	return label + escape.Replace(owner)
}

// OwnerOf returns the owner that id names. It returns "" if it names none, or if
// this library has not made it.
func OwnerOf(id string) string {
	unique, rest, _ := strings.Cut(id, label)
	owner := unescape.Replace(rest)
	if !isUnique(unique) || !IsOwner(owner) {
		return ""
	}
	return owner
}

// isUnique reports whether text is what stands before the label in an ID of this
// library.
func isUnique(text string) bool {
	const uuidLength = 36
	if len(text) < uuidLength+2 || text[uuidLength] != ':' {
		return false
	}
	for i, c := range []byte(text[:uuidLength]) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		hex := '0' <= c && c <= '9' || 'a' <= c && c <= 'f'
		if hyphen != (c == '-') || !hyphen && !hex {
			return false
		}
	}
	number := strings.TrimRight(text[uuidLength+1:], retains+string(Mute))
	_, err := strconv.ParseUint(number, 10, 64)
	return err == nil
}
